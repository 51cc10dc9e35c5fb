"""How a row becomes the setup that is trained: by run, data and the teacher that was found, and by nothing else."""

import inspect
from dataclasses import replace

import pytest
from support.runs import WHOLE

from overhaul import catalogue, distill, listing, models
from overhaul.listing import PARAMETERS
from overhaul.models import parameters
from overhaul.options import Run
from overhaul.recipe import Net, Preprocessing
from overhaul.report import tables
from overhaul.setups import SETUPS, resolve, wide_resnet
from overhaul.system.messages import UserError

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


@pytest.mark.parametrize("setup", [SETUPS[name] for name in WHOLE], ids=WHOLE)
def test_published_errors_are_told_in_one_order(setup):
    assert setup.preprocessing == Preprocessing(
        setup.image_size, setup.test_resize or setup.image_size, setup.mean, setup.std, setup.interpolation
    )
    if setup.published:
        names, top1, top5 = zip(*setup.published.rows(), strict=True)
        assert names == ("distilled", "student alone", "teacher")
        assert top1 == (setup.published.distilled, setup.published.student, setup.published.teacher)
        assert top5 == ((None,) * 3 if setup.data == "cifar100" else setup.published.top5[::-1])


def test_the_sizes_that_are_listed_are_those_of_the_networks():
    nets = {str(net): net for name in WHOLE for net in (SETUPS[name].teacher, SETUPS[name].student) if net}
    assert {name: parameters(net) for name, net in nets.items()} == PARAMETERS


def test_the_families_and_methods_are_those_of_the_files():
    assert catalogue.families() == models.FAMILIES and set(distill.METHODS) == {*catalogue.methods()}
    for family in models.FAMILIES:
        taken = inspect.signature(models.family(family)).parameters
        assert catalogue.arguments(family) == {name: each.annotation.__name__ for name, each in taken.items()}
        assert models.family(family).__doc__.split("\n")[0] in catalogue.about(family)


def test_a_file_that_is_added_is_a_family_or_a_method(tmp_path, monkeypatch):
    for folder in ("models", "distill"):
        (tmp_path / folder).mkdir()
    opening = "    def __init__(self, size: int, *, deep: bool = True): ...\n"
    (tmp_path / "models" / "mine.py").write_text(f'"""Mine."""\nclass Network:\n    """Small."""\n{opening}')
    (tmp_path / "models" / "backbone.py").write_text("class Backbone: ...\n")
    (tmp_path / "distill" / "kd.py").write_text("class KD: ...\n\n\nMethod = KD\n")
    (tmp_path / "distill" / "method.py").write_text("class Base: ...\n")
    monkeypatch.setattr(catalogue, "PACKAGE", tmp_path)
    for cached in (catalogue.files, catalogue.arguments, catalogue.required):
        monkeypatch.setattr(catalogue, cached.__name__, cached.__wrapped__)
    assert (catalogue.families(), catalogue.methods()) == (("mine",), ("kd",))
    assert (catalogue.arguments("mine"), catalogue.about("mine")) == ({"size": "int", "deep": "bool"}, "Mine. Small.")
    assert catalogue.required("mine") == ("size",)
    assert listing.models()[0]["example"] is None and "mine" in tables.families(listing.models(), {})
    assert replace(ROW, method="kd", student=Net(family="mine", kwargs={"size": 3}), teacher=None).method == "kd"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "kdd"}, "--method: 'kdd' is not known.*original, overhaul"),
        ({"method": "overhal"}, "did you mean overhaul"),
        ({"student": Net(family="resnt")}, "--student.family: 'resnt' is not known .did you mean resnet"),
        ({"teacher": Net(family="vit")}, "--teacher.family: 'vit' is not known.*wide_resnet"),
        ({"teacher": Net(family="resnet", kwargs={"dept": 3})}, "--teacher.kwargs: resnet takes depth, not dept"),
        ({"student": Net(family="mobilenet", kwargs={"width": 3})}, "mobilenet takes no arguments, not width"),
        ({"student": Net(family="resnet")}, "--student.family resnet needs --student.kwargs.depth; `overhaul models`"),
    ],
)
def test_unknown_names_are_told_when_a_setup_is_made(changes, words):
    with pytest.raises(UserError, match=words):
        replace(ROW, **changes)
