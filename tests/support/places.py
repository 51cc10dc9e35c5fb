"""Where things lie."""

from pathlib import Path

TESTS = Path(__file__).parent.parent


REPOSITORY = TESTS.parent


SHARED = REPOSITORY.parent / "shared"
