"""The sums of an epoch: what they are, what a step that is not finite leaves, and when they are looked at."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from overhaul.setups import SETUPS
from overhaul.system.accelerator import all_finite, start
from overhaul.training import metrics
from overhaul.training.metrics import Meter

SETUP = SETUPS["digits"]
LOGITS = torch.eye(4, 10)  # right for the first two
LABELS = torch.tensor([0, 1, 5, 5])


@pytest.fixture
def meter() -> Meter:
    return Meter(start("no"), SETUP)


def add(meter: Meter, cross_entropy=1.0, distill_loss=2.0, labels=LABELS) -> None:
    meter.add(LOGITS, labels, torch.tensor(cross_entropy), torch.tensor(distill_loss))


def test_means_over_the_images(meter):
    add(meter)
    meter.add(LOGITS[:2], LABELS[:2], torch.tensor(4.0), torch.tensor(5.0))
    expected = {"loss": 5.0, "cross_entropy": 2.0, "distill_loss": 3.0, "train_top1": 100 * 4 / 6, "images": 6}
    assert meter.read(7) == pytest.approx({**expected, "first_nonfinite_step": math.inf, "broken": 7})


def test_mixed_labels_and_a_sum_of_methods():
    meter = Meter(start("no"), replace(SETUP, method="overhaul+kd", label_weight=0.5))
    add(meter, distill_loss=[2.0, 3.0], labels=F.one_hot(LABELS, 10).float())
    found = meter.read()
    assert (found["loss"], found["distill_loss.overhaul"], found["distill_loss.kd"]) == (5.5, 2, 3)
    assert found["train_top1"] == 50


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["cross_entropy", "distill_loss"])
def test_the_first_step_that_is_not_finite(meter, wrong, which):
    """Of an epoch that goes on after 10 steps; what comes after it changes nothing."""
    meter.begin({"sums": [1.0, 1.0, 1.0, 4.0], "seconds": 5.0}, steps=10)
    for value in (1.0, 1.0, wrong, 1.0, -wrong):
        add(meter, **{which: value})
    assert meter.read()["first_nonfinite_step"] == 13


def test_what_is_kept_goes_on(meter):
    add(meter)
    kept = meter.state()
    add(meter)
    whole = meter.read()
    meter.begin(kept, steps=1)
    add(meter)
    assert meter.read() == whole and meter.seconds >= kept["seconds"]


def test_the_sums_stay_where_they_are(meter):
    """A captured step writes to them."""
    places = [each.data_ptr() for each in (meter.sums, meter.finite_steps)]
    add(meter)
    meter.begin(meter.state(), 1)
    add(meter)
    assert places == [each.data_ptr() for each in (meter.sums, meter.finite_steps)]


class Event:
    """In place of CUDA's."""

    def __init__(self) -> None:
        self.waited = []
        events.append(self)

    def record(self) -> None:
        self.waited.append("recorded")

    def synchronize(self) -> None:
        self.waited.append("waited")


events: list[Event] = []


def test_a_look_ahead_of_the_device_gives_what_the_look_before_read(meter, monkeypatch):
    events.clear()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    add(meter)
    assert meter.look()[0]["images"] == 4
    meter.ahead = True
    assert meter.look() is None and events[0].waited == ["recorded"]
    add(meter)
    means, seconds = meter.look()
    assert means["images"] == 4 and seconds <= meter.seconds and events[0].waited == ["recorded", "waited"]
    assert events[1].waited == ["recorded"] and meter.read()["images"] == 8
    meter.begin()
    assert meter.look() is None


def test_a_look_is_due_after_a_while(meter, monkeypatch):
    add(meter)
    now = meter.looked
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    assert not meter.old
    now += metrics.LOOK + 0.01
    assert meter.old
    meter.look()
    assert not meter.old


@pytest.mark.parametrize("wrong", [None, "weight", "running_var"])
def test_whether_all_is_finite(wrong):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    if wrong:
        getattr(network[1], wrong).data[1] = math.inf
    assert all_finite(network) is (wrong is None)
