"""FitNets: hints from a stage in the middle (Romero et al., ICLR 2015)."""

from collections import OrderedDict
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper
from overhaul.distill.resizing import resized
from overhaul.models import Backbone, Stages
from overhaul.system.messages import UserError


class FitNets(Distiller):
    """FitNets compares the feature maps of one stage in the middle, after its ReLU, the student's through a 1x1
    convolution with BatchNorm and ReLU that is thrown away afterwards. Their mean squared difference is added to the
    cross-entropy from the first step on, and not in a phase of its own as in the paper.

    Args:
        stage: number of the stage in both networks, from 0
    """

    paper = Paper(
        title="FitNets: Hints for Thin Deep Nets",
        authors="Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and "
        "Gatta, Carlo and Bengio, Yoshua",
        venue="International Conference on Learning Representations (ICLR)",
        year=2015,
        key="romero2015fitnets",
    )
    compares = "maps of one stage"
    defaults: ClassVar = {"cifar": {"distill_weight": 100.0}, "imagenet": {"stage": 2}}

    def __init__(self, student: Backbone, teacher: Backbone, *, stage: int = 1) -> None:
        super().__init__(student, teacher)
        mine, theirs = student.widths, teacher.widths
        if len(mine) != len(theirs):
            raise UserError(
                f"FitNets counts the stages alike in both: the student has {len(mine)} and the teacher {len(theirs)}; "
                f"name as many for both with --student.positions and --teacher.positions"
            )
        if not 0 <= stage < len(mine):
            raise UserError(f"--method.stage of FitNets is one of 0 to {len(mine) - 1} in these networks, not {stage}")
        self.stage, self.pairs = stage, [(stage, stage)]
        parts = {"conv": nn.Conv2d(mine[stage], theirs[stage], 1), "norm": nn.BatchNorm2d(theirs[stage])}
        self.connectors["regressor"] = nn.Sequential(OrderedDict(parts))

    def connect(self, student: Stages, teacher: Stages) -> Stages:
        """The student's map of the stage, in the teacher's size and width, before the regressor's ReLU."""
        size = teacher.features[self.stage].shape[-2:]
        features = list(student.features)
        features[self.stage] = self.connectors["regressor"](resized(features[self.stage].relu(), size))
        return Stages(student.logits, features)

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """The mean over all elements of the squared difference."""
        return F.mse_loss(student.active(self.stage), teacher.active(self.stage))


Method = FitNets
