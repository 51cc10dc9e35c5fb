"""Hostile inputs by way of the rows for images of one's own, and of the networks that they are given."""

from pathlib import Path

from support.hostile import Case

GREY = """from torch import nn
def make(num_classes):
    features = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(4, num_classes))
"""
ALONE = ("--method", "original")
OWN = ("train", "--student", "timm:resnet18", "--data_path", "images", *ALONE)


def grey(folder: Path) -> None:
    (folder / "grey.py").write_text(GREY)


CASES = [
    Case(
        "a network of grey images",
        ("train", "--setup", "digits", "--student", "grey.py:make", *ALONE, "--image_size", "16"),
        "takes images of 1 channels, and all are shown in 3",
        grey,
    ),
    Case("a learning rate that only SGD has", (*OWN, "--optimizer", "adamw"), "needs its learning rate named, --lr"),
    Case(
        "a length that a row does not choose",
        ("train", "--setup", "digits", *ALONE, "--epochs", "null"),
        "--epochs takes a number",
    ),
]
