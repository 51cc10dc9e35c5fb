"""What every method does with what is rare: dead features, gaps, equal images, other sizes, precisions and labels."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import method_inputs as inputs
from support.given import between, compared

from overhaul import UserError, distill
from overhaul.models import Embedded, Stages, embedding

BESIDES = ("overhaul", "original")
NAMES = tuple(name for name in distill.METHODS if name not in BESIDES)
LEARNING = ("fitnets", "reviewkd")


def given(role: str, **changes) -> Stages:
    return inputs.stages(role, torch.float32)._replace(**changes)


def loss_and_gradients(name: str, student: Stages, teacher: Stages, **settings) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(0)
    method = between(name, student, teacher, **settings)
    loss = compared(method, teacher, inputs.labels()[: len(student.logits)])
    loss.backward()
    learned = [each.grad for each in method.connectors.parameters() if each.grad is not None]
    return loss.item(), [*method.student.gradients("student").values(), *learned]


def all_finite(loss: float, gradients: list[torch.Tensor]) -> bool:
    return math.isfinite(loss) and bool(gradients) and all(each.isfinite().all() for each in gradients)


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("name", ["at", "fitnets", "reviewkd", "sp", "rkd"])
@pytest.mark.parametrize("images", [1, 8])
def test_dead_maps(name, value, images):
    """Of one image or of all: the student's respond nowhere."""
    features = [each.clone() for each in given("student").features]
    for each in features:
        each[:images] = value
    assert all_finite(*loss_and_gradients(name, given("student", features=features), given("teacher")))


def test_dead_classes_and_images_without_a_preference():
    logits = given("student").logits
    logits[:, 3] = -1e4
    logits[5] = 1.0
    for teacher in (given("teacher"), given("teacher", logits=logits.clone())):
        assert all_finite(
            *loss_and_gradients("dist", given("student", logits=logits.clone()), teacher, temperature=1.0)
        )


