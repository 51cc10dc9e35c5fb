"""Small networks of other people's habits, three stages of 8, 16 and 24 channels each, for what looks for positions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def shaken(network: nn.Module) -> nn.Module:
    """The same with norms that are not at their start, where a map behind a zero scale would have no negatives."""
    for module in network.modules():
        if getattr(module, "bias", None) is not None and "Norm" in type(module).__name__:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


def convolution(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class Plain(nn.Module):
    """Convolution, BatchNorm and ReLU, thrice."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2, self.stage3 = convolution(3, 8), convolution(8, 16), convolution(16, 24)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, 5)

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for stage in (self.stage1, self.stage2, self.stage3):
            x = self.activate(stage(x))
        return self.head(x)


class Shared(Plain):
    """One activation module for all, which writes in place."""

    def activate(self, x: Tensor) -> Tensor:
        return self.act(x)


class Statement(Plain):
    """What the activation gives is not taken: the network counts on its writing in place."""

    def activate(self, x: Tensor) -> Tensor:
        self.act(x)
        return x


class Through(Plain):
    """Writes in place through a view."""

    def activate(self, x: Tensor) -> Tensor:
        x.view(-1).relu_()
        return x


class Silu(Plain):
    def activate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * x


class Functional(Plain):
    """No module of a norm or an activation runs as one."""

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for convolution, norm in (self.stage1, self.stage2, self.stage3):
            x = F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)
            x = F.relu_(x)
        return self.head(x)


class Direct(Plain):
    """Calls forward itself, past all hooks."""

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for stage in (self.stage1, self.stage2, self.stage3):
            x = self.act.forward(stage.forward(x))
        return self.head(x)


class Residual(Plain):
    """Its shortcut is overwritten by the ReLU before the branch, by accident."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = convolution(24, 24, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stage3(self.act(self.stage2(self.act(self.stage1(images)))))
        shortcut = x
        x = self.branch(self.act(x))
        x += shortcut
        return self.head(self.act(x))


class Preactivated(nn.Module):
    """Norm and ReLU before each convolution; the map of a stage is inside the block that opens the next."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.norm, self.act = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
            self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else None

        def forward(self, x: Tensor) -> Tensor:
            active = self.act(self.norm(x))
            return self.conv(active) + (x if self.shortcut is None else self.shortcut(active))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        shapes = (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 24, 2)
        self.blocks = nn.Sequential(*(self.Block(*shape) for shape in shapes))
        self.norm, self.fc = nn.BatchNorm2d(24), nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.relu(self.norm(self.blocks(self.stem(images)))).mean((2, 3)))


class Dense(Plain):
    """Ends its stages in concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.ModuleList([convolution(3, 8), convolution(16, 16), convolution(32, 24)])
        self.stage2, self.stage3, self.fc = convolution(16, 16), convolution(32, 24), nn.Linear(48, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for stage, other in zip((self.stage1, self.stage2, self.stage3), self.beside, strict=True):
            x = torch.cat([F.relu(stage(x)), self.act(other(x))], 1)
        return self.head(x)


class Undecided(Plain):
    """Asks for the value of a map, which has none on the meta device; counts and keeps what it saw, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.kept = 0, []
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        self.steps += 1
        self.kept.append(images)
        torch.rand(1)
        return super().forward(-images if images.mean() > 100 else images)


class Checkpointed(Plain):
    def activate(self, x: Tensor) -> Tensor:
        return checkpoint(F.relu, x, use_reentrant=False)


class Named(Plain):
    """Has modules of the names that are used around it, one of them under two."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.hooks, self.again = nn.BatchNorm2d(8), nn.Identity(), self.stage2

    def forward(self, images: Tensor) -> Tensor:
        x = self.activate(self.again(self.activate(self.net(self.stage1(images)))))
        return self.head(self.activate(self.stage3(x)))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Object(Plain):
    def forward(self, images: Tensor) -> Output:
        return Output(super().forward(images), images)


class Auxiliary(Plain):
    """A second head in training."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.activate(self.stage2(self.activate(self.stage1(images))))
        logits = self.head(self.activate(self.stage3(x)))
        return (logits, self.aux(x.mean((2, 3)))) if self.training else logits


class Normalised(Plain):
    """Weight norm, old and new, in place of a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stage2 = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 16, 3, 2, 1))
        self.stage3 = nn.utils.weight_norm(nn.Conv2d(16, 24, 3, 2, 1))


NETWORKS = {
    each.__name__: each
    for each in (
        *(Plain, Shared, Statement, Through, Silu, Functional, Direct, Residual, Preactivated, Dense, Undecided),
        *(Checkpointed, Named, Object, Auxiliary, Normalised),
    )
}
