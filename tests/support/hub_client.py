"""Our commands with a local Hub in place of the real one."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session, constants

from overhaul.cli.main import main
from support.hub_server import TOKEN, LocalHub

NOBODY = "http://127.0.0.1:9"


class Client:
    """client(["push", ...], ...) -> an answer each: .status, .out, .err, .waits (seconds it would have paused).

    hub: or its address; None where no Hub can be reached; home: of the cache; folder: where the commands run.
    """

    def __init__(
        self, hub: LocalHub | str | None, home: Path, offline: bool = False, folder: Path | None = None
    ) -> None:
        self.endpoint = (hub if isinstance(hub, str) else hub.endpoint) if hub else NOBODY
        self.home, self.offline, self.folder = home, offline, folder

    def __call__(self, *commands: list, token: str | None = TOKEN) -> list[SimpleNamespace]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", self.endpoint)
            template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_OFFLINE", self.offline)
            patch.setattr(constants, "HF_HUB_CACHE", str(self.home / "hub"))
            patch.setattr(constants, "HF_TOKEN_PATH", str(self.home / "token"))
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            patch.delenv("HF_TOKEN", raising=False)
            if token:
                patch.setenv("HF_TOKEN", token)
            if self.folder:
                patch.chdir(self.folder)
            close_session()
            return [run([str(word) for word in command], patch) for command in commands]

    def python(self, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        """Python in a process of its own."""
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": str(int(self.offline)),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": TOKEN,
            **more,
        }
        result = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=self.folder, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result


def ask(endpoint: str, home: Path, command: list) -> SimpleNamespace:
    """A command that needs the Hub at that address, in whatever process this is."""
    return Client(endpoint, home)(command)[0]


def run(argv: list[str], patch: pytest.MonkeyPatch) -> SimpleNamespace:
    out, err, waits, sleep = io.StringIO(), io.StringIO(), [], time.sleep

    def short(seconds: float) -> None:
        if seconds >= 1:  # a library's, before it tries again
            waits.append(seconds)
        sleep(min(seconds, 0.02))

    patch.setattr(time, "sleep", short)
    log, handler = logging.getLogger("huggingface_hub"), logging.StreamHandler(err)
    log.addHandler(handler)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(argv)
    except SystemExit as exit:
        status = exit.code
    finally:
        log.removeHandler(handler)
        patch.setattr(time, "sleep", sleep)
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue(), waits=waits)
