"""How a row becomes the setup that is trained: by run, data and the teacher that was found, and by nothing else."""

from dataclasses import replace

import pytest

from overhaul.models import parameters
from overhaul.options import Run
from overhaul.recipe import Net, Preprocessing
from overhaul.setups import PARAMETERS, SETUPS, resolve, wide_resnet

HUNDRED = [f"class {i}" for i in range(100)]
ROW = replace(SETUPS["cifar_c"], teacher=replace(SETUPS["cifar_c"].teacher, weights="t.pt"))


def test_the_papers_networks_on_the_papers_data_keep_the_published_errors():
    assert resolve(ROW, Run(), HUNDRED) == ROW
    assert resolve(ROW, Run(), HUNDRED, ROW.teacher) == ROW
    assert resolve(resolve(ROW, Run(), HUNDRED), Run(), HUNDRED, ROW.teacher) == ROW


@pytest.mark.parametrize(
    "changed",
    [
        resolve(replace(ROW, data="cifar10"), Run(), HUNDRED),
        resolve(ROW, Run(), HUNDRED[:10]),
        resolve(ROW, Run(), HUNDRED, named=False),
        resolve(resolve(ROW, Run(), HUNDRED, named=False), Run(), HUNDRED, ROW.teacher),
        resolve(ROW, Run(), HUNDRED, wide_resnet(40, 4)),
        resolve(replace(ROW, student=wide_resnet(16, 4)), Run(), HUNDRED),
        resolve(replace(ROW, name="mine"), Run(), HUNDRED),
    ],
)
def test_other_networks_and_other_data_have_no_published_errors(changed):
    assert changed.published is None


def test_the_data_decide_the_classes_and_the_found_weights_the_teacher():
    found = Net(family="cifar_resnet", kwargs={"depth": 20, "num_classes": 3})
    resolved = resolve(ROW, Run(), "abc", found)
    assert resolved.student.kwargs == {"depth": 16, "width": 2, "num_classes": 3}
    assert resolved.teacher == replace(found, weights="t.pt")


def test_the_baseline_has_no_teacher_and_keeps_the_published_errors():
    alone = resolve(replace(ROW, method="original"), Run(), HUNDRED)
    assert alone.teacher is None and alone.published == ROW.published


def test_a_run_of_another_length():
    assert resolve(ROW, Run(resume_with="epochs=7"), HUNDRED).epochs == 7


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_published_errors_are_told_in_one_order(setup):
    assert setup.preprocessing == Preprocessing(
        setup.image_size, setup.test_resize or setup.image_size, setup.mean, setup.std
    )
    if setup.published:
        names, top1, top5 = zip(*setup.published.rows(), strict=True)
        assert names == ("distilled", "student alone", "teacher")
        assert top1 == (setup.published.distilled, setup.published.student, setup.published.teacher)
        assert top5 == ((None,) * 3 if setup.data == "cifar100" else setup.published.top5[::-1])


def test_the_sizes_that_are_listed_are_those_of_the_networks():
    nets = {str(net): net for row in SETUPS.values() for net in (row.teacher, row.student) if net}
    assert {name: parameters(net) for name, net in nets.items()} == PARAMETERS
