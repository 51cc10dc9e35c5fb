"""What `inspect` refuses, and whose classes and sizes it shows."""

import pytest
import timm
import torch

from overhaul import api
from overhaul.recipe import Net
from overhaul.system.messages import UserError


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("needs a SOURCE, or both", {"setup": "own"}),
        ("--image_size must be at least 1", {"source": "timm:resnet10t", "image_size": 0}),
        ("--teacher.image_size must be", {"teacher": Net(family="resnet", image_size=0), "student": "timm:resnet10t"}),
        ("say torchvision:resnet18@DEFAULT alone", {"source": "it.pt", "net": "torchvision:resnet18@DEFAULT"}),
        ("there is no such file", {"source": "missing.pt", "net": "timm:resnet10t"}),
        ("named by a word", {"teacher": 5, "student": "timm:resnet10t"}),
    ],
)
def test_what_is_refused(words, values):
    with pytest.raises(UserError, match=words):
        api.inspect(**values)


def test_a_file_is_shown_with_its_own_classes_and_must_fit(tmp_path):
    network = timm.create_model("resnet10t", num_classes=9)
    torch.save(network.state_dict(), tmp_path / "it.pt")
    found = api.inspect(str(tmp_path / "it.pt"), net="timm:resnet10t")["networks"]["network"]
    assert found["parameters"] == sum(each.numel() for each in network.parameters())
    with pytest.raises(UserError, match="does not fit"):
        api.inspect(teacher="timm:resnet10t", student=Net(family="timm:resnet14t", weights=str(tmp_path / "it.pt")))
