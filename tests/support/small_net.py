"""A network of a user's own: what happens between its layers is in its forward alone, and it returns a dict."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class SmallNet(nn.Module):
    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        sizes = [3, *(width * 2**i for i in range(4))]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[1:])
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(sizes[-1], num_classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)), inplace=True)
        return {"logits": self.last(self.dropout(x.mean((2, 3))))}


def make_net(num_classes: int = 10, width: int = 8) -> SmallNet:
    return SmallNet(num_classes, width)
