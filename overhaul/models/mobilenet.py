"""MobileNet V1 for ImageNet (Howard et al., 2017), with ReLU, under the names of the published weights."""

from collections.abc import Mapping

from torch import Tensor, nn

from overhaul.models.backbone import Backbone, Stages

WIDTHS_AND_STRIDES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
STAGE_ENDS = (3, 5, 11, 13)  # the last block of `model` at strides 4, 8, 16 and 32


def stem(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, outputs, 3, 2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3, BatchNorm, ReLU, pointwise 1x1, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class MobileNet(Backbone):
    """MobileNet V1 at width 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(stem(32))
        channels = 32
        for width, stride in WIDTHS_AND_STRIDES:
            self.model.append(separable(channels, width, stride))
            channels = width
        self.fc = nn.Linear(channels, num_classes)

    def forward_stages(self, images: Tensor) -> Stages:
        x, features = images, []
        for number, block in enumerate(self.model):
            *layers, last_relu = block
            for layer in layers:
                x = layer(x)
            if number in STAGE_ENDS:
                features.append(x)
            x = last_relu(x)
        return Stages(self.fc(x.mean((2, 3))), features)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [self.model[number][-2] for number in STAGE_ENDS]

    @staticmethod
    def recognise(state: Mapping) -> dict | None:
        return {} if "model.13.3.weight" in state else None


Network = MobileNet
