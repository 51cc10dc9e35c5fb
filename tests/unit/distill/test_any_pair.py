"""The method between any two networks: pairs, sizes, measured margins, the teacher's mode, and plain modules."""

import copy
import io
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import overhaul
from overhaul import distill, models
from overhaul.distill.resizing import by_products, resized
from overhaul.models.hooked import Hooked
from overhaul.recipe import Net


def stage(inputs: int, outputs: int, norm: type = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), norm(outputs), nn.ReLU(inplace=True))


class Chain(nn.Module):
    """A classifier of as many stages as there are widths, each of half the size."""

    def __init__(self, *widths: int, norm: type = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(stage(*each, norm) for each in zip((3, *widths), widths, strict=False)))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(widths[-1], 5)

    def forward(self, images):
        return self.fc(self.drop(self.stages(images).mean((2, 3))))


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(2, channels)


def hooked(*widths: int, names=None, **how) -> Hooked:
    return Hooked(Chain(*widths, **how), 32, names)


def shaken(net: nn.Module) -> nn.Module:
    """Norms whose scale and shift are no ones and zeros, which hide faults."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return net


def test_the_deepest_pairs_with_the_deepest_and_the_rest_has_no_partner():
    three, five = hooked(4, 6, 8), hooked(4, 6, 8, 10, 12)
    assert [each.size for each in five.features] == [(16, 16), (8, 8), (4, 4), (2, 2)][-len(five.features) :]
    more = len(five.features) - 3
    assert distill.pairs(three, five) == [(i, i + more) for i in range(3)]
    assert distill.pairs(five, three) == [(i + more, i) for i in range(3)]
    assert distill.unpaired(three, five) == ([], list(range(more)))
    assert distill.unpaired(five, three) == (list(range(more)), [])
    assert distill.stage_weights(3) == [0.25, 0.5, 1]


def test_named_positions_pair_in_their_order_and_are_as_many():
    teacher, student = (
        hooked(4, 6, 8, 10, names=("stages.3", "stages.0")),
        hooked(4, 6, 8, names=("stages.1", "stages.2")),
    )
    assert distill.pairs(student, teacher) == [(0, 0), (1, 1)] and teacher.widths == [10, 4]
    with pytest.raises(overhaul.UserError, match=r"has 3 and the teacher 2; name as many .*--teacher\.positions"):
        distill.pairs(hooked(4, 6, 8), teacher)


def test_stage_losses_are_those_of_the_resized_pairs_with_weights_of_their_own():
    student, teacher = shaken(hooked(4, 6, 8)), distill.as_teacher(shaken(hooked(4, 6, 8, 10, 12)))
    model = distill.METHODS["overhaul"](student, teacher)
    assert {name.split(".")[0] for name in model.state_dict()} == {"student", "connectors"}
    images = torch.randn(4, 3, 32, 32)
    theirs, mine = teacher.forward_stages(images).features, copy.deepcopy(student).forward_stages(images).features
    plain = 0
    for n, ((i, j), weight) in enumerate(zip(model.pairs, (0.25, 0.5, 1), strict=True)):
        scaled = F.interpolate(mine[i], theirs[j].shape[-2:], mode="bilinear") if i == 9 else mine[i]
        if scaled.shape[-1] > theirs[j].shape[-1]:
            scaled = F.adaptive_avg_pool2d(scaled, theirs[j].shape[-2:])
        target = torch.maximum(theirs[j], distill.margin(teacher.norms[j][0]).view(1, -1, 1, 1))
        distance = copy.deepcopy(model.connectors[n])(scaled) - target
        kept = (distance > 0) | (target > 0)
        plain = plain + weight * (distance.square() * kept).sum() / 4
    torch.testing.assert_close(model(images, teacher.forward_stages(images))[1], plain)


@pytest.mark.parametrize("size", [(5, 7), (20, 3), (12, 20), (24, 20), (1, 1), (12, 10)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_products_of_matrices_resize_as_pooling_and_bilinear_do(size, layout):
    maps = [torch.randn(2, 3, 12, 10, generator=torch.manual_seed(0)).to(memory_format=layout) for _ in range(2)]
    one, other = (each.detach().requires_grad_() for each in maps)
    results = resized(one, size), by_products(other, size)
    weights = torch.randn(2, 3, *size)
    for each in results:
        assert each.shape[-2:] == size
        (each * weights).sum().backward()
    torch.testing.assert_close(*results)
    torch.testing.assert_close(one.grad, other.grad)
    assert results[1].is_contiguous(memory_format=layout)


def test_resizing_is_done_by_products_where_kernels_must_be_deterministic_and_keeps_its_precision():
    feature = torch.randn(2, 3, 6, 6, dtype=torch.bfloat16)
    plain = resized(feature.float(), (3, 12))
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            made = resized(feature, (3, 12))
    finally:
        torch.use_deterministic_algorithms(False)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), plain, rtol=1e-2, atol=1e-2)


def test_measured_margins_are_the_mean_of_the_negatives_and_zero_where_there_are_hardly_any():
    maps = [torch.randn(n, 4, 9, 9) + torch.tensor([0, -1, 6, 9]).view(4, 1, 1) for n in (8, 5)]
    maps[0][0, 3, 0, 0] = -50
    found = distill.measured([each] for each in maps)[0]
    whole = torch.cat(maps).movedim(1, 0).flatten(1)
    expected = torch.stack([row[row < 0].double().mean().float() for row in whole[:2]])
    torch.testing.assert_close(found[:2], expected)
    assert found[2:].tolist() == [0, 0] and found.dtype == torch.float32


def test_margins_of_concatenated_maps_are_concatenated_and_others_are_measured():
    one, two = shaken(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(2)))
    closed = distill.margins.closed
    assert torch.equal(closed([one, two]), torch.cat([distill.margin(one), distill.margin(two)]))
    assert torch.equal(closed(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(one))), distill.margin(one))
    for other in (None, [], nn.GroupNorm(1, 3), [one, nn.BatchNorm2d(2, affine=False)]):
        assert closed(other) is None
    teacher = hooked(4, 6, norm=group_norm)
    model = distill.METHODS["overhaul"](hooked(4, 6), teacher)
    assert model.measured == {0: 0, 1: 1} and {"margin0", "margin1"} <= set(model.state_dict())


class Writing(nn.BatchNorm2d):
    """With a forward pass of its own, which asks nothing but its mode."""

    def forward(self, images):
        return F.batch_norm(
            images,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0,
            self.eps,
        )


@pytest.fixture(scope="module")
def timm_teacher():
    return shaken(timm.create_model("efficientnet_b0", drop_rate=0.3, drop_path_rate=0.3))


@pytest.mark.parametrize("norm", ["batch", "running"])
@pytest.mark.parametrize("kind", ["timm", "writing"])
def test_a_teacher_leaves_its_buffers_and_drops_nothing(timm_teacher, kind, norm):
    net = copy.deepcopy(timm_teacher) if kind == "timm" else shaken(Chain(4, 6, 8, norm=Writing))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = 2 + 3 * torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        in_eval = net.eval()(images)
        distill.as_teacher(net, norm)
        with distill.mode_kept(net):
            assert torch.equal(net.eval()(images), in_eval)
        first = net(images)
        assert torch.equal(first, net(images)) and torch.equal(first, in_eval) == (norm == "running")
        if norm == "batch":
            for module in net.modules():
                module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
            assert torch.equal(net(images), first)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("name", distill.METHODS)
def test_what_a_method_learns_is_told_of_networks_without_values(name):
    nets = [
        Net(family="timm:mobilenetv3_small_050", kwargs={"num_classes": 5}),
        Net(family="resnet", kwargs={"depth": 18, "num_classes": 5}),
    ]
    with torch.device("meta"):
        outlined = distill.make(name, *(models.outline(net, 64) for net in nets))
    real = distill.make(name, *(models.create(net, 64) for net in nets))
    shapes = ([each.shape for each in module.connectors.parameters()] for module in (outlined, real))
    assert len({*map(tuple, shapes)}) == 1 and all(each.is_meta for each in outlined.parameters())


def test_only_two_modes_are_known():
    with pytest.raises(overhaul.UserError, match=r"--teacher_norm.*batch, running"):
        distill.teaching(nn.BatchNorm2d(2), "bathc")


@pytest.fixture(scope="module")
def plain_pair():
    """A student of torchvision, a teacher without BatchNorm, and images."""
    torch.manual_seed(0)
    student, teacher = (
        torchvision.models.mobilenet_v3_small(num_classes=5),
        shaken(Chain(8, 12, 16, 20, norm=group_norm)),
    )
    return student, teacher, torch.randn(4, 3, 64, 96)


def test_two_plain_modules(plain_pair):
    student, teacher, images = copy.deepcopy(plain_pair)
    names, before = set(student.state_dict()), {name: value.clone() for name, value in teacher.state_dict().items()}
    model = overhaul.distill.distill(student, teacher, image_size=64)
    assert model.student is student and set(student.state_dict()) == names
    theirs = {id(tensor) for tensor in (*teacher.parameters(), *teacher.buffers())}
    assert not theirs & {id(tensor) for tensor in (*model.parameters(), *model.buffers(), *model.state_dict().values())}
    assert not {*teacher.modules()} & {*model.modules()}
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"student", "connectors"}
    logits, loss = model.train()(images)
    loss.backward()
    assert logits.shape == (4, 5) and loss > 0 and not any(p.grad is not None for p in teacher.parameters())
    assert all(p.grad is not None for p in model.connectors.parameters())
    assert not teacher.drop.training and all(torch.equal(v, before[name]) for name, v in teacher.state_dict().items())
    with torch.no_grad():
        targets = [maps for maps in model.teacher.forward_stages(images).features]
    expected = distill.measured([[targets[j] for j in model.measured.values()]])
    assert all(torch.equal(model.get_buffer(f"margin{n}"), each) for n, each in enumerate(expected))


def test_a_distilled_module_is_moved_copied_pickled_and_saved(plain_pair):
    student, teacher, images = copy.deepcopy(plain_pair)
    batches = [(images, torch.zeros(4)), (images + 1, None)]
    model = distill.distill(student, teacher, 64, images=batches, student_positions=["features.3", "features.8"],
                            teacher_positions=["stages.1", "stages.3"])  # fmt: skip
    margins = [model.get_buffer(f"margin{n}").clone() for n in range(2)]
    assert [len(each) for each in margins] == [12, 20] and model.eval().is_measured
    found = model(images)[1]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.backbone.net is other.student and other.student is not student
        assert torch.equal(other(images)[1], found) and other.teacher is not model.teacher
        assert torch.equal(model.get_buffer("margin0"), margins[0])
    model.to(torch.float64)
    assert {p.dtype for p in teacher.parameters()} == {torch.float64} and model(images.double())[1] > 0
    model.float()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = distill.distill(*copy.deepcopy(plain_pair[:2]), 64, student_positions=["features.3", "features.8"],
                            teacher_positions=["stages.1", "stages.3"])  # fmt: skip
    again.load_state_dict(torch.load(file))
    torch.testing.assert_close(again.eval()(images)[1], found)


@pytest.mark.slow
def test_a_distilled_module_is_compiled_as_one_graph():
    images = torch.randn(4, 3, 32, 32)
    model = distill.distill(Chain(4, 6, 8), Chain(6, 8, 10, norm=group_norm), 32, images=images).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def test_our_own_networks_are_taken_as_they_are():
    student, teacher = (models.create("wide_resnet", depth=10, width=n, num_classes=3) for n in (1, 2))
    model = distill.distill(student, teacher, 32, teacher_norm="running")
    images = torch.randn(3, 3, 32, 32)
    plain = distill.METHODS["overhaul"](copy.deepcopy(student), teacher)
    plain.connectors.load_state_dict(model.connectors.state_dict())
    loss = plain(images, teacher.eval().forward_stages(images))[1]
    assert model.student is student and torch.equal(model(images)[1], loss) and not teacher.training


def test_what_cannot_be_distilled_is_a_line(plain_pair):
    with pytest.raises(overhaul.UserError, match=r"nn.Modules, not a function"):
        distill.distill(group_norm, plain_pair[1])
    with pytest.raises(overhaul.UserError, match=r"image_size is a side in pixels, such as 224, not \(32, 32\)"):
        distill.distill(*plain_pair[:2], (32, 32))
    with pytest.raises(overhaul.UserError, match="convolution stage"):
        distill.distill(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), plain_pair[1], 32)
    alone = distill.distill(Chain(4, 6), Chain(4, 6, 8), 8)
    with pytest.raises(overhaul.UserError, match=r"one number a channel: .*teacher_norm='running'"):
        alone.eval()(torch.zeros(1, 3, 8, 8))


def test_positions_named_for_our_own_networks():
    net = models.create(Net(family="wide_resnet", kwargs={"depth": 10, "width": 1, "num_classes": 3},
                            positions=("block1.layer.0", "block3.layer.0.bn1")), 32)  # fmt: skip
    assert distill.pairs(net, hooked(4, 6)) == [(0, 0), (1, 1)]
