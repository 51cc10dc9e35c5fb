"""A Hub that does not answer, not in time, or not with what it names: a line within the limits, nothing written."""

import contextlib
import os
import re
import socket
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.hub_client import Client
from support.hub_server import Fault, LocalHub
from support.runs import SMALL_NET

from overhaul import models
from overhaul.hub import client as hub_client
from overhaul.hub import publish, save
from overhaul.options import Run
from overhaul.run.folder import RunFolder
from overhaul.setups import SETUPS
from overhaul.system import network
from overhaul.system.messages import UserError

HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: "abc"\r\nX-Repo-Commit: ' + b"c" * 40 + b"\r\n\r\n"


@pytest.fixture
def impatient(monkeypatch):
    """Limits of a second or two in place of those of minutes."""
    monkeypatch.setattr(network, "ANSWER", 0.3)
    monkeypatch.setattr(network, "PATIENCE", 1.5)
    monkeypatch.setattr(network, "SLOWEST", 1e6)
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.3)


@pytest.fixture
def serving():
    """serving(pieces, pause) -> the address of a server that sends those, and after each waits that many seconds."""
    with contextlib.ExitStack() as stack:
        ended = threading.Event()

        def answer(connection: socket.socket, pieces: list[bytes], pause: float) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                    if ended.wait(pause):
                        return
                ended.wait(60 if not pieces else 0)

        def accept(listener: socket.socket, *how) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=answer, args=(connection, *how), daemon=True).start()

        def serving(pieces: list[bytes], pause: float = 0) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=accept, args=(listener, pieces, pause), daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        stack.callback(ended.set)
        yield serving


def line_of(answer) -> str:
    assert answer.status == 2 and "Traceback" not in answer.err, answer
    (line,) = [line for line in answer.err.splitlines() if not line.startswith("Rate limited")]
    return line


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [
        ([], 0),
        ([b"HTTP/1.1 200 OK\r\n"], 20),
        ([b"X"] * 200, 0.1),
        ([b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 200], 0.1),
    ],
    ids=["no answer", "half an answer", "a letter from time to time", "a line from time to time"],
)
def test_a_hub_that_does_not_answer_is_waited_for_so_long(impatient, serving, tmp_path, pieces, pause):
    started = time.monotonic()
    (answer,) = Client(serving(pieces, pause), tmp_path)(["pull", "me/x", "--out", tmp_path / "out"])
    line = line_of(answer)
    assert "me/x cannot be loaded" in line and "http://127.0.0.1" in line and "try again" in line
    assert time.monotonic() - started < 20 and not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 200]])
def test_training_waits_for_no_hub_that_is_asked_whose_the_token_is(impatient, serving, tmp_path, pieces, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", serving(pieces, 0.1))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_ofthetestsalone")
    started = time.monotonic()
    assert hub_client.whoami() is None and time.monotonic() - started < 20


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("repositories")
    save(root / "me" / "digits", models.create(SMALL_NET), SETUPS["digits"], list("0123456789"))
    return root


@pytest.fixture
def hub(root):
    with LocalHub(root) as hub:
        yield hub


def pull(hub: LocalHub | None, folder: Path, name: str = "out"):
    return Client(hub, folder / "home")(["pull", "me/digits", "--out", folder / name])[0]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait", [{"Retry-After": "1000000000"}, {"RateLimit": '"api";r=0;t=1000000000'}])
def test_no_hub_is_waited_for_because_it_asks(hub, tmp_path, status, wait):
    hub.faults = [Fault("HEAD .*/config.json", status=status, headers=wait)]
    answer = pull(hub, tmp_path)
    said = {429: "too many requests; try again", 503: "the Hub is in trouble (503)"}[status]
    assert said in line_of(answer) and max(answer.waits, default=0) <= network.LONGEST_WAIT


