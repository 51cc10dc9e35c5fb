"""What goes wrong with the Hub and the network: one line, what to do, nothing broken, and later it works."""

import json
import time

import pytest
from support.hub_client import Client
from support.hub_server import TOKEN, Fault, LocalHub
from support.runs import same_weights

from overhaul.hub import load, save
from overhaul.setups import SETUPS


@pytest.fixture(scope="module")
def root(tmp_path_factory, network):
    """Repositories: a student (me/digits), a gated one, one with pickled weights, an empty one."""
    root = tmp_path_factory.mktemp("repositories")
    save(root / "me" / "digits", network, SETUPS["digits"], list("0123456789"))
    for name in ("gated", "pickled", "empty"):
        (root / "me" / name).mkdir()
    (root / "me" / "gated" / "config.json").write_text("{}")
    (root / "me" / "pickled" / "config.json").write_bytes((root / "me" / "digits" / "config.json").read_bytes())
    (root / "me" / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    return root


@pytest.fixture
def hub(root):
    with LocalHub(root) as hub:
        yield hub


@pytest.fixture
def pull(tmp_path):
    """pull("me/digits") -> the command, to a folder of its own; pull.out: the last one."""
    numbers = iter(range(100))

    def pull(source: str) -> list:
        pull.out = tmp_path / f"out{next(numbers)}"
        return ["pull", source, "--out", pull.out]

    return pull


def one_line(answer, *words: str) -> bool:
    assert answer.status == 2 and len(answer.err.splitlines()) == 1 and answer.err.startswith("overhaul: "), answer.err
    assert "Traceback" not in answer.err and TOKEN not in answer.err
    assert all(word in answer.err for word in words), answer.err
    return True


def test_a_repository_a_revision_or_a_file_that_cannot_be_had(hub, pull, tmp_path):
    client = Client(hub, tmp_path / "home")
    gated, missing, revision, empty, pickled, name, odd = client(
        *map(pull, ("me/gated", "me/missing", "me/digits@v9", "me/empty", "me/pickled", "no name", "me/../../etc"))
    )
    assert one_line(gated, "me/gated", "it is gated", "hf auth login")
    assert one_line(missing, "there is no such repository, or it is private", "hf auth login")
    assert one_line(revision, "it has no revision v9")
    assert one_line(empty, "it lacks config.json")
    assert one_line(pickled, "pickled weights (pytorch_model.bin), which are never read")
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith(".bin")]
    assert one_line(name, "is named USER/REPO") and one_line(odd, "is named USER/REPO")
    assert not list(tmp_path.glob("out*"))
    ((anonymous,), (unknown,), (letters,)) = (
        client(pull(source), token=token)
        for source, token in (
            ("me/gated", None),
            ("me/digits", "hf_unknownunknown"),
            ("me/digits", "hf_\u00fcber"),
        )
    )
    assert one_line(anonymous, "it is gated") and one_line(unknown, "the Hub does not know the token", "hf auth login")
    assert one_line(letters, "the token") and "ber" not in letters.err.replace("letters", "")


def test_a_hub_that_asks_to_wait_and_one_that_breaks_off(hub, pull, tmp_path, network):
    client = Client(hub, tmp_path / "home")
    hub.faults = [Fault("HEAD .*/config.json", status=429, headers={"Retry-After": "7"}, times=2)]
    (answer,) = client(pull("me/digits"))
    assert answer.status == 0 and 8.0 in answer.waits and "Waiting 8" in answer.err
    for fault, words in (
        (Fault("HEAD .*/config.json", status=429, headers={"Retry-After": "7"}), "too many requests; try again in 7 s"),
        (Fault("HEAD .*/config.json", status=503), "the Hub is in trouble (503); try again later"),
        (Fault("GET .*/model.safetensors", cut=1000), "the connection broke"),
    ):
        home = tmp_path / words[-5:]
        client, hub.faults = Client(hub, home), [fault]
        (answer,) = client(pull("me/digits"))
        answer.err = "".join(line for line in answer.err.splitlines(keepends=True) if "Rate limited" not in line)
        assert one_line(answer, words) and not pull.out.exists()
        assert not list(home.rglob("snapshots/*/model.safetensors")), "a part of a file never counts as the file"
        hub.faults = []
        (answer,) = client(pull("me/digits"))
        assert answer.status == 0 and same_weights(load(str(pull.out)), network)
    hub.faults = [Fault("GET .*/model.safetensors", cut=1000, times=2)]
    (answer,) = Client(hub, tmp_path / "resumed")(pull("me/digits"))
    assert answer.status == 0 and same_weights(load(str(pull.out)), network)


def test_without_a_network_the_cache_is_used(hub, pull, tmp_path):
    home = tmp_path / "home"
    (filled,) = Client(hub, home)(pull("me/digits"))
    (cached, uncached) = Client(None, home)(pull("me/digits"), pull("me/other"))
    assert filled.status == cached.status == 0, cached.err
    assert one_line(uncached, "the Hub cannot be reached", "try again")
    started = time.monotonic()
    cached, uncached = Client(hub, home, offline=True)(pull("me/digits"), pull("me/other"))
    assert cached.status == 0 and one_line(uncached, "not in the cache", "HF_HUB_OFFLINE")
    assert not cached.waits + uncached.waits and time.monotonic() - started < 30


