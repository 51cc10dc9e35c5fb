"""A file of networks such as a user has: what its functions return, and what they do wrong."""

NETWORKS = """
import torch
from torch import nn


def stage(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Net(nn.Module):
    "Two names for one tensor, buffers of every kind, logits in a dictionary, and an auxiliary head."

    def __init__(self, width, classes):
        super().__init__()
        self.stem, self.body, self.more = stage(3, width), stage(width, width), stage(width, width)
        self.more[0].weight = self.again = nn.Parameter(self.body[0].weight.detach().clone())
        self.register_buffer("steps", torch.tensor([3, 4]))
        self.register_buffer("whole", torch.ones(2, dtype=torch.float64))
        self.register_buffer("passing", torch.ones(1), persistent=False)
        self.aside = nn.Linear(width, classes)
        self.out = nn.Sequential(nn.Dropout(0.1), nn.Linear(width, classes))

    def forward(self, x):
        x = self.more(self.body(self.stem(x))).mean((2, 3)) * self.passing
        return {"logits": self.out(x), "aside": self.aside(x) if self.training else None}


def make_net(num_classes, width=8):
    return Net(width, num_classes)


def fixed(width=8):
    return Net(width, 7)


def by_hand(num_classes=7):
    "Cannot be made without values."
    net = Net(8, num_classes)
    net.scale = float(net.whole.sum())
    return net
"""
