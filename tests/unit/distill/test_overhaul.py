"""The method: margins, partial L2, connectors, stage weights and a teacher that is left as it was."""

import sys

import numpy as np
import pytest
import scipy.stats
import torch
from support.plain_step import plain_distance
from torch import nn

from overhaul import distill, models
from overhaul.distill import overhaul as room


def norm_with(scale, shift) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(scale))
    norm.weight.data, norm.bias.data = torch.tensor(scale), torch.tensor(shift)
    return norm


def test_margin_is_the_mean_of_the_negative_part_of_a_normal():
    """Against SciPy's truncated normal, signs of the scale included."""
    draw = np.random.default_rng(0)
    scale, shift = draw.uniform(-2, 2, 200).astype("f"), draw.uniform(-3, 3, 200).astype("f")
    margin = distill.margin(norm_with(scale.tolist(), shift.tolist()))
    sigma = np.abs(scale.astype("d"))
    expected = scipy.stats.truncnorm.mean(-np.inf, -shift / sigma, loc=shift, scale=sigma)
    rare = scipy.stats.norm.cdf(-shift / sigma) <= 0.001
    assert rare.any() and not rare.all()
    np.testing.assert_allclose(margin, np.where(rare, -3 * sigma, expected), rtol=1e-5, atol=1e-6)


def test_margin_of_a_constant_channel_is_finite():
    margin = distill.margin(norm_with([0.0, 0.0, 0.0], [-0.5, 0.0, 0.5]))
    assert margin.tolist() == [-0.5, 0.0, 0.0]


def test_margin_needs_a_batch_norm_with_scale():
    for layer in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)):
        with pytest.raises(ValueError, match="margin needs a BatchNorm2d"):
            distill.margin(layer)


def test_partial_l2_by_hand():
    #                       both below 0   above target  positive target  margin cuts
    student = torch.tensor([-2.0, -1.0, 0.5, -3.0]).view(1, 1, 2, 2)
    teacher = torch.tensor([-1.0, -1.5, 2.0, -9.0]).view(1, 1, 2, 2)
    # targets with margin -1.2: -1.0 (student below: 0), -1.2 (0.2^2), 2.0 (1.5^2), -1.2 (student below: 0)
    assert distill.partial_l2(student, teacher, torch.tensor([-1.2])).item() == pytest.approx(0.2**2 + 1.5**2)


def test_partial_l2_sums_over_the_map_and_averages_over_the_batch():
    student, teacher, margin = torch.randn(4, 5, 3, 3), torch.randn(4, 5, 3, 3), -torch.rand(5)
    each = [distill.partial_l2(student[i : i + 1], teacher[i : i + 1], margin) for i in range(4)]
    torch.testing.assert_close(distill.partial_l2(student, teacher, margin), torch.stack(each).mean())