@pytest.mark.parametrize("at_label", [True, False])
def test_a_gap_of_120(at_label):
    """Against the formula by hand: the student is sure of a class, the teacher has none that it prefers."""
    labels, rows = inputs.labels(), torch.arange(8)
    sure = labels if at_label else (labels + 1) % 10
    logits = torch.zeros(8, 10)
    logits[rows, sure] = 120.0
    teacher = given("teacher", logits=torch.zeros(8, 10))
    for settings in ({"beta": 0.0}, {"alpha": 0.0, "beta": 1.0}):
        found = loss_and_gradients("dkd", given("student", logits=logits.clone()), teacher, temperature=1.0, **settings)
        on_label, others = (0.1 * math.log(0.1) + 0.9 * (math.log(0.1) + 120), 0.0)
        if not at_label:
            on_label = 0.1 * (math.log(0.1) + 120) + 0.9 * math.log(0.9)
            others = math.log(1 / 9) + 8 / 9 * 120
        assert all_finite(*found)
        assert found[0] == pytest.approx(others if "alpha" in settings else on_label, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("equal", [2, 8])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_equal_images(role, equal):
    """Two images, or all, that the one network cannot tell apart; no step leaps because of them."""
    maps = [each.clone() for each in given(role).features]
    maps[-1][:equal] = maps[-1][:1].clone()
    stages = {"student": given("student"), "teacher": given("teacher"), role: given(role, features=maps)}
    loss, gradients = loss_and_gradients("rkd", **stages)
    assert all_finite(loss, gradients) and all(each.abs().max() < 1 for each in gradients)


def test_a_common_offset_costs_the_relations_no_digits():
    losses = []
    for dtype in (torch.float32, torch.float64):
        stages = [given(role, features=[given(role).features[-1].to(dtype) + 10]) for role in ("student", "teacher")]
        losses.append(loss_and_gradients("rkd", *stages)[0])
    assert losses[0] == pytest.approx(losses[1], rel=3e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARNING])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    loss, gradients = loss_and_gradients(name, given("teacher"), given("teacher"))
    assert loss == pytest.approx(0, abs=5e-5) and all(each.abs().max() < 1e-5 for each in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one(name):
    one = [
        Stages(each.logits[:1], [maps[:1] for maps in each.features]) for each in (given("student"), given("teacher"))
    ]
    if name in ("dist", "sp", "rkd", "reviewkd"):
        with pytest.raises(UserError, match=rf"^{type(between(name, *one)).__name__} needs 2 images at once and got 1"):
            loss_and_gradients(name, *one)
    else:
        assert all_finite(*loss_and_gradients(name, *one))


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_are_probabilities(name):
    """They are no part of the loss, but of DKD, which takes class numbers alone."""
    teacher, soft = given("teacher"), torch.full((8, 10), 0.1)
    method = between(name, given("student"), teacher)
    if name != "dkd":
        assert torch.equal(compared(method, teacher, soft), compared(method, teacher, inputs.labels()))
        return
    for labels in (soft, None):
        with pytest.raises(UserError, match=r"^DKD needs labels that are class numbers"):
            compared(method, teacher, labels)


def test_one_class_is_too_few():
    one = Stages(torch.zeros(8, 1), [])
    with pytest.raises(UserError, match="2 classes or more"):
        loss_and_gradients("dkd", given("student", logits=one.logits), given("teacher", logits=one.logits))


def pooled(maps: torch.Tensor, *size: int) -> torch.Tensor:
    return F.adaptive_avg_pool2d(maps.relu(), size)


@pytest.mark.parametrize("deterministic", [False, True])
def test_maps_of_other_sizes(deterministic):
    """As if the larger map had been pooled before; FitNets and ReviewKD bring the student's to the teacher's size."""
    student, teacher = given("student"), given("teacher")
    maps = [each.repeat_interleave(2, 2) for each in student.features]
    maps[1] = student.features[1][:, :, :3, :2]
    other = given("student", features=[each.clone() for each in maps])
    by_hand = [
        (pooled(mine, *size), pooled(theirs, *size))
        for mine, theirs, size in zip(maps, teacher.features, ((8, 8), (3, 2), (2, 2)), strict=True)
    ]
    mine, theirs = ([each.clone() for each in side] for side in zip(*by_hand, strict=True))
    torch.use_deterministic_algorithms(deterministic)
    try:
        expected = loss_and_gradients("at", given("student", features=mine), given("teacher", features=theirs))[0]
        found = loss_and_gradients("at", other, given("teacher"))
        assert all_finite(*found) and found[0] == pytest.approx(expected, rel=1e-5)
        for name in LEARNING:
            doubled = given("student", features=[each.repeat_interleave(2, 2) for each in student.features])
            found = loss_and_gradients(name, doubled, given("teacher"))
            assert all_finite(*found)
            if name == "fitnets":
                assert found[0] == pytest.approx(loss_and_gradients(name, given("student"), teacher)[0], rel=1e-5)
            assert all_finite(*loss_and_gradients(name, other, given("teacher")))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("stem", ["student", "teacher"])
@pytest.mark.parametrize("name", ["at", "reviewkd", "sp", "rkd"])
def test_a_map_of_the_stem_that_the_other_lacks_is_left_out(name, stem):
    stages = {role: given(role) for role in ("student", "teacher")}
    expected = loss_and_gradients(name, **stages)[0]
    stages = {role: given(role) for role in ("student", "teacher")}
    stages[stem].features.insert(0, torch.randn(8, 12, 16, 16))
    assert loss_and_gradients(name, **stages)[0] == expected


def test_fitnets_takes_a_stage_that_both_have():
    few = given("student")
    more = given("teacher", features=[torch.randn(8, 12, 16, 16), *given("teacher").features])
    with pytest.raises(UserError, match=r"the student has 3 and the teacher 4; name as many .*--teacher.positions"):
        between("fitnets", few, more)
    for stage in (3, -1):
        with pytest.raises(
            UserError, match=rf"--method.stage of FitNets is one of 0 to 2 in these networks, not {stage}"
        ):
            between("fitnets", few, given("teacher"), stage=stage)
    assert between("fitnets", few, given("teacher"), stage=2).pairs == [(2, 2)]


def test_similarities_of_large_half_precision_features():
    """Whose matrix of products overflows in fp16."""
    torch.manual_seed(0)
    stages = [given(role, features=[6 * torch.randn(8, n, 4, 4)]) for role, n in (("student", 512), ("teacher", 256))]
    halves = [Stages(each.logits.half(), [maps.half() for maps in each.features]) for each in stages]
    assert halves[0].features[0].relu().square().sum((1, 2, 3)).isinf().all()
    loss, gradients = loss_and_gradients("sp", *halves)
    assert all_finite(loss, gradients) and loss == pytest.approx(loss_and_gradients("sp", *stages)[0], rel=1e-2)


def rounded(stages: Stages) -> Embedded:
    """As a network under autocast gives them."""
    low = Stages(stages.logits.detach().bfloat16(), [each.detach().bfloat16() for each in stages.features])
    return Embedded(*low, embedding(low))


@pytest.mark.parametrize("name", NAMES)
def test_networks_in_bf16_are_compared_in_fp32(name):
    torch.manual_seed(0)
    student, teacher = rounded(given("student")), rounded(given("teacher"))
    method = between(name, given("student"), given("teacher"))
    wide = [
        Embedded(each[0].float(), [maps.float() for maps in each[1]], each[2].float()) for each in (student, teacher)
    ]
    expected = method.loss(*wide, inputs.labels())
    with torch.autocast("cpu", torch.bfloat16):
        found = method.loss(student, teacher, inputs.labels())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2 if name in LEARNING else 0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_number_of_images_of_a_process_changes(name):
    """One batch of 64 against two of 32, each with the weight that it has there."""
    shapes = {"student": (16, 32), "teacher": (24, 48)}
    torch.manual_seed(0)
    common = torch.randn(64, 10)  # what both see, so that they are as far apart as networks are
    stages = []
    for role in ("student", "teacher"):
        maps = [(common @ torch.randn(10, n))[..., None, None] + torch.randn(64, n, 4, 4) for n in shapes[role]]
        stages.append(Stages(common + torch.randn(64, 10), maps))
    method, labels = between(name, *stages), torch.arange(64) % 10
    if name in LEARNING:
        method.eval()

    def weighed(part: slice) -> float:
        mine, theirs = (Stages(each.logits[part], [maps[part] for maps in each.features]) for each in stages)
        return method.scale(len(mine.logits)) * method.loss(mine, theirs, labels[part]).item()

    ratio = (weighed(slice(32)) + weighed(slice(32, 64))) / 2 / weighed(slice(64))
    across = {"dist": 0.05, "rkd": 0.1, "sp": 0.15}
    assert ratio == pytest.approx(1, abs=across.get(name, 1e-5))
    assert (abs(ratio - 1) > 1e-4) == (name in across)
    assert method.scale(128) == (2 if name == "sp" else 1)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_the_temperature_divides_the_logits_and_its_square_makes_up_for_it(name):
    cooled = [given(role, logits=given(role).logits / 4) for role in ("student", "teacher")]
    expected = 16 * loss_and_gradients(name, *cooled, temperature=1.0)[0]
    found = loss_and_gradients(name, given("student"), given("teacher"), temperature=4.0)[0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_standardized_logits():
    """Shifted and stretched ones are the same; and by the formula, in its order of operations."""
    student, teacher = given("student"), given("teacher")
    settings = {"temperature": 2.0, "standardize": True}
    found = loss_and_gradients("kd", student, teacher, **settings)[0]
    moved = given("student", logits=3 * given("student").logits + 5)
    assert loss_and_gradients("kd", moved, teacher, **settings)[0] == pytest.approx(found, rel=1e-5)
    mine, theirs = (
        ((each - each.mean(1, keepdim=True)) / each.std(1, keepdim=True) / 2).double().softmax(1)
        for each in (given("student").logits, given("teacher").logits)
    )
    assert found == pytest.approx(4 * (theirs * (theirs / mine).log()).sum().item() / 8, rel=1e-5)
