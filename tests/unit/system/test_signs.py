"""Signs of life: a bar where somebody sees it, elsewhere a line now and then, and nothing where that was asked for."""

import io
import sys
import threading
from types import SimpleNamespace

import pytest

from overhaul.system import signs
from overhaul.system.signs import Signs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(signs.time, "monotonic", lambda: clock.now)
    return clock


def test_without_a_terminal_there_is_a_line_a_minute(clock):
    told = []
    work = Signs("epoch 2/3", 400, "step", told.append, lambda: "loss 1.0", done=100)
    for _ in range(150):
        clock.now += 1
        work.count()
    assert told == ["epoch 2/3: step 160/400, loss 1.0", "epoch 2/3: step 220/400, loss 1.0"]
    assert work.left == pytest.approx(150)
    work.close()


def test_what_has_no_known_end_is_counted(clock):
    told = []
    work = Signs("test", None, "image", told.append)
    clock.now += 61
    work.count(2500)
    assert told == ["test: image 2,500"]


def test_quiet_work_shows_nothing(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work = Signs("epoch 2/3", 400, "step", lambda _: pytest.fail("a line"), quiet=True)
    clock.now += 100
    work.count()
    work.refresh()
    work.close()
    assert sys.stderr.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_and_no_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(signs, "EVERY", 0)
    monkeypatch.setenv("COLUMNS", "80")
    work = Signs("epoch 2/3", 4, "step", lambda _: pytest.fail("a line"), lambda: "loss 1.0")
    work.count(3)
    work.refresh()
    work.close()
    assert "epoch 2/3" in sys.stderr.getvalue() and "3/4" in sys.stderr.getvalue()
    assert "loss 1.0" in sys.stderr.getvalue()


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not signs.watched()
    for config, notebook in (({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)):
        shell = SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert signs.watched() == notebook
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not signs.watched()


def test_threads_count_together():
    work = Signs("prepare", None, "image", str)
    threads = [threading.Thread(target=lambda: [work.count() for _ in range(2000)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert work.done == 8000
