"""Every method gives the golden values: the loss, and the gradient of all that it reaches."""

import json

import pytest
import torch
from support import method_inputs as inputs
from support.given import between, compared
from support.places import TESTS

FILES = sorted((TESTS / "golden" / "methods").glob("*.json"))
CASES = [
    (golden["method"], case)
    for golden in (json.loads(path.read_text()) for path in FILES)
    for case in golden["cases"].values()
]
SETTINGS = ("temperature", "alpha", "beta", "gamma", "distance_weight", "angle_weight")


def settings_of(name: str, case: dict) -> dict:
    return {key: case[key] for key in (*SETTINGS, *(["stage"] * (name == "fitnets"))) if key in case}


def run(name: str, case: dict, dtype: torch.dtype, **settings) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a case and the gradients by name, the learned parts being those of the golden values."""
    teacher = inputs.stages("teacher", dtype)
    method = between(name, inputs.stages("student", dtype), teacher, **{**settings_of(name, case), **settings})
    learned = dict(method.connectors.named_parameters())
    assert {key: list(each.shape) for key, each in learned.items()} == case.get("learned", {})
    for key, each in learned.items():
        each.data.copy_(inputs.weight(key, each.shape))
    loss = compared(method, teacher, inputs.labels())
    loss.backward()
    assert loss.shape == () and loss.dtype == dtype
    assert not any(each.grad is not None for each in (teacher.logits, *teacher.features))
    found = method.student.gradients("student")
    return loss.item(), found | {key: each.grad for key, each in learned.items() if each.grad is not None}


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_golden_values(name, case, dtype, rtol):
    loss, gradients = run(name, case, dtype)
    assert loss == pytest.approx(case["loss"], rel=rtol)
    assert gradients.keys() == case["grad_norm"].keys()
    for key, gradient in gradients.items():
        norm, noise = case["grad_norm"][key], 0.0
        if norm < 1e-12:  # a bias before a BatchNorm: its gradient is rounding
            norm, noise = 0.0, rtol / 100
        along = (gradient.double() * inputs.probe(key, gradient.shape)).sum().item()
        assert gradient.double().norm().item() == pytest.approx(norm, rel=rtol, abs=noise), key
        assert along == pytest.approx(case["grad_probe"][key], abs=norm * rtol + noise), key


@pytest.mark.parametrize(
    ("name", "settings", "term", "factor"),
    [
        ("dkd", {"beta": 0.0}, "target", 1),
        ("dkd", {"alpha": 0.0, "beta": 3.0}, "non_target", 3),
        ("dist", {"gamma": 0.0, "beta": 3.0}, "inter", 3),
        ("dist", {"beta": 0.0}, "intra", 1),
        ("rkd", {"angle_weight": 0.0}, "distance", 25),
        ("rkd", {"distance_weight": 0.0, "angle_weight": 1.0}, "angle", 1),
    ],
)
def test_each_term_has_its_own_weight(name, settings, term, factor):
    case = next(case for each, case in CASES if each == name)
    assert run(name, case, torch.float64, **settings)[0] == pytest.approx(factor * case["terms"][term], rel=1e-10)


def test_the_golden_files_are_the_shared_ones(shared):
    assert FILES and {path.name: path.read_bytes() for path in FILES} == {
        path.name: path.read_bytes() for path in (shared / "methods").glob("*.json")
    }
