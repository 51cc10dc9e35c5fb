"""MobileNet V1 for ImageNet (Howard et al., 2017), with ReLU, under the names of the published weights."""

from collections.abc import Mapping

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.models.backbone import Backbone, Stages

WIDTHS_AND_STRIDES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
STAGE_ENDS = (3, 5, 11, 13)  # the last block of `model` at strides 4, 8, 16 and 32


class Depthwise(nn.Conv2d):
    """A 3x3 convolution of each channel on its own."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.stride)


@torch.fx.wrap  # its question after device and dtype has no answer while fx traces
def depthwise(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    if stride[0] > 1 and x.device.type == "cpu" and x.dtype == torch.bfloat16:
        return Strided.apply(x, weight.to(x.dtype), stride)
    return F.conv2d(x, weight, None, stride, 1, groups=len(weight))


class Strided(torch.autograd.Function):
    """A strided depthwise convolution in bf16 on a CPU, for which oneDNN has no kernel for the gradient of the input.

    The one without a stride has: its gradient, of zeros where the stride leaps, is the same.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, 1, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        spread = torch.zeros_like(x)
        spread[:, :, :: ctx.stride[0], :: ctx.stride[1]] = gradient
        of_x, _, _ = gradients(spread, x, weight, (1, 1), (True, False, False))
        _, of_weight, _ = gradients(gradient, x, weight, ctx.stride, (False, True, False))
        return of_x, of_weight, None


def gradients(gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], wanted: tuple) -> tuple:
    """Of a depthwise convolution's input, weight and bias, as far as they are wanted."""
    how = {"padding": (1, 1), "dilation": (1, 1), "transposed": False, "output_padding": (0, 0), "groups": len(weight)}
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, stride, **how, output_mask=wanted)


def stem(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, outputs, 3, 2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def separable(inputs: int, outputs: int, stride: int, tapped: bool) -> nn.Sequential:
    """Depthwise 3x3, BatchNorm, ReLU, pointwise 1x1, BatchNorm, ReLU, whose input is a feature where it is tapped."""
    return nn.Sequential(
        Depthwise(inputs, stride),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=not tapped),
    )


class MobileNet(Backbone):
    """MobileNet V1 at width 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(stem(32))
        channels = 32
        for number, (width, stride) in enumerate(WIDTHS_AND_STRIDES, start=1):
            self.model.append(separable(channels, width, stride, number in STAGE_ENDS))
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
