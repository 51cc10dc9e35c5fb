"""What processes leave for launch/slurm.sh."""

import os
import signal
from pathlib import Path

import pytest

from overhaul.system.preemption import Preempted, enlist, leave_status, note_saved, signals


@pytest.fixture
def status(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OVERHAUL_STATUS_FILE", str(tmp_path / "status"))
    return tmp_path / "status"


@pytest.fixture(autouse=True)
def signals_restored():
    before = {number: signal.getsignal(number) for number in signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("saved", "told", "together", "left", "ends"),
    [
        (True, True, True, "85\n", 0),
        (True, False, True, "85\n", 0),
        (False, True, False, "84\n", 0),
        (False, False, True, "84\n", 0),
        (True, False, False, "85\n", 85),
        (False, False, False, None, 85),
    ],
)
def test_processes_that_all_stop_end_with_0_and_leave_whether_something_was_saved(
    status, saved, told, together, left, ends
):
    """One that stops alone before training may have been told by its launcher, as another one failed."""
    if saved:
        note_saved()
    if told:
        status.with_name("told").touch()
    assert leave_status(together) == ends
    assert (status.read_text() if status.exists() else None) == left


def test_a_process_that_comes_up_late_stops_at_once(status):
    enlist()
    assert status.with_name("processes").read_text() == f"{os.getpid()}\n"
    status.with_name("told").touch()
    with pytest.raises(Preempted):
        enlist()


def test_without_slurm_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.delenv("OVERHAUL_STATUS_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    note_saved(), enlist()
    assert leave_status(together=True) == 85 and not list(tmp_path.iterdir())
