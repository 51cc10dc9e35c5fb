"""What is shown is not worth a run: stdout and stderr may go away, fill up or lack letters."""

import os
import subprocess
import sys

import pytest
from support.runs import teaching

COMMAND = (sys.executable, "-m", "overhaul")
FULL = "/dev/full"


def ended(*argv, **how) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, argv)], stdin=subprocess.DEVNULL, **how)


def without_reader() -> int:
    """The end of a pipe that is written to, whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("place", ["a pipe that nobody reads", "a full disk"])
def test_a_run_outlives_its_streams(tmp_path, place):
    if place == "a full disk" and not os.path.exists(FULL):
        pytest.skip(f"needs {FULL}")
    out = os.open(FULL, os.O_WRONLY) if place == "a full disk" else without_reader()
    try:
        assert ended("train", *teaching("--output_dir", tmp_path / "run"), stdout=out, stderr=out).returncode == 0
    finally:
        os.close(out)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("words", [("setups",), ("train", "--setup", "digits", "--print_config")], ids=" ".join)
def test_a_result_that_cannot_be_written_is_no_success(words):
    writer = without_reader()
    left = ended(*words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (left.returncode, left.stderr) == (141, ""), "as a tool that SIGPIPE ends, quietly"
    if os.path.exists(FULL):
        with open(FULL, "w") as full:
            lost = ended(*words, stdout=full, stderr=subprocess.PIPE, text=True)
        assert lost.returncode == 1 and lost.stderr.count("\n") == 1 and "cannot be written to stdout" in lost.stderr


def test_a_folder_that_is_gone_is_one_line():
    command = [sys.executable, "-m", "overhaul", "train", *teaching("--dry_run")]
    gone = 'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$@"'
    said = subprocess.run(["bash", "-c", gone, "_", *map(str, command)], capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr.startswith("overhaul: the current folder is there no more")
    assert said.stderr.count("\n") == 1


def test_letters_that_a_stream_lacks_are_escaped():
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    said = ended("setups", "é", env=ascii_only, capture_output=True, text=True)
    assert said.returncode == 2 and "\\xe9" in said.stderr and said.stderr.count("\n") == 1


def test_a_fault_keeps_its_traceback_and_says_where_the_run_stands(tmp_path, digits_teacher):
    """The run of the fixture stands for one that a fault has ended."""
    break_it = "from overhaul.training import trainer; trainer.train = lambda *_: 1 / 0"
    words = ["train", *teaching("--output_dir", digits_teacher)]
    program = f"{break_it}; from overhaul.cli.main import command; command({[str(word) for word in words]})"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.returncode == 1 and "ZeroDivisionError" in said.stderr
    last = said.stderr.splitlines()[-1]
    assert f"nothing is lost: {digits_teacher} has epoch-0002; the same command goes on" in last
