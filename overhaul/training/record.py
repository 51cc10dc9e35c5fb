"""What a run ends with: its result, and the record of all that a result must be told with, as plain values."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from overhaul.data import sources
from overhaul.data.known import folder_name, is_named, local_folder
from overhaul.hub import Weights
from overhaul.hub.entries import without_folder
from overhaul.methods import filled
from overhaul.models import parameters
from overhaul.recipe import Net
from overhaul.run.folder import best_line
from overhaul.run.state import State
from overhaul.system.accelerator import describe_devices
from overhaul.training.build import Components

PACKAGES = ("overhaul", "torch", "torchvision", "accelerate", "datasets", "huggingface-hub", "numpy")
ELSEWHERE = ("name", "method", "method_settings", "data", "teacher", "student", "num_classes", "published", "like")
HOW = (
    "seed",
    "gradient_accumulation_steps",
    "sync_bn",
    "compile",
    "comm_hook",
    "deterministic",
    "tf32",
    "streaming",
    "skip_broken",
)


@dataclass(frozen=True)
class Result:
    """How a run ended. metrics: the lines of its metrics.jsonl; teacher_top1: percent, or None without a teacher."""

    folder: Path
    metrics: list[dict]
    teacher_top1: float | None

    @property
    def final(self) -> dict:
        return self.metrics[-1]

    @property
    def best(self) -> dict:
        return best_line(self.metrics)


def make_record(of: Components, state: State) -> dict:
    """Of a run that begins or goes on. Of local paths only the last name is kept."""
    setup, origin = of.setup, of.teacher_weights
    recipe = {key: value for key, value in asdict(setup).items() if key not in ELSEWHERE}
    how = {key: getattr(of.run, key) for key in HOW}
    how |= {"mixed_precision": of.accelerator.mixed_precision, "hardware": describe_devices(of.accelerator)}
    teacher = origin and {**describe(setup.teacher), **describe_weights(origin), "test_top1": state.teacher_top1}
    return {
        "setup": setup.name,
        "method": setup.method,
        "method_settings": filled(setup.method, setup.method_settings),
        "teacher": teacher,
        "student": {**describe(setup.student), **started_from(of.student_weights)},
        "data": describe_data(of),
        "recipe": recipe,
        "changes_of_length": state.lengths,
        "run": how,
        "published": setup.published and asdict(setup.published),
        "positions": of.positions and of.positions["pairs"],
        "first_batch": state.first_batch,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def describe(net: Net) -> dict:
    return {"family": without_folder(net.family), "kwargs": net.kwargs, "parameters": parameters(net)}


def describe_weights(weights: Weights) -> dict:
    """Where they come from."""
    named = weights.revision or weights.source == "torchvision"
    source = weights.source if named else Path(weights.source).name
    return {"source": source, "revision": weights.revision, "sha256": weights.sha256}


def started_from(weights: Weights | None) -> dict:
    return {"started_from": describe_weights(weights)} if weights else {}


def describe_data(of: Components) -> dict:
    """A set is named where the images come from it; of a folder of one's own its last name, and how many they are."""
    data, images, tests = of.setup.data, of.train_loader.images, of.test_loader
    folder = local_folder(data, of.run.data_path)
    own = not is_named(data, of.run.data_path, images, tests.images)
    return {
        "name": folder_name(folder) if own else data,
        "hub_id": None if own or data == "digits" else sources.HUB_IDS.get(data, data),
        "local_copy": folder is not None,
        "revision": None if folder else images.revision,
        "classes": len(images.classes),
        "class_names": list(images.classes),
        "images": len(images),
        "training_images": images.fingerprint,
        "test_images": tests.expected,
        "test_split": tests.images.split,
    }
