"""Runs read from their folders: whole ones, unfinished ones, and those that others have written or broken."""

import json
from pathlib import Path

import pytest
from support.told_runs import write_run

from overhaul.report.runs import find, read
from overhaul.system.messages import UserError


def test_a_run_that_was_trained_is_read(finished):
    told = read(finished.folder)
    assert told.metrics == finished.metrics and told.finished and not told.warnings
    assert (told.setup, told.method, told.seed, told.epochs) == ("digits", "overhaul", 0, 2)
    assert (told.final, told.best) == (finished.final, finished.best)
    assert told.config["output_dir"] == str(finished.folder)
    assert told.seconds == pytest.approx(sum(line["seconds"] for line in finished.metrics))


def test_a_written_run_has_the_keys_of_one_that_was_trained(finished, tmp_path):
    mine, real = read(write_run(tmp_path, "digits", "overhaul", epochs=2)), read(finished.folder)
    assert mine.record.keys() == real.record.keys() and mine.config.keys() == real.config.keys()
    for part in ("data", "recipe", "run", "student", "teacher"):
        assert mine.record[part].keys() == real.record[part].keys(), part
    assert mine.metrics[0].keys() == real.metrics[0].keys()


def test_images_a_second_are_those_of_all_epochs_together(tmp_path):
    told = read(write_run(tmp_path, epochs=2))
    told.metrics[0] |= {"images_per_second": 100.0, "seconds": 30.0}
    told.metrics[1] |= {"images_per_second": 300.0, "seconds": 10.0}
    assert (told.images_per_second, told.seconds) == (6000 / 40, 40)
    del told.metrics[1]["seconds"]
    assert told.images_per_second is told.seconds is None


def test_runs_are_found_up_to_three_folders_deep(tmp_path):
    runs = [write_run(tmp_path / inner, seed=seed) for seed, inner in enumerate((".", "a", "a/b", "a/b/c"))]
    assert find(runs[0]) == [runs[0]]
    assert sorted(find(tmp_path)) == sorted(runs[:3]) and find(tmp_path / "a" / "b") == [runs[3], runs[2]]
    (tmp_path / "empty").mkdir()
    assert find(tmp_path / "empty") == []
    with pytest.raises(UserError, match="no such folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        find("a\0b")


def test_an_unfinished_run_is_no_finished_one(tmp_path):
    told = read(write_run(tmp_path, epochs=8, done=3))
    assert len(told.metrics) == 3 and not told.finished and told.final["epoch"] == 3
    begun = read(write_run(tmp_path, epochs=8, done=0, seed=1))
    assert (begun.metrics, begun.final, begun.best, begun.finished, begun.seconds) == ([], None, None, False, None)


def test_record_and_metrics_suffice(tmp_path):
    run = write_run(tmp_path)
    whole = read(run)
    (run / "config.yaml").unlink()
    assert read(run).record == whole.record and read(run).config == {}


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    run = write_run(tmp_path, epochs=3)
    file = run / "metrics.jsonl"
    file.write_text(file.read_text()[:-20])
    told = read(run)
    assert [line["epoch"] for line in told.metrics] == [1, 2] and not told.finished
    (warning,) = told.warnings
    assert "cut off" in warning


def replaced(file: str, old: str, new: str):
    def change(run: Path) -> None:
        text = (run / file).read_text()
        assert old in text
        (run / file).write_text(text.replace(old, new))

    return change


def written(file: str, content: bytes):
    return lambda run: (run / file).write_bytes(content)


BROKEN = {
    "no record": lambda run: (run / "overhaul.json").unlink(),
    "record empty": written("overhaul.json", b""),
    "record cut off": written("overhaul.json", b'{"setup": "cifar_c", "meth'),
    "record is a list": written("overhaul.json", b"[1, 2]"),
    "record is no text": written("overhaul.json", b"\xff\xfe\x00"),
    "record nested without end": written("overhaul.json", b"[" * 100_000),
    "record nested deeply": written("overhaul.json", b'{"setup": ' + b"[" * 50 + b"]" * 50 + b"}"),
    "record of another tool": written("overhaul.json", b'{"model": "x"}'),
    "recipe is a text": replaced("overhaul.json", '"recipe": {', '"recipe": "all", "other": {'),
    "epochs are a text": replaced("overhaul.json", '"epochs": 8', '"epochs": "8"'),
    "no epochs": replaced("overhaul.json", '"epochs": 8', '"epochs": 0'),
    "seed is true": replaced("overhaul.json", '"seed": 0', '"seed": true'),
    "setup is a number": replaced("overhaul.json", '"setup": "cifar_c"', '"setup": 7'),
    "teacher is a text": lambda run: (run / "overhaul.json").write_text(
        json.dumps(json.loads((run / "overhaul.json").read_text()) | {"teacher": "wrn"})
    ),
    "line is a number": replaced("metrics.jsonl", '{"epoch": 1,', '7\n{"epoch": 1,'),
    "line in the middle is cut off": replaced("metrics.jsonl", '{"epoch": 2,', '{"epo\n{"epoch": 2,'),
    "epoch twice": replaced("metrics.jsonl", '"epoch": 2', '"epoch": 1'),
    "accuracy is not a number": replaced("metrics.jsonl", '"test_top1"', '"test_top1": NaN, "was"'),
    "accuracy above 100": replaced("metrics.jsonl", '"test_top1"', '"test_top1": 101, "was"'),
    "loss is infinite": replaced("metrics.jsonl", '"loss"', '"loss": 1e999, "was"'),
    "more epochs than asked for": replaced("overhaul.json", '"epochs": 8', '"epochs": 7'),
    "metrics are a folder": lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_one_line_that_names_it(name, tmp_path):
    run = write_run(tmp_path, name="my\u202erun\x1b[2J")
    BROKEN[name](run)
    with pytest.raises(UserError) as error:
        read(run)
    assert "is left out: " in str(error.value) and "my" in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_broken_configuration_counts_for_nothing(tmp_path):
    run = write_run(tmp_path)
    assert read(run).config["method"] == "kd"
    for broken in ("a: [", "- 1", "\x00", "x: " + "[" * 5000):
        (run / "config.yaml").write_text(broken)
        assert read(run).config == {}
