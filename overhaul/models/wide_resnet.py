"""Wide residual networks for 32-pixel images (Zagoruyko and Komodakis, 2016), named as the published weights."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.models.backbone import Backbone, Stages, count_blocks, init_weights
from overhaul.system.messages import UserError


class Block(nn.Module):
    """bn1, relu, 3x3, bn2, relu, 3x3, plus the raw input, or a 1x1 of the activated one where widths differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """`active` is relu(bn1(x)): the network runs that norm itself, since it is a feature where a stage opens."""
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return self.conv2(F.relu_(self.bn2(self.conv1(active)))).add_(shortcut)


class Stage(nn.Module):
    def __init__(self, depth: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(Block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(depth))
        )


class WideResNet(Backbone):
    """WRN depth-width: `depth` = 6n + 4 (10, 16, 22, ...) layers, stages of `width` times 16, 32 and 64 channels."""

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise UserError(
                f"wide_resnet: depth must be 6n + 4 (10, 16, 22, 28, ...) and width >= 1, not {depth}, {width}"
            )
        super().__init__()
        blocks, widths = (depth - 4) // 6, [16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(blocks, 16, widths[0], stride=1)
        self.block2 = Stage(blocks, widths[0], widths[1], stride=2)
        self.block3 = Stage(blocks, widths[1], widths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        init_weights(self)
        nn.init.zeros_(self.fc.bias)

    def forward_stages(self, images: Tensor) -> Stages:
        x, features = self.conv1(images), []
        for stage in (self.block1, self.block2, self.block3):
            for i, block in enumerate(stage.layer):
                normed, tapped = block.bn1(x), i == 0 and stage is not self.block1
                if tapped:
                    features.append(normed)
                x = block(x, F.relu(normed, inplace=not tapped))
        features.append(self.bn1(x))
        return Stages(self.fc(F.relu(features[-1]).mean((2, 3))), features)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1]

    @staticmethod
    def recognise(state: Mapping) -> dict | None:
        if "block1.layer.0.conv1.weight" not in state:
            return None
        return {
            "depth": 6 * count_blocks(state, "block1.layer.") + 4,
            "width": state["block1.layer.0.conv1.weight"].shape[0] // 16,
        }


Network = WideResNet
