"""What the methods say of themselves: their papers, and the usual values of weights and settings."""

import pytest
import torch
from support import method_inputs as inputs
from support.given import between

from overhaul import catalogue, distill

USUAL = {  # label, distill and ramp of CIFAR and ImageNet, and the settings
    "kd": ((0.1, 0.9, 0), (0.5, 0.5, 0), {"temperature": (4, 1), "standardize": (False, False)}),
    "dist": ((1, 2, 0), (1, 2, 0), {"beta": (1, 1), "gamma": (1, 1), "temperature": (4, 1)}),
    "dkd": ((1, 1, 20), (1, 1, 0), {"alpha": (1, 1), "beta": (8, 0.5), "temperature": (4, 1)}),
    "reviewkd": ((1, 5, 20), (1, 1, 0), {}),
    "at": ((1, 1000, 0), (1, 1000, 0), {}),
    "fitnets": ((1, 100, 0), (1, 100, 0), {"stage": (1, 2)}),
    "sp": ((1, 3000, 0), (1, None, 0), {}),
    "rkd": ((1, 1, 0), (1, 1, 0), {"distance_weight": (25, 25), "angle_weight": (50, 50)}),
}


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_values(name):
    told = catalogue.method(name)
    for number, kind in enumerate(("cifar", "imagenet")):
        usual = {"label_weight": 1, "ramp_epochs": 0, **{key: each[1] for key, each in told.settings.items()}}
        usual |= told.defaults["cifar"] | told.defaults.get(kind, {})
        weights = usual.pop("label_weight"), usual.pop("distill_weight"), usual.pop("ramp_epochs")
        assert weights == USUAL[name][number] and usual == {key: each[number] for key, each in USUAL[name][2].items()}
    assert told.defaults.get("imagenet_b", {}) == {"dkd": {"beta": 2}, "reviewkd": {"distill_weight": 8}}.get(name, {})
    assert told.defaults.get("standardize", {}) == ({"temperature": 2, "distill_weight": 9} if name == "kd" else {})


@pytest.mark.parametrize("name", USUAL)
def test_what_is_read_of_a_method_without_importing_it_is_what_it_is(name):
    told, method = catalogue.method(name), distill.METHODS[name]
    for field in ("compares", "needs", "embedded", "teacher_norm", "hard_labels", "least_images", "defaults"):
        assert getattr(told, field) == getattr(method, field)
    assert method.paper._asdict() == told.paper and told.about.count(". ") == 1 and told.about.endswith(".")
    made = between(name, *(inputs.stages(role, torch.float32) for role in ("student", "teacher")))
    assert all(getattr(made, key) == value for key, (_, value) in told.settings.items())
