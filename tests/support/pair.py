"""Two small networks in a user's file, far apart: a teacher without BatchNorm, a student with dropout."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from overhaul import models
from overhaul.options import Run
from overhaul.recipe import Net, Setup
from overhaul.training.build import build
from overhaul.training.first_batch import measure_first_batch
from overhaul.training.margins import measure_margins
from overhaul.training.optimisation import training_step
from support.runs import DIGITS

NETS = '''
import torch
from torch import nn


def stage(norm, inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), norm(outputs), nn.ReLU(inplace=True))


class Student(nn.Module):
    """Maps of a half, a quarter and an eighth of the image, and dropout."""

    def __init__(self, num_classes):
        super().__init__()
        self.one, self.two, self.three = (stage(nn.BatchNorm2d, *each) for each in ((3, 8), (8, 12), (12, 16)))
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(16, num_classes)

    def forward(self, images):
        return self.fc(self.drop(self.three(self.two(self.one(images))).mean((2, 3))))


class Teacher(nn.Module):
    """Maps of the whole image and of three smaller ones, with norms that tell no margin, and dropout between them."""

    def __init__(self, num_classes):
        super().__init__()
        norm = lambda channels: nn.GroupNorm(2, channels)
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 1, 1), norm(8), nn.ReLU()), *(nn.Conv2d(8, 8, 3, 1, 1), norm(8), nn.ReLU())
        )
        norms = norm, lambda channels: nn.BatchNorm2d(channels, affine=False), norm
        self.layers = nn.ModuleList(map(stage, norms, (8, 8, 16), (8, 16, 32)))
        self.drop, self.fc = nn.Dropout2d(0.5), nn.Linear(32, num_classes)

    def forward(self, images):
        x = self.stem(images)
        for layer in self.layers:
            x = layer(self.drop(x))
        return self.fc(x.mean((2, 3)))


class Restless(Student):
    """Has one convolution under two names and its weight in another, asks a state for its version, skips a layer."""

    _version = 2

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.more, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.again, self.other.weight = self.more, self.more.weight

    def forward(self, images):
        x = self.two(self.one(images))
        x = self.three[1](self.three[0](x))
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.other(self.again(x))
        return self.fc(self.drop(x.relu().mean((2, 3))))

    def _load_from_state_dict(self, state, prefix, metadata, *more):
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *more)


class Around(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = Restless(num_classes)

    def forward(self, images):
        return self.body(images)


def student(num_classes):
    return Student(num_classes)


def restless(num_classes):
    return Around(num_classes)


def teacher(num_classes):
    return Teacher(num_classes)
'''


def write_pair(folder: Path) -> Path:
    """nets.py and the teacher's weights, of seven classes, teacher.pt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nets.py").write_text(NETS)
    torch.manual_seed(3)
    net = models.create(Net(family=f"{folder / 'nets.py'}:teacher", kwargs={"num_classes": 7}))
    for name, each in net.named_parameters():
        if each.ndim == 1 and "fc" not in name:
            each.data.add_(0.3 * torch.randn_like(each))
    torch.save(net.state_dict(), folder / "teacher.pt")
    return folder


def pair(folder: Path, **changes) -> Setup:
    """A training of the digits with the two."""
    teacher = Net(family=f"{folder / 'nets.py'}:teacher", weights=str(folder / "teacher.pt"))
    networks = {"teacher": teacher, "student": Net(family=f"{folder / 'nets.py'}:student")}
    return replace(DIGITS, **{**networks, "epochs": 1, **changes})


def gradients(folder: Path) -> dict[str, torch.Tensor]:
    """Margins, losses and gradients of the first step with BatchNorm in eval mode, on whatever processes there are.

    And what is measured of the first batch.
    """
    of = build(pair(folder), Run())
    measure_margins(of, lambda text: None)
    of.model.eval()
    of.teacher.eval()
    images, labels = next(iter(of.train_loader))
    first = measure_first_batch(of, of.normalize(images), labels)
    networks = of.accelerator, of.model, of.teacher_forward, SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    _, *losses = training_step(*networks, of.normalize(images), labels, of.setup.distill_weight)
    found = {name: parameter.grad.clone() for name, parameter in of.method.named_parameters()}
    found |= {name: value.clone() for name, value in of.method.named_buffers() if name.startswith("margin")}
    found["first batch"] = torch.tensor([*first.pop("stage_losses"), *first.values()])
    found["losses"] = of.accelerator.reduce(torch.stack(losses), "mean")
    of.accelerator.end_training()
    return found
