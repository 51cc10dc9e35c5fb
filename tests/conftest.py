"""What the tests share: an offline environment, ../shared where it is present, golden files, what is trained once.

The processes of `pytest -n` share what is dear to make: the first that asks for it makes it, the others wait for it.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads that spin cost several times the CPU
os.environ["ACCELERATE_USE_CPU"] = "true"  # but for the tests marked gpu, see on_its_device

import contextlib
import io
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from filelock import FileLock
from support.images import write_digits
from support.places import SHARED, TESTS
from support.ranks import Ranks
from support.runs import DIGITS_TEACHER, SMALL_NET, distilling, quick

from overhaul import models
from overhaul.cli.main import main
from overhaul.options import Run
from overhaul.setups import wide_resnet
from overhaul.training.trainer import Result, train

FIRST = ("processes", "runs", "unit")  # folders, as those with the longest tests are begun first


def pytest_addoption(parser) -> None:
    parser.addoption("--all", action="store_true", help="the tests marked slow as well")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config) -> None:
    """Timings and what runs on a GPU have the machine for themselves; --all is every test but timings."""
    if config.option.all:
        config.option.markexpr = "not speed"
    if config.option.markexpr.startswith(("speed", "gpu")):
        config.option.numprocesses = 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """The order of the tests, and which of them run in one process (pytest -n --dist loadgroup).

    Those that hand functions to the ranks do; those of a file in unit/ do too, as they share the module's fixtures, and
    each case of the golden values. Trainings and launched processes go to whichever test process is free.
    """

    def hands_over(item) -> bool:
        return "ranks" in item.fixturenames

    def turn(item) -> tuple:
        folder = item.path.relative_to(TESTS).parts[0]
        return not hands_over(item), FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=turn)
    for item in items:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if hands_over(item):
            item.add_marker(pytest.mark.xdist_group("ranks"))
        elif item.path.is_relative_to(TESTS / "unit") or "place" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {case}" if case else item.path.stem))


@pytest.fixture(autouse=True)
def on_its_device(request, monkeypatch) -> Iterator[None]:
    """A test marked gpu runs there, and is skipped where there is none; every other runs on the CPU."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable:
    """once(name, make): what make(folder) gives, in whichever of the test processes asks first; pickled for the rest.

    It is for all of them, so whoever would change the folder takes a copy.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable):
        made = root / f"{name}.pickle"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                folder = root / name
                folder.mkdir(exist_ok=True)
                content = pickle.dumps(make(folder))
                made.write_bytes(content)
            return pickle.loads(made.read_bytes())

    return once


@pytest.fixture(scope="session")
def ranks(tmp_path_factory) -> Iterator[Ranks]:
    """Two processes that are handed functions; they end with the session."""
    ranks = Ranks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is absent")
    return SHARED


@pytest.fixture(scope="session")
def golden():
    """golden(name): the values computed with the authors' release for one setting."""
    return lambda name: json.loads((TESTS / "golden" / f"{name}.json").read_text())


@pytest.fixture
def overhaul(capsys):
    """overhaul("train", "--setup", ...) runs the command in this process: .status, .out, .err."""

    def run(*argv) -> SimpleNamespace:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as exit:
            status = exit.code or 0
        captured = capsys.readouterr()
        return SimpleNamespace(status=status, out=captured.out, err=captured.err)

    return run


@pytest.fixture(scope="session")
def digits_teacher(once) -> Path:
    """The folder of a run that trained a small teacher on the digits for two epochs."""
    setup = replace(DIGITS_TEACHER, student=wide_resnet(10, 2, num_classes=10), epochs=2)
    return once("teacher", lambda folder: train(setup, Run(output_dir=str(folder / "run"))).folder)


@pytest.fixture(scope="session")
def few_digits(once) -> str:
    """A folder with 96 of the digits for training and 40 for tests."""
    return once("digits", lambda folder: write_digits(folder / "set"))


@pytest.fixture(scope="session")
def finished_and_said(once, digits_teacher) -> tuple[Result, str]:
    def make(folder: Path) -> tuple[Result, str]:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            result = train(quick(digits_teacher), Run(output_dir=str(folder / "run")), show=True)
        return result, said.getvalue()

    return once("finished", make)


@pytest.fixture(scope="session")
def finished(finished_and_said) -> Result:
    """Two epochs of the digits, distilled, never stopped."""
    return finished_and_said[0]


@pytest.fixture(scope="session")
def finished_output(finished_and_said) -> str:
    """What was said then."""
    return finished_and_said[1]


@pytest.fixture(scope="session")
def two(once, ranks, digits_teacher) -> SimpleNamespace:
    """The same on two ranks, for three epochs: .folder, .out."""

    def make(folder: Path) -> SimpleNamespace:
        flags = ["train", *distilling(digits_teacher, "--output_dir", folder / "run", epochs=3)]
        main_rank, other = ranks("support.runs:command", *flags)
        assert (main_rank.status, other.status, other.out) == (0, 0, ""), (main_rank.err, other)
        return SimpleNamespace(folder=folder / "run", out=main_rank.out)

    return once("two", make)


@pytest.fixture(scope="session")
def network():
    """A SMALL_NET with fresh weights, in eval mode."""
    torch.manual_seed(0)
    return models.create(SMALL_NET).eval()
