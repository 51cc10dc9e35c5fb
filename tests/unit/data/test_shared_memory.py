"""Workers hand batches over in shared memory, of which a container may have little."""

import os
import shutil
import subprocess
import sys

import pytest
from support.places import REPOSITORY

SCRIPT = """
import numpy as np
import torch
from overhaul.data.images import Images
from overhaul.data.loaders import EvalLoader
from overhaul.data.workers import load_batches, work_pinned

class Batches(torch.utils.data.Dataset):
    def shape(self, drawn):
        return 500, 64, 64, 3
    def __getitem__(self, drawn):
        return torch.zeros(500, 64, 64, 3, dtype=torch.uint8), torch.zeros(500), []

class Streamed(torch.utils.data.IterableDataset):
    nbytes = 500 * 64 * 64 * 3
    def __iter__(self):
        yield *Batches()[0][:2], []

for batches in (lambda w: load_batches(Batches(), [0, 1], w), lambda w: work_pinned(Streamed(), w, False)):
    assert len(list(batches(0))) > 0, "a process that decodes by itself needs none"
    try:
        list(batches(2))
    except ValueError as error:
        print(error)
try:  # before an epoch is trained
    EvalLoader(Images(np.zeros((500, 64, 64, 3), np.uint8), np.zeros(500, np.int64), ("a",)), 500, workers=2)
except ValueError as error:
    print(error)
"""


def test_too_little_shared_memory_is_told_in_a_line_with_the_bytes_needed():
    """In a process that sees a small /dev/shm of its own."""
    small = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "bash", "-c", small, "bash", "true"], capture_output=True).returncode
    ):
        pytest.skip("needs to mount a file system")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", small, "bash", sys.executable, "-c", SCRIPT],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    needed = 5 * 500 * 64 * 64 * 3 + 2**20
    assert len(lines) == 3 and {*lines} == {lines[0]}
    assert f"need {needed:,} bytes of shared memory, and /dev/shm has 16,777,216 left" in lines[0]
    assert "--shm-size" in lines[0] and "--workers 0" in lines[0]
