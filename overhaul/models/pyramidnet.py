"""PyramidNet for 32-pixel images (Han et al., 2017): the width grows by the same amount at every block."""

from collections.abc import Mapping

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.models.backbone import Backbone, Stages, count_blocks, init_weights
from overhaul.system.messages import UserError


@torch.fx.wrap  # fx cannot trace what writes into a part of a tensor
def add_shortcut(out: Tensor, x: Tensor, stride: int) -> Tensor:
    """out, with a block's input x added at its resolution to the first of its channels."""
    if stride == 2:
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    out[:, : x.shape[1]] += x
    return out


class Basic(nn.Module):
    """bn1, 3x3, bn2, relu, 3x3, bn3."""

    expansion, layers = 1, 2

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def opening(self, x: Tensor) -> Tensor:
        """The map compared where this block opens a stage: the output of bn1."""
        return self.bn1(x)

    def forward(self, x: Tensor, opened: Tensor) -> Tensor:
        out = self.bn3(self.conv2(F.relu_(self.bn2(self.conv1(opened)))))
        return add_shortcut(out, x, self.stride)

    @property
    def opening_norm(self) -> nn.BatchNorm2d:
        return self.bn1


class Bottleneck(nn.Module):
    """bn1, 1x1, bn2, relu, 3x3, bn3, relu, 1x1 to four times the width, bn4."""

    expansion, layers = 4, 3

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(width * self.expansion)

    def opening(self, x: Tensor) -> Tensor:
        """The map compared where this block opens a stage: the output of bn2, the first that a ReLU follows."""
        return self.bn2(self.conv1(self.bn1(x)))

    def forward(self, x: Tensor, opened: Tensor) -> Tensor:
        out = self.bn4(self.conv3(F.relu_(self.bn3(self.conv2(F.relu(opened))))))
        return add_shortcut(out, x, self.stride)

    @property
    def opening_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class PyramidNet(Backbone):
    """PyramidNet of `depth` = 6n + 2 (8, 14, ...) basic or 9n + 2 (11, 20, ...) bottleneck layers.

    The last block is `alpha` channels wider than the first.
    """

    def __init__(self, depth: int, alpha: int, num_classes: int, bottleneck: bool) -> None:
        block = Bottleneck if bottleneck else Basic
        per_block = 3 * block.layers
        if depth < 2 + per_block or (depth - 2) % per_block or alpha < 1:
            raise UserError(f"pyramidnet: depth must be {per_block}n + 2 and alpha >= 1, not {depth}, {alpha}")
        super().__init__()
        blocks = (depth - 2) // per_block
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width, channels = 16.0, 16  # the width stays a float between blocks and is rounded at each
        for number in (1, 2, 3):
            layer = nn.Sequential()
            for i in range(blocks):
                width += alpha / (3 * blocks)
                layer.append(block(channels, round(width), stride=2 if i == 0 and number > 1 else 1))
                channels = round(width) * block.expansion
            self.add_module(f"layer{number}", layer)
        self.bn_final = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward_stages(self, images: Tensor) -> Stages:
        x, features = self.bn1(self.conv1(images)), []
        for layer in (self.layer1, self.layer2, self.layer3):
            for i, block in enumerate(layer):
                opened = block.opening(x)
                if i == 0 and layer is not self.layer1:
                    features.append(opened)
                x = block(x, opened)
        features.append(self.bn_final(x))
        return Stages(self.fc(F.relu(features[-1]).mean((2, 3))), features)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [self.layer2[0].opening_norm, self.layer3[0].opening_norm, self.bn_final]

    @staticmethod
    def recognise(state: Mapping) -> dict | None:
        if "bn_final.weight" not in state:
            return None
        bottleneck = "layer1.0.conv3.weight" in state
        last_width = state["bn_final.weight"].shape[0] // (4 if bottleneck else 1)
        depth = 3 * (3 if bottleneck else 2) * count_blocks(state, "layer1.") + 2
        return {"depth": depth, "alpha": last_width - 16, "bottleneck": bottleneck}


Network = PyramidNet
