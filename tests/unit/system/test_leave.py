"""How a command's process ends."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
sys.modules.setdefault("torch", sys)
from overhaul.system.preemption import leave

class Kept:
    def __del__(self):
        print("Python was taken down")

kept = Kept()
atexit.register(print, "libraries were told")
print("said")
leave(3)
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_one_of_several_processes_ends_without_taking_python_down(processes, monkeypatch):
    """Else threads of PyTorch may abort it after a run that has gone well; libraries are told all the same."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    told = ["said", "libraries were told"] + ["Python was taken down"] * (processes == "1")
    assert (ended.returncode, ended.stdout.splitlines(), ended.stderr) == (3, told, "")
