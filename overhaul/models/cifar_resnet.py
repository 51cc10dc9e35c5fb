"""Residual networks for 32-pixel images (He et al., 2016), each block's last ReLU moved to the head of the next."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.models.backbone import Backbone, Stages, count_blocks, init_weights
from overhaul.system.messages import UserError


class Block(nn.Module):
    """relu, 3x3, bn1, relu, 3x3, bn2, plus the activated input or its 1x1 projection; input and output are pre-ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, active: Tensor) -> Tensor:
        """`active` is relu(input): the network runs it itself, since the input is a feature where a stage opens."""
        shortcut = active if self.downsample is None else self.downsample(active)
        return self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(active))))).add_(shortcut)


def stage(depth: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *(Block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(depth))
    )


class CifarResNet(Backbone):
    """ResNet of `depth` = 6n + 2 (8, 14, 20, ...) layers: three stages of 16, 32 and 64 channels."""

    def __init__(self, depth: int, num_classes: int) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"cifar_resnet: depth must be 6n + 2 (8, 14, 20, ..., 56), not {depth}")
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(blocks, 16, 16, stride=1)
        self.layer2 = stage(blocks, 16, 32, stride=2)
        self.layer3 = stage(blocks, 32, 64, stride=2)
        self.fc = nn.Linear(64, num_classes)
        init_weights(self)

    def forward_stages(self, images: Tensor) -> Stages:
        x, features = self.bn1(self.conv1(images)), []
        for layer in (self.layer1, self.layer2, self.layer3):
            for i, block in enumerate(layer):
                x = block(F.relu(x, inplace=i > 0 or not features))
            features.append(x)
        return Stages(self.fc(F.relu(x).mean((2, 3))), features)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [layer[-1].bn2 for layer in (self.layer1, self.layer2, self.layer3)]

    @staticmethod
    def recognise(state: Mapping) -> dict | None:
        if "layer3.0.conv1.weight" not in state or "layer4.0.conv1.weight" in state or "bn_final.weight" in state:
            return None
        return {"depth": 6 * count_blocks(state, "layer1.") + 2}


Network = CifarResNet