@pytest.fixture
def run(root, tmp_path):
    """The folder of a run that has ended."""
    folder = tmp_path / "run"
    (folder / "final").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / "final" / name).write_bytes((root / "me" / "digits" / name).read_bytes())
    line = {
        "epoch": 1,
        "cross_entropy": 1.0,
        "distill_loss": 0.0,
        "train_top1": 1.0,
        "test_top1": 9.0,
        "test_top5": 50.0,
    }
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    student = {"family": "wide_resnet", "kwargs": {"depth": 10, "width": 1}, "parameters": 77_850}
    data = {"name": "digits", "hub_id": None, "revision": None, "training_images": "few", "test_images": 3}
    record = {"setup": "digits", "method": "original", "teacher": None, "student": student, "data": data}
    record |= {"recipe": {"epochs": 1}, "run": {"seed": 0, "hardware": "none"}, "published": None, "versions": {}}
    record["changes_of_length"] = []
    (folder / "overhaul.json").write_text(json.dumps(record))
    return folder


def test_pushes_that_fail_leave_everything_and_succeed_later(hub, run, tmp_path):
    client, push = Client(hub, tmp_path / "home"), ["push", run, "me/new"]
    for fault, words in (
        (Fault("PUT /lfs/", status=500), "the Hub is in trouble (500); try again later"),
        (Fault("POST .*/commit/main", status=412), "others are pushing to it; try again"),
        (Fault("POST .*/preupload/", status=403, message="no write access"), "the token does not allow it (no write"),
        (Fault("POST .*/commit/main", status=429, headers={"Retry-After": "9"}), "try again in 9 s"),
    ):
        hub.faults = [fault]
        (answer,) = client(push)
        answer.err = "".join(line for line in answer.err.splitlines(keepends=True) if "Rate limited" not in line)
        assert one_line(answer, "me/new could not be pushed to", words)
        assert hub.messages("me/new") == ["initial commit"] and not hub.tags("me/new")
    (anonymous,), (offline,) = client(push, token=None), Client(hub, tmp_path / "home", offline=True)(push)
    assert one_line(anonymous, "token", "hf auth login") and one_line(offline, "HF_HUB_OFFLINE")

    def somebody_else() -> None:
        hub.repositories.find("me/new").commit({"notes.txt": b"theirs"}, "Notes")

    hub.faults = [Fault("POST .*/commit/main", status=412, before=somebody_else, times=1)]
    (answer,) = client(push)
    assert answer.status == 0 and hub.messages("me/new")[1:] == ["Notes", "Final student, epoch 1: test top-1 9.00 %"]
    assert hub.files("me/new")["notes.txt"] == b"theirs" and "model.safetensors" in hub.files("me/new")


SMALL = {"architecture": "overhaul_wide_resnet", "num_classes": 10, "model_args": {"depth": 10, "width": 1}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            json.dumps({**SMALL, "model_args": {"depth": 10**9, "width": 1}}),
            "depth='1000000000', which is no plain value",
        ),
        (json.dumps({**SMALL, "model_args": {"depth": 10, "width": 10**6}}), "no plain value of bounded size"),
        (json.dumps({**SMALL, "num_classes": 10**12}), "needs num_classes, a number"),
        (json.dumps({**SMALL, "model_args": {"depth": "10; import os", "width": 1}}), "no plain value of bounded size"),
        (json.dumps({**SMALL, "model_args": {"depth": 10, "width": 1, "__class__": 3}}), "which is no argument's name"),
        (json.dumps({**SMALL, "architecture": {"a": 1}}), "none of ours"),
        (json.dumps({**SMALL, "architecture": "../../models/resnet"}), "none of ours"),
        (
            json.dumps({**SMALL, "architecture": "resnet50", "model_args": {"block_fn": "evil"}}),
            "takes no argument block_fn",
        ),
        ("[" * 100_000, "is not JSON"),
        ('{"num_classes": ' + "9" * 5000 + "}", "is not JSON"),
        (" " * (17 * 2**20) + "{}", "larger than 16 MiB"),
        (json.dumps(SMALL), "model.safetensors has 5,000,000 bytes"),
    ],
)
def test_what_a_repository_may_not_ask_for(tmp_path, overhaul, monkeypatch, config, words):
    """Refused before the weights are fetched; here the files are taken from a folder, as if from the Hub."""
    from types import SimpleNamespace

    import huggingface_hub

    (tmp_path / "c0ffee").mkdir()
    (tmp_path / "c0ffee" / "config.json").write_text(config)
    fetched = []

    def hf_hub_download(repo, file, revision=None, dry_run=False, force_download=False):
        if dry_run:
            return SimpleNamespace(file_size=5_000_000 if file == "model.safetensors" else 100)
        fetched.append(file)
        return str(tmp_path / "c0ffee" / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    started = time.process_time()
    result = overhaul("pull", "me/absurd", "--out", tmp_path / "out")
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err
    assert {*fetched} == {"config.json"} and time.process_time() - started < 5 and not (tmp_path / "out").exists()