def test_a_body_that_stands_still_is_given_up_and_leaves_nothing(impatient, serving, tmp_path):
    (answer,) = Client(serving([HEAD, *[b"x"] * 200], 0.1), tmp_path)(["pull", "me/x", "--out", tmp_path / "out"])
    assert "try again" in line_of(answer)
    assert not [*tmp_path.rglob("*.incomplete"), *tmp_path.rglob("snapshots/*/*"), *tmp_path.glob("out")]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"../../../../written"'},
        {"ETag": '"/tmp/written"'},
        {"ETag": '".."'},
        {"ETag": f'"{"a" * 300}"'},
        {"X-Linked-Etag": '"../../../../written"', "ETag": '"abc"'},
        {"ETag": '"a b"'},
        {"ETag": '"abc"', "X-Repo-Commit": "../../../../written"},
        {"ETag": '"abc"', "X-Repo-Commit": "/tmp/written"},
        {"ETag": '"abc"', "X-Repo-Commit": "c" * 300},
        {"ETag": '"abc"', "X-Repo-Commit": ".."},
    ],
)
@pytest.mark.parametrize("status", [200, 302, 404])
def test_names_that_leave_the_cache_are_refused_before_anything_is_written(serving, tmp_path, headers, status):
    """Those of a file that is there, of one that lies elsewhere, and of one that is not there."""
    more = {200: {}, 302: {"Location": "http://localhost:9/x", "X-Linked-Size": "3"}, 404: {}}[status]
    code = {"X-Error-Code": "EntryNotFound"} if status == 404 else {}
    lines = {"X-Repo-Commit": "c" * 40, "Content-Length": "3", **headers, **more, **code}
    told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    (answer,) = Client(serving([f"HTTP/1.1 {status} X\r\n{told}\r\n".encode()]), tmp_path / "a" / "b" / "home")(
        ["pull", "me/x", "--out", tmp_path / "out"]
    )
    words = "lacks config.json" if status == 404 and "X-Repo-Commit" not in headers else "which is none"
    assert words in line_of(answer) and not Path("/tmp/written").exists()
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= ({"config.json", "main"} if status == 404 and "lacks" in words else set())


def test_a_redirect_to_a_file_or_without_a_length_is_no_traceback(hub, tmp_path, serving):
    for location in ("file:///etc/passwd", "http://localhost:9/x", ":::", ""):
        hub.faults = [
            Fault(
                "HEAD .*/config.json",
                status=302,
                headers={"Location": location, "X-Linked-Etag": '"abc"', "X-Repo-Commit": "c" * 40},
            )
        ]
        assert "me/digits cannot be loaded" in line_of(pull(hub, tmp_path))
    lines = [b'HTTP/1.1 302 X\r\nLocation: http://localhost:9/x\r\nETag: "abc"\r\nX-Repo-Commit: ' + b"c" * 40]
    (answer,) = Client(serving([lines[0] + b"\r\n\r\n"]), tmp_path)(["pull", "me/x", "--out", tmp_path / "out"])
    assert "does not say how large its config.json is" in line_of(answer)


def blob_of(home: Path, name: str) -> Path:
    (file,) = home.rglob(f"snapshots/*/{name}")
    return file.parent / os.readlink(file)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("large", [False, True])
def test_what_the_cache_holds_is_what_the_hub_named(hub, tmp_path, name, large):
    """A file of the right size with a byte changed is fetched anew; where it cannot be, it is said which one it is."""
    if large:
        content = hub.files("me/digits")["model.safetensors"]
        hub.blobs[sha256(content).hexdigest()] = content
    assert pull(hub, tmp_path).status == 0
    blob = blob_of(tmp_path / "home", name)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    line = line_of(pull(None, tmp_path, "offline"))
    assert (
        "is not what the Hub named" in line and "cannot be fetched anew" in line and f"delete {blob.resolve()}" in line
    )
    assert pull(hub, tmp_path, "again").status == 0 and blob.read_bytes() == whole
    assert (tmp_path / "again" / name).read_bytes() == whole


def test_weights_of_the_right_size_that_are_others_are_refused(hub, tmp_path):
    content = hub.files("me/digits")["model.safetensors"]
    hub.blobs[sha256(content).hexdigest()] = content[:-1] + bytes([content[-1] ^ 1])
    line = line_of(pull(hub, tmp_path))
    assert "the Hub sends another model.safetensors than it names, SHA-256 " in line
    assert not (tmp_path / "out").exists()


def test_a_commit_whose_tag_was_refused_is_told_to_be_there(hub, tmp_path, finished):
    hub.faults = [Fault("POST .*/tag/", status=403, message="no tags")]
    (answer,) = Client(hub, tmp_path)(["push", finished.folder, "me/tagged"])
    line, sha = line_of(answer), hub.repositories.find("me/tagged").resolve("main")
    assert re.search(rf"me/tagged has the commit http\S+{sha}, but not its tag top1-[\d.]+: .*no tags", line)


def test_the_last_push_to_a_hub_that_falls_silent_ends_with_a_line(impatient, finished, serving, monkeypatch, capsys):
    """So does one in the background, which no epoch waits for."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", serving([]))
    monkeypatch.setenv("HF_TOKEN", "hf_ofthetestsalone")
    publisher = publish.Publisher(Run(push_to_hub="me/digits", push_every=1), RunFolder(finished.folder))
    files = {name: (finished.folder / "final" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    started = time.monotonic()
    publisher.after_epoch(1, 3, lambda: files)
    assert publisher.thread.is_alive() and publisher.thread.daemon
    with pytest.raises(UserError, match=r"the run is whole in .*push it with"):
        publisher.finish()
    assert time.monotonic() - started < 40 and "training goes on" in capsys.readouterr().err
