"""What the tests share: an offline environment, ../shared where it is present, golden files, and a trained teacher."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"
sys.path.insert(0, str(TESTS / "golden"))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is absent")
    return SHARED


@pytest.fixture(scope="session")
def golden():
    """golden(name): the values computed with the authors' release for one setting."""
    return lambda name: json.loads((TESTS / "golden" / f"{name}.json").read_text())
