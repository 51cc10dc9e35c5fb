"""What a row leaves open, chosen by the training images and by whether weights are trained; imports without torch."""

from dataclasses import replace

from overhaul.recipe import OPEN, Setup

BATCH, LEAST_BATCH, SHARE = 64, 8, 10  # images a step, at most and at least; steps that an epoch should have
RATE, FOR = 0.1, 256  # the learning rate of SGD from fresh weights, and for which batch (Goyal et al., 2017)
FINE_TUNING = 0.1  # its share from trained weights
FRESH, TRAINED = (10_000, 30, 300), (3_000, 10, 100)  # steps, and the fewest and the most epochs
WARM_UP = 0.05  # of the epochs


def chosen(setup: Setup, images: int, pretrained: bool) -> tuple[Setup, str]:
    """The setup with nothing left open, and what was chosen and why, "" where nothing was. What is named counts.

    images: for training; pretrained: whether the student begins with trained weights.
    batch_size: 64, and for fewer than 640 images the largest power of two within a tenth of them, but at least 8.
    epochs: as many as make 10,000 steps from fresh weights, 30 to 300; 3,000 steps from trained ones, 10 to 100.
    lr: of fresh weights 0.1 for a batch of 256, of trained ones 0.01, and for another batch in proportion.
    warmup_epochs: a twentieth of the epochs.
    """
    steps, fewest, most = TRAINED if pretrained else FRESH
    batch = setup.batch_size or batch_for(images)
    epochs = setup.epochs or min(max(-(-steps // max(1, images // batch)), fewest), most)
    rate = RATE * FINE_TUNING if pretrained else RATE
    found = {"batch_size": batch, "epochs": epochs, "lr": rate * batch / FOR, "warmup_epochs": WARM_UP * epochs}
    reasons = {
        "epochs": f" ({steps:,} steps, but {fewest} to {most} epochs)",
        "lr": f" ({rate:g} x batch_size / {FOR})",
        "warmup_epochs": f" ({WARM_UP:g} x epochs)",
    }
    found = {name: value for name, value in found.items() if getattr(setup, name) is None}
    if not found:
        return setup, ""
    words = ", ".join(f"{name} {value:g}{reasons.get(name, '')}" for name, value in found.items())
    return replace(setup, **found), f"{words}: for {images:,} images and {'trained' if pretrained else 'fresh'} weights"


def batch_for(images: int) -> int:
    """The batch for so many training images: a power of two."""
    most = min(BATCH, max(LEAST_BATCH, images // SHARE), max(1, images))
    return 1 << most.bit_length() - 1


def is_open(setup: Setup) -> bool:
    """Whether something is left to be chosen."""
    return any(getattr(setup, name) is None for name in OPEN)
