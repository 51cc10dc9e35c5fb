"""launch/gpu_day.sh from its first command to its last, on the digits and without a GPU."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import REPOSITORY, TESTS

from overhaul.run import checkpoints

EPOCHS = 12


@pytest.mark.slow
def test_the_day_goes_on_where_it_was_stopped(few_digits, tmp_path):
    """Cut off by its limit, told to stop amid two trainings, and at last done. Most of the tests are noted as done."""
    results = tmp_path / "results"
    (results / "done").mkdir(parents=True)
    for file in (*TESTS.glob("test_gpu_*.py"), Path("speed")):
        (results / "done" / file.stem).touch()
    small = ["--mixed_precision", "no", "--image_size", "16", "--batch_size", "16", "--epochs", str(EPOCHS)]
    command = ["bash", REPOSITORY / "launch" / "gpu_day.sh", few_digits, results, "--setup", "digits"]
    command += ["--teacher_setup", "digits_teacher"]
    environment = {**os.environ, "VIRTUAL_ENV": str(Path(sys.executable).parent.parent)}

    def start(*more) -> subprocess.Popen:
        return subprocess.Popen([*command, *more, *small], env=environment, stdout=subprocess.PIPE, text=True)

    cut = start("--seconds", "1")
    assert cut.wait(60) == 85 and "the same command goes on" in cut.stdout.read()
    assert not (results / "done" / "software").exists()
    told, pair = start(), [results / "teacher", results / "original"]
    while not all(checkpoints.found(folder) for folder in pair):
        assert told.poll() is None, told.stdout.read()
        time.sleep(0.01)
    told.send_signal(signal.SIGTERM)
    assert told.wait(60) == 85
    assert {"software", "test_gpu"} <= {path.name for path in (results / "done").iterdir()}
    assert not (results / "done" / "teacher").exists() and not (results / "seed0").exists()
    done = start()
    said, _ = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert "skipped" in (results / "test_gpu.log").read_text()
    for name in ("teacher", "original", "seed0", "seed1"):
        log = (results / f"{name}.log").read_text()
        assert f"epoch  {EPOCHS}/{EPOCHS}" in log and ("resumed after" in log) == (name in ("teacher", "original")), log
        assert (results / name / "final" / "model.safetensors").exists()
    assert f"the day is done: {results}" in said and "points" in (results / "seed0.log").read_text()
    again = start()
    assert again.wait(60) == 0 and not re.search(r"^\d+ s: ", again.stdout.read(), re.MULTILINE)
