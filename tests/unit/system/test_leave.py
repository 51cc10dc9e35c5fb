"""How a command's process ends."""

import subprocess
import sys

PROGRAM = """
import atexit, sys, threading, time
sys.modules.setdefault("torch", sys)
from overhaul.system.preemption import leave

class Kept:
    def __del__(self):
        print("Python was taken down")

kept = Kept()
atexit.register(print, "libraries were told")
threading.Thread(target=time.sleep, args=(60,)).start()
print("said")
leave(3)
"""


def test_a_process_ends_without_taking_python_down():
    """Else threads of PyTorch may abort it after a run that has gone well, and one of the Hub's hold it."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said\nlibraries were told\n", "")