def test_the_summed_map_would_overflow_fp16():
    """ResNet 50's first stage on a 224 px image: summed in fp16 the loss is infinite, ours is not."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 256, 56, 56, dtype=torch.float16)
    margin = torch.full((256,), -0.8)
    difference = student - torch.maximum(teacher, margin.half().view(1, -1, 1, 1))
    assert difference.square().sum().isinf()
    exact = distill.partial_l2(student.double(), teacher.double(), margin)
    loss = distill.partial_l2(student, teacher, margin)
    assert loss > torch.finfo(torch.float16).max and loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_partial_l2_is_fp32_whatever_the_inputs(dtype):
    student = torch.full((2, 64, 56, 56), 3.0, dtype=dtype)
    loss = distill.partial_l2(student, torch.zeros_like(student), torch.full((64,), -1.0))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(9 * 64 * 56 * 56)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("piece", [1, 50, 2**18])
def test_partial_l2_is_the_plain_formula_and_so_is_its_gradient(monkeypatch, layout, piece):
    """In float64, against autograd, whatever the pieces and the layout."""
    monkeypatch.setitem(room.PIECE, "cpu", piece)
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64).unbind()
    margin = -torch.rand(5, dtype=torch.float64)
    maps = [(student.to(memory_format=layout, copy=True)).requires_grad_() for _ in range(2)]
    loss = distill.partial_l2(maps[0], teacher.to(memory_format=layout), margin)
    plain = plain_distance(maps[1], teacher, margin) / 3
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    (7 * loss).backward()
    (7 * plain).backward()
    torch.testing.assert_close(maps[0].grad, maps[1].grad, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: distill.partial_l2(x, teacher, margin), maps[0])


def test_partial_l2_keeps_one_map_in_the_students_precision_for_its_gradient():
    student = torch.randn(4, 8, 6, 6, dtype=torch.bfloat16, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append((x.shape, x.dtype)) or x, lambda x: x):
        distill.partial_l2(student, torch.randn(4, 8, 6, 6), -torch.rand(8))
    assert sizes == [(student.shape, torch.bfloat16)]


def test_partial_l2_goes_piece_by_piece_on_a_cpu_and_where_triton_fails(monkeypatch, capsys):
    way = room.fused.__wrapped__
    assert way(torch.device("cpu"), torch.float32) is room.FusedPartialL2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setitem(sys.modules, "overhaul.distill.triton_l2", None)
    assert way(torch.device("cuda:0"), torch.bfloat16) is room.FusedPartialL2
    assert "the distillation loss takes longer on this GPU, as Triton fails: " in capsys.readouterr().err


def test_an_empty_batch_has_an_empty_gradient():
    student = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = distill.partial_l2(student, torch.zeros(0, 3, 4, 4), -torch.rand(3))
    loss.backward()
    assert loss.isnan() and student.grad.shape == student.shape


def test_no_gradient_flows_to_the_teacher():
    student, teacher = torch.randn(2, 2, 3, 4, 4, requires_grad=True).unbind()
    (gradient,) = torch.autograd.grad(
        distill.partial_l2(student, teacher, -torch.rand(3)), [teacher], allow_unused=True
    )
    assert gradient is None


def test_partial_l2_refuses_maps_of_different_size():
    with pytest.raises(ValueError, match="differ in shape"):
        distill.partial_l2(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8), torch.zeros(2))


@pytest.fixture
def pair():
    torch.manual_seed(0)
    student = models.create("wide_resnet", depth=10, width=1, num_classes=10)
    teacher = models.create("wide_resnet", depth=16, width=2, num_classes=10)
    return student, distill.as_teacher(teacher)


def test_connectors(pair):
    student, teacher = pair
    connectors = distill.METHODS["overhaul"](student, teacher).connectors
    for connector, mine, theirs in zip(connectors, student.norms, teacher.norms, strict=True):
        convolution, norm = connector
        assert convolution.weight.shape == (theirs.num_features, mine.num_features, 1, 1)
        assert convolution.bias is None
        assert torch.all(norm.weight == 1) and torch.all(norm.bias == 0)
    assert connectors[2][0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_stage_weights_halve_towards_the_shallow_end(pair):
    student, teacher = pair
    model = distill.METHODS["overhaul"](student, teacher).train()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        stages = teacher.forward_stages(images)
        features = student.forward_stages(images).features
        losses = [
            distill.partial_l2(connector(feature), target, distill.margin(norm))
            for connector, feature, target, norm in zip(
                model.connectors, features, stages.features, teacher.norms, strict=True
            )
        ]
        _, total = model(images, stages)
    torch.testing.assert_close(total, losses[0] / 4 + losses[1] / 2 + losses[2])


def test_original_is_the_student_alone(pair):
    student, _ = pair
    model = distill.METHODS["original"](student, None).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, loss = model(images, None)
        assert torch.equal(logits, student(images))
    assert loss.item() == 0 and len(model.connectors) == 0


def test_everything_that_learns_is_student_or_connector(pair):
    model = distill.METHODS["overhaul"](*pair)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"student", "connectors"}
    assert {name.split(".")[0] for name in model.state_dict()} == {"student", "connectors"}


def test_teacher_uses_batch_statistics_and_keeps_its_buffers(pair):
    _, teacher = pair
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images = 3 + 2 * torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        feature = teacher.forward_stages(images).features[-1]
        in_eval = teacher.eval().forward_stages(images).features[-1]
    # batch statistics: scale 1 and shift 0 make each channel of a norm's output standard
    torch.testing.assert_close(feature.mean((0, 2, 3)), torch.zeros(128), atol=1e-4, rtol=0)
    assert not torch.allclose(feature, in_eval)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_no_parameter_of_the_teacher_asks_for_a_gradient(pair):
    assert not any(parameter.requires_grad for parameter in pair[1].parameters())
