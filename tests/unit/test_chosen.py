"""What a row leaves open is chosen by the images and the weights; what is named counts."""

from dataclasses import replace

import pytest

from overhaul.chosen import chosen
from overhaul.recipe import OPEN, Net
from overhaul.setups import SETUPS, settings
from overhaul.system.messages import UserError

OWN = SETUPS["own"]


@pytest.mark.parametrize(
    ("images", "pretrained", "batch", "epochs", "lr"),
    [
        (1, False, 1, 300, 0.1 / 256),
        (7, False, 4, 300, 0.1 * 4 / 256),
        (40, True, 8, 100, 0.01 * 8 / 256),
        (639, True, 32, 100, 0.01 * 32 / 256),
        (640, True, 64, 100, 0.01 * 64 / 256),
        (10_000, True, 64, 20, 0.01 * 64 / 256),
        (10_000, False, 64, 65, 0.025),
        (1_281_167, True, 64, 10, 0.0025),
        (1_281_167, False, 64, 30, 0.025),
    ],
)
def test_length_batch_and_learning_rate_follow_the_images(images, pretrained, batch, epochs, lr):
    setup, why = chosen(OWN, images, pretrained)
    assert (setup.batch_size, setup.epochs, setup.warmup_epochs) == (batch, epochs, 0.05 * epochs)
    assert setup.lr == pytest.approx(lr)
    assert f"for {images:,} images and {'trained' if pretrained else 'fresh'} weights" in why
    assert all(f"{name} {getattr(setup, name):g}" in why for name in OPEN)
    assert chosen(setup, 2 * images, not pretrained) == (setup, "")


@pytest.mark.parametrize("named", [{"epochs": 3}, {"batch_size": 100}, {"lr": 0.5}, {"warmup_epochs": 0.0}])
def test_what_is_named_counts_and_the_rest_follows_it(named):
    setup, why = chosen(replace(OWN, **named), 10_000, False)
    (name, value), *_ = named.items()
    assert getattr(setup, name) == value and f"{name} " not in why.split(": for")[0].split(", ")[0]
    batch, epochs = named.get("batch_size", 64), named.get("epochs", 100 if name == "batch_size" else 65)
    assert (setup.batch_size, setup.epochs) == (batch, epochs)
    assert setup.lr == named.get("lr", 0.1 * batch / 256)
    assert setup.warmup_epochs == named.get("warmup_epochs", 0.05 * epochs)


def test_no_other_row_leaves_anything_open():
    for name, row in SETUPS.items():
        assert [each for each in OPEN if getattr(row, each) is None] == (list(OPEN) if "own" in name else [])
        assert name.startswith("own") or chosen(row, 10, True) == (row, "")
    with pytest.raises(UserError, match="--epochs takes a number: of the rows, own and own_teacher alone choose it"):
        settings("cifar_c", {"epochs": None})
    with pytest.raises(UserError, match="--optimizer adamw needs its learning rate named, --lr"):
        settings("own", {"optimizer": "adamw", "student": Net(family="timm:resnet18"), "data_path": "d"})
