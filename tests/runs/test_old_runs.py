"""Runs of earlier releases go on, and their students load."""

import json
import shutil
from pathlib import Path

import torch
from support.places import TESTS

from overhaul.run.state import State

OLD = TESTS / "support" / "run_of_0.1.0"  # an epoch of the digits, as 0.1.0 wrote it
NET = ["--student.family", "pyramidnet", "--student.kwargs", '{"depth": 8, "alpha": 6, "bottleneck": false}']
COMMAND = ["train", "--setup", "digits_teacher", *NET, "--image_size", "16", "--batch_size", "128", "--epochs", "1"]


def without(name: str, checkpoint: Path) -> None:
    """Take a field out of a checkpoint's state, as if a release had written it that did not know the field."""
    import hashlib

    file, manifest = checkpoint / "custom_checkpoint_0.pkl", checkpoint / "manifest.json"
    state = torch.load(file)
    del state[name]
    torch.save(state, file)
    sums = json.loads(manifest.read_text())
    content = file.read_bytes()
    sums["files"][file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(sums))


def test_a_run_of_an_earlier_release_goes_on(overhaul, tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    result = overhaul(*COMMAND, "--output_dir", tmp_path / "run", "--resume_with", "epochs=2")
    assert result.status == 0 and "resumed after epoch 1" in result.out and "epoch   2/2" in result.out, result.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == json.loads((OLD / "metrics.jsonl").read_text()) and lines[1]["loss"] < lines[0]["loss"]


def test_a_state_without_a_field_that_came_later_goes_on_with_its_default(overhaul, tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    without("lengths", tmp_path / "run" / "checkpoints" / "epoch-0001")
    result = overhaul(*COMMAND, "--output_dir", tmp_path / "run")
    assert result.status == 0 and "resumed after epoch 1" in result.out, result.err
    record = json.loads((tmp_path / "run" / "overhaul.json").read_text())
    assert record["changes_of_length"] == []


def test_a_state_takes_over_what_it_knows_and_nothing_else():
    state = State(step=3, processes=4)
    state.load_state_dict({"step": 5, "invented": 1})
    assert (state.step, state.processes, hasattr(state, "invented")) == (5, 4, False)
