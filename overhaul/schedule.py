"""The learning rate of every step, a pure function of a recipe and the step; imports without torch."""

import math

from overhaul import methods
from overhaul.system.messages import UserError

ENDS = 1e-9  # of an epoch: what fractions of epochs may be off by


def drops_before(recipe, epoch: int) -> int:
    """How many drops of the schedule `step` lie behind a run that has finished `epoch` epochs."""
    return sum(epoch >= fraction * recipe.epochs - ENDS for fraction in recipe.lr_drops)


def moves(recipe) -> bool:
    """Whether the learning rate may change within an epoch."""
    return recipe.lr_schedule != "step" or recipe.warmup_epochs > 0


def rate(recipe, step: int, steps: int) -> float:
    """The learning rate after `step` steps of a run; steps: of an epoch.

    It rises to recipe.lr in equal parts over warmup_epochs, the first step having one part. `step` divides it by 10 at
    each of lr_drops; `cosine` and `linear` take it from there to lr_min, which the step after the last one would have
    (Loshchilov and Hutter, 2017, without restarts).
    """
    warm_up, whole = round(recipe.warmup_epochs * steps), recipe.epochs * steps
    if step < warm_up:
        return recipe.lr * (step + 1) / warm_up
    if recipe.lr_schedule == "step":
        return recipe.lr / 10 ** drops_before(recipe, step // steps)
    left = 1 - (step - warm_up) / (whole - warm_up)
    if recipe.lr_schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return recipe.lr_min + (recipe.lr - recipe.lr_min) * left


def check(recipe) -> None:
    """UserError for a schedule that means nothing, or bounds that none could keep."""
    if not all(0 < fraction < 1 for fraction in recipe.lr_drops):
        raise UserError(f"--lr_drops are fractions of the run between 0 and 1, not {list(recipe.lr_drops)}")
    if recipe.lr is None and recipe.optimizer != "sgd":
        raise UserError(f"--optimizer {recipe.optimizer} needs its learning rate named, --lr: what is chosen is SGD's")
    if recipe.warmup_epochs and recipe.epochs and recipe.warmup_epochs >= recipe.epochs:
        raise UserError(
            f"--warmup_epochs {recipe.warmup_epochs:g} must be fewer than --epochs {recipe.epochs}: nothing would be "
            f"left of the run after it"
        )
    if recipe.lr is not None and recipe.lr_min > recipe.lr:
        raise UserError(f"--lr_min {recipe.lr_min:g} must not be above --lr {recipe.lr:g}")
    if recipe.label_smoothing >= 1:
        raise UserError(f"--label_smoothing must be below 1, not {recipe.label_smoothing:g}")
    if recipe.random_erasing > 1:
        raise UserError(f"--random_erasing is a share of the images and at most 1, not {recipe.random_erasing:g}")
    for name, value in (("clip_grad", recipe.clip_grad), ("head_lr_scale", recipe.head_lr_scale)):
        if value is not None and not (methods.is_number(value) and 0 < value < 1e30):
            raise UserError(f"--{name} must be above 0 and finite, not {value!r}")


def told(recipe) -> str:
    """For people: all but the usual schedule."""
    words = [] if recipe.lr_schedule == "step" else [f"{recipe.lr_schedule} to {recipe.lr_min:g}"]
    words += [f"{recipe.warmup_epochs:g} epochs of warm-up"] if recipe.warmup_epochs else []
    return ", ".join(words)


def idle(recipe) -> dict[str, str]:
    """The fields that change nothing under this optimiser and schedule, and why."""
    found = {}
    if recipe.lr_schedule == "step":
        found["lr_min"] = "--lr_schedule step ends where its last drop leaves it"
    else:
        drops = f"--lr_schedule {recipe.lr_schedule} has no drops"
        found |= {"lr_drops": drops, "restart_momentum": drops}
    if recipe.optimizer != "sgd":
        found |= dict.fromkeys(("momentum", "nesterov", "restart_momentum"), "it is SGD's")
    if not recipe.weight_decay:
        found["no_decay_norms"] = "there is no weight decay"
    return found
