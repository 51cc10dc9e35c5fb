"""What the tests share: an offline environment, ../shared where it is present, golden files, and a trained teacher."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads that spin cost several times the CPU
os.environ["ACCELERATE_USE_CPU"] = "true"

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.places import SHARED, TESTS
from support.runs import SMALL_NET

from overhaul import models
from overhaul.cli.main import main
from overhaul.options import Run
from overhaul.setups import SETUPS, wide_resnet
from overhaul.training.trainer import train


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
def digits_teacher(tmp_path_factory) -> Path:
    """The folder of a run that trained a small teacher on the digits for two epochs."""
    setup = replace(SETUPS["digits_teacher"], student=wide_resnet(10, 2, num_classes=10), epochs=2)
    return train(setup, Run(output_dir=str(tmp_path_factory.mktemp("teacher") / "run"))).folder


@pytest.fixture(scope="session")
def network():
    """A SMALL_NET with fresh weights, in eval mode."""
    torch.manual_seed(0)
    return models.create(SMALL_NET).eval()
