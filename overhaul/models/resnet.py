"""Residual networks for ImageNet (He et al., 2016), ResNet 18 to 152, under torchvision's names."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.models.backbone import Backbone, Stages, count_blocks, init_weights
from overhaul.system.messages import UserError


class Basic(nn.Module):
    """Two 3x3 convolutions; the output is the sum with the shortcut, before its ReLU."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        return out.add_(x if self.downsample is None else self.downsample(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width; the output is the sum, before its ReLU."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu_(self.bn2(self.conv2(out)))))
        return out.add_(x if self.downsample is None else self.downsample(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


BLOCKS = {
    18: (Basic, (2, 2, 2, 2)),
    34: (Basic, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(Backbone):
    """ResNet of `depth` 18, 34, 50, 101 or 152 layers: four stages at strides 4, 8, 16 and 32."""

    def __init__(self, depth: int, num_classes: int) -> None:
        if depth not in BLOCKS:
            raise UserError(f"resnet: depth must be one of {', '.join(map(str, BLOCKS))}, not {depth}")
        super().__init__()
        block, depths = BLOCKS[depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for number, (blocks, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
            layer = nn.Sequential()
            for i in range(blocks):
                layer.append(block(channels, width, stride=2 if i == 0 and number > 1 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{number}", layer)
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    @property
    def layers(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward_stages(self, images: Tensor) -> Stages:
        x, features = F.max_pool2d(F.relu_(self.bn1(self.conv1(images))), 3, 2, padding=1), []
        for layer in self.layers:
            for block in layer:
                summed = block(x)
                x = F.relu(summed, inplace=block is not layer[-1])
            features.append(summed)
        return Stages(self.fc(x.mean((2, 3))), features)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [layer[-1].last_norm for layer in self.layers]

    @staticmethod
    def recognise(state: Mapping) -> dict | None:
        if "layer4.0.conv1.weight" not in state:
            return None
        depths = tuple(count_blocks(state, f"layer{number}.") for number in (1, 2, 3, 4))
        bottleneck = "layer1.0.conv3.weight" in state
        for depth, (block, known) in BLOCKS.items():
            if known == depths and (block.expansion == 4) == bottleneck:
                return {"depth": depth}
        return None


Network = ResNet
