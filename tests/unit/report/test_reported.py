"""overhaul report: real runs, students on the Hub, and what is broken told in a line each beside the rest."""

import json

import pytest
from support.hub_client import Client
from support.hub_server import LocalHub
from support.runs import refused
from support.told_runs import write_run

import overhaul as package
from overhaul.system.messages import UserError


def test_runs_that_were_trained_are_reported(overhaul, finished, two, tmp_path):
    result = overhaul("report", finished.folder, two.folder, "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    assert {"report.csv", "report.json", "report.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    labels = [each["label"] for each in found["groups"]]
    assert labels == ["digits overhaul epochs=2", "digits overhaul epochs=3"] and all(map(result.out.count, labels))
    assert found["groups"][0]["final"]["mean"] == pytest.approx(100 - finished.final["test_top1"])
    assert (
        found["groups"][0]["parameters"] == 77850 and found["groups"][0]["teacher_error"] == 100 - finished.teacher_top1
    )


def test_a_report_lies_in_the_folder_that_is_reported_and_is_written_anew(overhaul, tmp_path):
    write_run(tmp_path / "runs", seed=0)
    first = overhaul("report", tmp_path / "runs")
    write_run(tmp_path / "runs", seed=1)
    second = overhaul("report", tmp_path / "runs", tmp_path / "runs" / "cifar_c-kd-seed0", "--json")
    assert (first.status, second.status, second.err) == (0, 0, "")
    found = json.loads(second.out)
    assert [each["n"] for each in found["groups"]] == [2] and found["folder"] == str(tmp_path / "runs" / "report")
    assert "cifar_c kd" in (tmp_path / "runs" / "report" / "report.md").read_text()


def test_from_python_nothing_is_printed(tmp_path, capsys):
    write_run(tmp_path, done=3)
    (write_run(tmp_path, seed=1) / "overhaul.json").write_text("{")
    found = package.report(str(tmp_path))
    assert len(found["warnings"]) == 1 and capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match="needs the folder of a run"):
        package.report([])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with a student of a run, one without a record and one whose metrics are broken."""
    root = tmp_path_factory.mktemp("hub")
    for repo, missing in (("ann/student", None), ("ann/bare", "overhaul.json"), ("ann/broken", None)):
        run = write_run(root / repo.partition("/")[0], name=repo.partition("/")[2], seed=5)
        (run / "config.yaml").unlink()
        if missing:
            (run / missing).unlink()
    (root / "ann" / "broken" / "metrics.jsonl").write_text("7\n8\n")
    with LocalHub(root) as hub:
        yield hub


def test_a_student_on_the_hub_is_reported_beside_local_runs(hub, tmp_path):
    write_run(tmp_path / "runs", seed=0)
    ask = Client(hub, tmp_path / "home", folder=tmp_path)
    words = ["ann/bare", "ann/broken", "ann/nobody", "ann/student@v1", "runs", "--out", "out", "--json"]
    (result,) = ask(["report", *words])
    assert result.status == 0, result.err
    (group,) = json.loads(result.out)["groups"]
    assert group["seeds"] == [0, 5] and [run["name"] for run in group["runs"]] == ["cifar_c-kd-seed0", "ann/student@v1"]
    lines = result.err.splitlines()
    assert len(lines) == 3 and all(word in line for word, line in zip(words, lines, strict=False))
    (alone,) = ask(["report", "ann/bare"])
    refused(alone, "ann/bare", "overhaul.json")
    assert not (tmp_path / "report").exists()


def spoilt(file: str, content: str | bytes):
    def make(folder) -> None:
        run = write_run(folder, seed=7, name="bad")
        (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def record(**changes):
    return lambda folder: write_run(folder, seed=7, name="bad", record=changes)


BAD = {  # what lies beside a good run, and what its line says
    "no such path": (None, "there is no such folder"),
    "a file": (lambda folder: (folder / "bad").write_text("x"), "is a file"),
    "an empty folder": (lambda folder: (folder / "bad").mkdir(), "holds no run"),
    "begun, without a record": (
        lambda folder: (write_run(folder, name="bad") / "overhaul.json").unlink(),
        "no overhaul",
    ),
    "a record half-written": (spoilt("overhaul.json", '{"setup": "cifar_c", "rec'), "is no JSON"),
    "an empty record": (spoilt("overhaul.json", ""), "is no JSON"),
    "a record of bytes": (spoilt("overhaul.json", b"\xff\x00"), "is no text"),
    "a record of another version": (spoilt("overhaul.json", '{"net": "wrn"}'), "another version"),
    "a record without epochs": (record(recipe={"epochs": None}), "another version"),
    "a seed that is a text": (record(run={"seed": "7\x1b[2J"}), "another version"),
    "a teacher that is a list": (record(teacher=[]), "something else than a teacher"),
    "a metric half-written in the middle": (
        spoilt("metrics.jsonl", '{"epoch": 1\n{"epoch": 2}\n'),
        "line 1 of metrics",
    ),
    "a metric that is not a number": (spoilt("metrics.jsonl", '{"epoch": 1, "test_top1": NaN}\n'), "of epoch 1"),
    "epochs out of order": (spoilt("metrics.jsonl", '{"epoch": 2, "test_top1": 1.0}\n'), "of epoch 1"),
    "a last line cut off": (spoilt("metrics.jsonl", '{"epoch": 1, "test_top1": 50.0}\n{"epo'), "cut off"),
    "more epochs than the recipe": (record(recipe={"epochs": 2}), "has 8 epochs, and the recipe 2"),
    "a second run of one seed": (lambda folder: write_run(folder, name="bad"), "same recipe and seed 0"),
    "a metric file that is a folder": (
        lambda folder: (
            ((run := write_run(folder, name="bad", seed=7)) / "metrics.jsonl").unlink()
            or (run / "metrics.jsonl").mkdir()
        ),
        "cannot be read",
    ),
    "nested without end": (spoilt("overhaul.json", "[" * 10_000), "is no JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_broken_is_one_line_and_the_rest_is_reported(name, overhaul, tmp_path):
    make, says = BAD[name]
    write_run(tmp_path, name="good", seed=0)
    if make:
        make(tmp_path)
    result = overhaul("report", tmp_path / "good", tmp_path / "bad", "--out", tmp_path / "out", "--json")
    assert result.status == 0
    (line,) = result.err.split("\n")[:-1]
    assert line.startswith("overhaul: ") and says in line and "bad" in line and line.isprintable()
    good = [run for group in json.loads(result.out)["groups"] for run in group["runs"] if run["name"] == "good"]
    assert [run["final"] for run in good] == [40.0]


@pytest.mark.parametrize("name", sorted({*BAD} - {"a last line cut off", "a second run of one seed"}))
def test_what_is_broken_by_itself_ends_with_status_2(name, overhaul, tmp_path):
    if make := BAD[name][0]:
        make(tmp_path)
    refused(
        overhaul("report", tmp_path / "bad", "--out", tmp_path / "out"), "there is nothing to report: ", BAD[name][1]
    )
    assert not (tmp_path / "out").exists()


def test_runs_of_other_data_under_one_name_are_no_group(overhaul, tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, record={"data": {"training_images": "others"}})
    found = json.loads(overhaul("report", tmp_path, "--json").out)
    assert [(each["n"], "training_images" in each["label"]) for each in found["groups"]] == [(1, True), (1, True)]


def test_without_paths_or_a_place_to_write_it_is_one_line(overhaul, tmp_path):
    refused(overhaul("report"), "report needs paths")
    (tmp_path / "file").write_text("x")
    refused(overhaul("report", write_run(tmp_path), "--out", tmp_path / "file"), "cannot be written to", "--out")
    result = overhaul("report", tmp_path / "file", tmp_path / "nowhere")
    assert result.status == 2 and "is a file" in result.err.splitlines()[0]
    assert "there is nothing to report" in result.err.splitlines()[-1]
