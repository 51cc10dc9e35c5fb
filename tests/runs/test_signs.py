"""What a log shows while a run or a preparation goes on, without a terminal."""

import pytest
from support.images import some_split, write_parquet
from support.runs import command, student_of, teaching

import overhaul
from overhaul.system import signs


@pytest.fixture(autouse=True)
def every_time(monkeypatch):
    """A line a minute is a line each time."""
    monkeypatch.setattr(signs, "EVERY", 0)


def test_a_log_gets_steps_losses_speed_and_time_left_unless_quiet(tmp_path):
    told = command("train", *teaching("--output_dir", tmp_path / "run"))
    (line,) = (line for line in told.out.splitlines() if line.startswith("epoch 1/1: step 9/22, "))
    assert all(words in line for words in ("loss ", "top-1 ", " images/s, ", " left in all")) and told.err == ""
    assert "test: images 250/360, " in told.out and "test: images 360/360, " in told.out
    quiet = command("train", *teaching("--output_dir", tmp_path / "quiet", "--quiet"))
    lines = [line for line in told.out.splitlines() if ": step " not in line and ": images " not in line]
    assert [line.split()[0] for line in quiet.out.splitlines()] == [line.split()[0] for line in lines]
    assert student_of(tmp_path / "run") == student_of(tmp_path / "quiet")
    assert command("train", *teaching("--output_dir", tmp_path / "run", "--quiet")).status == 0, "the same run"


def test_a_preparation_tells_how_far_it_is_unless_quiet_or_called_from_python(tmp_path, capfd):
    path = write_parquet(tmp_path / "set", train=some_split(20), test=some_split(5))
    told = command("prepare", "--data", path, "--out", tmp_path / "told")
    assert told.status == 0
    assert "prepare: images 25/25, 0 s left" in told.err
    assert command("prepare", "--data", path, "--out", tmp_path / "quiet", "--quiet").err == ""
    capfd.readouterr()
    overhaul.prepare(data=str(path), out=str(tmp_path / "python"))
    assert capfd.readouterr() == ("", "")
