"""Networks in which no maps are found: what compares logits alone trains them, and the rest refuses them in a line."""

import json
from dataclasses import replace

import pytest
import torch
from support.runs import DIGITS

import overhaul
from overhaul import hub, models
from overhaul.hub.card import render
from overhaul.options import Run
from overhaul.recipe import Net, Setup
from overhaul.training.build import build
from overhaul.training.trainer import train

NETS = """
from torch import nn


class Patches(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, num_classes)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)

    def forward(self, images):
        return self.head(self.block(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


def student(num_classes):
    return Patches(8, num_classes)


def teacher(num_classes):
    return Patches(16, num_classes)
"""


@pytest.fixture
def setup(tmp_path) -> Setup:
    (tmp_path / "nets.py").write_text(NETS)
    student, teacher = (Net(family=f"{tmp_path / 'nets.py'}:{role}") for role in ("student", "teacher"))
    network = models.create(teacher, 16, num_classes=10)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    teacher = replace(teacher, weights=str(tmp_path / "teacher.pt"))
    weights = {"distill_weight": 0.9, "label_weight": 0.1, "teacher_norm": "running"}
    return replace(DIGITS, method="kd", **weights, student=student, teacher=teacher, epochs=1)


def test_they_are_distilled_by_their_logits(setup, few_digits, tmp_path):
    result = train(setup, Run(output_dir=str(tmp_path / "run"), data_path=few_digits))
    assert 0 < result.final["distill_loss"] < 10
    record = json.loads((result.folder / "overhaul.json").read_text())
    assert record["positions"] is None and record["first_batch"]["gradient_ratio"] > 0
    student = hub.load(str(result.folder / "final"), Net(family=setup.student.family))
    assert student(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    config = json.loads((result.folder / "final" / "config.json").read_text())
    assert "student (nets.py), distilled on" in render(record, result.metrics, config, "me/it", "final", 1)


@pytest.mark.parametrize("method", ["overhaul", "at"])
def test_what_compares_maps_refuses_them(setup, few_digits, method):
    with pytest.raises(overhaul.UserError, match="Patches has one convolution stage at 16 pixels") as said:
        build(replace(setup, method=method), Run(data_path=few_digits))
    assert "\n" not in str(said.value)
