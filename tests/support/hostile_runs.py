"""Hostile inputs by way of the folder of a run."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from support.hostile import Case
from support.planted import TRAIN, changed, edited, holds, linked, new, old, runs, state, written

DEEP = "[" * 100_000
MANIFEST = "checkpoints/epoch-0001/manifest.json"
PUSH = ("push", "run", "USER/STUDENT")
EVALUATE = ("evaluate", "run", "--data", "digits")
NOT_READ = "holds something else than tensors and plain values, which is not read"
RECORD = {"setup": "digits", "method": "original", "recipe": {"epochs": 1}}


def other_momentum(checkpoint: Path) -> None:
    content = torch.load(checkpoint / "optimizer.bin", weights_only=True)
    content["state"][0]["momentum_buffer"] = torch.zeros(3)
    torch.save(content, checkpoint / "optimizer.bin")


def other_weights(checkpoint: Path) -> None:
    content = load_file(checkpoint / "model.safetensors")
    content[next(iter(content))] = torch.zeros(3)
    save_file(content, checkpoint / "model.safetensors")


def names(entries: dict) -> str:
    return json.dumps({"files": {name: {"bytes": 0, "sha256": ""} for name in entries}})


def endless(folder: Path) -> None:
    (new(folder) / "endless").symlink_to("/dev/zero")
    (folder / "run" / MANIFEST).write_text(names({"endless": 0}))


def only_a_link(folder: Path) -> None:
    checkpoint = new(folder)
    checkpoint.rename(folder / "elsewhere")
    checkpoint.symlink_to(folder / "elsewhere")


def two_names(path: Path) -> None:
    (path.parent.parent / "mine").write_text("mine")
    os.link(path.parent.parent / "mine", path)


def replaced_too_early(folder: Path) -> None:
    new(folder)
    (folder / "run").rename(folder / "earlier")
    (folder / "run").mkdir()
    (folder / "earlier").rename(folder / "run" / "replaced-run")


def student(config: str = "{}", weights: bytes = b"", **files: str):
    """Lays a run with a final student, and files beside it by the first part of their names."""

    def lay(folder: Path) -> None:
        new(folder)
        final = folder / "run" / "final"
        final.mkdir()
        (final / "config.json").write_text(config)
        (final / "model.safetensors").write_bytes(weights)
        for name, text in {"overhaul": json.dumps(RECORD), **files}.items():
            (folder / "run" / {"overhaul": "overhaul.json", "metrics": "metrics.jsonl"}[name]).write_text(text)

    return lay


NAMED = json.dumps({"architecture": "overhaul_wide_resnet", "num_classes": 10, "model_args": {"depth": 10, "width": 1}})
LINE = {"epoch": 1, "test_top1": 50.0, "test_top5": 90.0}
CHECKPOINTS = [
    ("code in the state of an old run", f"custom_checkpoint_0.pkl {NOT_READ}", runs("custom_checkpoint_0.pkl", old)),
    ("code in the state", "state.json is damaged", runs("state.json")),
    ("code in the momentum", f"optimizer.bin {NOT_READ}", runs("optimizer.bin")),
    ("code in the random numbers", f"random_states_0.pkl {NOT_READ}", runs("random_states_0.pkl")),
    ("code in the weights", "whole but cannot be loaded", runs("model.safetensors")),
    ("a state nested deeply", "state.json is damaged", holds("state.json", DEEP)),
    ("a state that is a list", "state.json is not what a run writes", holds("state.json", "[]")),
    ("a state of wrong values", "its metrics is not what a run writes", state(metrics=3)),
    ("a state of nested wrong values", "its positions is not what a run writes", state(positions={"student": [1]})),
    ("a state amid an epoch without its sums", "do not go together", state(step=3)),
    ("epochs out of order", "do not go together", state(metrics=[{**LINE, "epoch": 2}])),
    ("epochs without accuracy", "do not go together", state(metrics=[{"epoch": 1}])),
    ("no state", "state.json is missing", changed(lambda made: (made / "state.json").unlink())),
    ("no weights", "model.safetensors is missing", changed(lambda made: (made / "model.safetensors").unlink())),
    ("no momentum", "optimizer.bin is missing", changed(lambda made: (made / "optimizer.bin").unlink())),
    ("no random numbers", "random_states_0.pkl is missing", changed(lambda m: (m / "random_states_0.pkl").unlink())),
    ("random numbers of nothing", "cannot be loaded", changed(lambda m: torch.save({}, m / "random_states_0.pkl"))),
    ("momentum of another network", "optimizer.bin is of other parameters", changed(other_momentum)),
    ("weights of another network", "whole but cannot be loaded", changed(other_weights)),
    ("a checkpoint of other data", "was trained on other data", state(data="another")),
    ("a checkpoint under a teacher", "was trained under another teacher", state(teacher="another")),
    ("a checkpoint of another recipe", "belongs to another configuration (setup: ", state(config={"lr": 3})),
    (
        "a checkpoint under another's name",
        "epoch-0002 is the checkpoint epoch-0001 under another name",
        edited("checkpoints/epoch-0001", lambda path: path.rename(path.with_name("epoch-0002"))),
    ),
    ("a manifest nested deeply", "manifest.json is broken", written(MANIFEST, DEEP)),
    ("a manifest that is no JSON", "manifest.json is broken", written(MANIFEST, "\0")),
    ("a manifest of nothing", "manifest.json is empty", written(MANIFEST, '{"files": {}}')),
    (
        "a manifest that names a file elsewhere",
        "not a file of its own",
        written(MANIFEST, names({"../../config.yaml"})),
    ),
    ("a manifest that names a device", "endless is not a file of its own", endless),
    ("a manifest of control characters", "a b is not a file of its own", written(MANIFEST, names({"../a\x1bb"}))),
    ("a checkpoint that is a link", "the checkpoints of run are gone", only_a_link),
]
FOLDERS = [
    ("a configuration nested deeply", "config.yaml is broken", written("config.yaml", DEEP)),
    (
        "a configuration that grows",
        "config.yaml is broken",
        written("config.yaml", "a: &a {b: 1}\n" + "c: {d: *a, e: *a}\n"),
    ),
    ("a configuration that is no text", "config.yaml is broken", written("config.yaml", "\0")),
    ("a configuration of other keys", "belongs to another configuration", written("config.yaml", "{1: {2: 3}}")),
    ("no configuration", "holds files but no run", edited("config.yaml", Path.unlink)),
    (
        "a configuration that is a folder",
        "config.yaml is not the file that a run leaves",
        edited("config.yaml", lambda path: (path.unlink(), path.mkdir())),
    ),
    (
        "metrics that are a pipe",
        "metrics.jsonl is not the file that a run leaves",
        edited("metrics.jsonl", lambda path: (path.unlink(), os.mkfifo(path))),
    ),
    (
        "checkpoints that are a file",
        "checkpoints is not the folder that a run leaves",
        edited("checkpoints", lambda path: (shutil.rmtree(path), path.touch())),
    ),
    ("a linked lock", ".lock, which is to be a lock, is a link", linked(".lock")),
    ("a lock that is a folder", ".lock, which is to be a lock,", edited(".lock", Path.mkdir)),
    ("a lock that is a pipe", ".lock, which is to be a lock,", edited(".lock", os.mkfifo)),
    ("a lock that is another file, too", ".lock, which is to be a lock,", edited(".lock", two_names)),
    ("linked checkpoints", "checkpoints is a link, which a run does not follow", linked("checkpoints")),
    ("a linked configuration", "config.yaml is a link", linked("config.yaml")),
    ("linked metrics", "metrics.jsonl is a link", linked("metrics.jsonl")),
    ("a linked record", "overhaul.json is a link", linked("overhaul.json")),
    ("a linked best student", "best is a link", linked("best")),
    ("a linked final student", "final is a link", linked("final")),
    ("a link among the logs", "logs/overhaul is a link", linked("logs/overhaul")),
    ("a linked earlier run", "replaced-run is a link", linked("replaced-run")),
    (
        "an earlier run that was to be replaced",
        "run/replaced-run holds the run that was to be replaced",
        replaced_too_early,
    ),
]
CASES: list[Case] = [
    *(Case(name, TRAIN, says, make) for name, says, make in (*CHECKPOINTS, *FOLDERS)),
    Case("push a run without a student", PUSH, "is not the folder of a run", new),
    Case("push a record nested deeply", PUSH, "overhaul.json is damaged", student(overhaul=DEEP)),
    Case("push a record that is a list", PUSH, "holds no run that can be read", student(overhaul="[]")),
    Case("push a record that lacks all", PUSH, "overhaul.json is damaged (KeyError", student(NAMED, overhaul="{}")),
    Case("push a record of wrong values", PUSH, "overhaul.json is damaged", student(NAMED, overhaul='{"recipe": 3}')),
    Case("push metrics nested deeply", PUSH, "holds no run that can be read", student(metrics=DEEP)),
    Case("push metrics of nothing", PUSH, "has not finished an epoch yet", student(metrics="")),
    Case("push metrics that are no epochs", PUSH, "holds no run that can be read", student(metrics="[3]")),
    Case("push a student nested deeply", PUSH, "is not JSON", student(DEEP)),
    Case("evaluate a student nested deeply", EVALUATE, "is not JSON", student(DEEP)),
    Case("evaluate weights of nothing", EVALUATE, "is not a safetensors file, or a broken one", student(NAMED)),
    Case("evaluate weights that are a pickle", EVALUATE, "is not a safetensors file", student(NAMED, b"\x80\x04.")),
    Case("evaluate a run without a student", EVALUATE, "run", new),
    Case(
        "predict by a network that runs code", ("predict", "run", "x.png"), "", student('{"architecture": "os.system"}')
    ),
]
