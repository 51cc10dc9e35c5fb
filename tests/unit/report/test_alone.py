"""The gain or loss over the student alone, said at the end of a distilled run."""

import pytest
from support.told_runs import write_run

from overhaul.report.alone import gained


def test_a_gain_and_a_loss_are_told_beside_the_run_of_the_student_alone(tmp_path):
    mine = write_run(tmp_path, seed=1, epochs=2, top1=[61.5, 60.0])
    alone = write_run(tmp_path, method="original", seed=1, epochs=2, top1=[57.5, 61.0])
    final, best = gained(mine).removeprefix("distillation: the top-1 error is ").split(" (final; the best is ")
    assert final == f"1.00 points higher than the student alone in {alone}"
    assert best == "0.50 points lower than its best); one seed says little"


OTHERS = {
    "another seed": {"seed": 0},
    "another recipe": {"lr": 0.05},
    "other data": {"record": {"data": {"training_images": "others"}}},
    "unfinished": {"done": 3},
    "distilled too": {"method": "at"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_beside_it_is_no_baseline(name, tmp_path):
    mine = write_run(tmp_path, seed=1)
    write_run(tmp_path, **{"method": "original", "seed": 1, **OTHERS[name]})
    assert gained(mine) is None


def test_broken_runs_beside_it_and_a_missing_one_are_no_matter(tmp_path):
    mine = write_run(tmp_path)
    (write_run(tmp_path, method="original", name="a-original") / "metrics.jsonl").write_text("{")
    (write_run(tmp_path, method="original", name="b-original") / "overhaul.json").write_bytes(b"\xff")
    assert gained(mine) is None and gained(mine, str(tmp_path / "nowhere")) is None
    write_run(tmp_path, method="original", top1=50)
    assert "10.00 points lower" in gained(mine)


def test_an_equal_error_is_no_gain(tmp_path):
    mine = write_run(tmp_path)
    write_run(tmp_path, method="original")
    assert "error is that of the student alone" in gained(mine)


def test_the_student_alone_has_gained_nothing(tmp_path):
    assert gained(write_run(tmp_path, method="original")) is None


def test_beside_names_the_run_wherever_it_lies(tmp_path):
    mine, alone = write_run(tmp_path / "a"), write_run(tmp_path / "b", method="original", top1=59.995)
    assert gained(mine) is None
    line = gained(mine, str(alone))
    assert str(alone) in line and "is 0.00 points lower than" in line


def test_the_last_lines_of_a_distilled_run_say_it(overhaul, digits_teacher, few_digits, tmp_path):
    data = ["--data_path", few_digits]
    for method in ("original", "kd"):
        teacher = ["--teacher", digits_teacher] if method == "kd" else []
        flags = ["--setup", "digits", "--image_size", 16, "--epochs", 1, "--method", method, *data, *teacher]
        result = overhaul("train", *flags, "--output_dir", tmp_path / method, "--quiet")
        assert result.status == 0, result.err
        assert ("distillation: the top-1 error is " in result.out) == (method == "kd")
    assert f"the student alone in {tmp_path}/original (final" in result.out.splitlines()[-1]
