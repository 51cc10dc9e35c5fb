"""A run on images of one's own claims no public set, and is compared to nothing that was published for one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import datasets
from huggingface_hub import ModelCard
from support.images import some_split, write_parquet

from overhaul.data.known import KNOWN
from overhaul.hub import publish
from overhaul.run.folder import RunFolder


def hundred_classes(folder: Path) -> str:
    """A folder with 128 images of 100 classes without names, for training, and 100 for validation."""
    how, sizes = {"feature": datasets.Value("int64")}, {"train": 128, "validation": 100}
    return write_parquet(
        folder, **{name: some_split(n, labels=[i % 100 for i in range(n)], **how) for name, n in sizes.items()}
    )


def test_images_of_one_s_own_are_told_as_such(tmp_path, overhaul, monkeypatch):
    """With the row's networks and number of classes: neither the set's name nor what was published for it."""
    path = hundred_classes(tmp_path / "secret" / "my_images")
    small = ["--epochs", 1, "--image_size", 8, "--pad", 0, "--crop_area", "[0.5, 1]", "--workers", 0]
    command = ["train", "--setup", "cifar_c", "--method", "original", "--data_path", path, *small]
    result = overhaul(*command, "--output_dir", tmp_path / "own")
    assert result.status == 0 and "published" not in result.out, result.err
    record, _ = RunFolder(tmp_path / "own").read()
    data = record["data"]
    assert record["published"] is None and "secret" not in json.dumps(record)
    assert (data["name"], data["hub_id"], data["local_copy"]) == ("my_images", None, True)
    counts = {"classes": 100, "images": 128, "test_images": 100, "test_split": "validation"}
    assert data.items() >= counts.items()
    made = tmp_path / "made"
    made.mkdir()
    publish.make_repository(RunFolder(tmp_path / "own"), tmp_path / "own" / "final", made, "me/student", "final")
    card = ModelCard.load(made / "README.md")
    text, counts = card.content, "128 training and 100 test images"
    assert f"# wide_resnet depth 16 width 2, trained on my_images (100 classes, {counts})\n" in text
    assert f"for 100 classes of my_images ({counts})" in text
    assert not re.search("cifar-?100|imagenet|secret|published", text.replace("cifar_c", ""), re.IGNORECASE)

    told = card.data.eval_results[0]
    assert (told.dataset_type, told.dataset_name, told.dataset_split) == ("imagefolder", "my_images", "validation")
    assert card.data.datasets is None and told.dataset_revision is None

    few = replace(KNOWN["cifar100"], training=(128, 1, 2), test=(100, 1, 1))
    monkeypatch.setitem(KNOWN, "cifar100", few)
    result = overhaul(*command, "--output_dir", tmp_path / "named")
    assert "published top-1 error: 24.08 % distilled" in result.out
    record, _ = RunFolder(tmp_path / "named").read()
    assert record["published"]["distilled"] == 24.08 and record["data"]["hub_id"] == "uoft-cs/cifar100"
