"""The table of methods: what the classes say, what they learn between a setup's networks, and a setup's values."""

import json
from dataclasses import replace

import pytest
from support.places import REPOSITORY

from overhaul import distill, listing, models
from overhaul import methods as list_methods
from overhaul.report.methods import short
from overhaul.report.tables import plain
from overhaul.setups import MOBILENET, SETUPS


@pytest.fixture(scope="module")
def of_cifar_c() -> dict[str, dict]:
    return {each["method"]: each for each in list_methods()}


@pytest.mark.parametrize("name", distill.METHODS)
def test_a_method_is_told_as_its_class_has_it(name, of_cifar_c):
    told, method = of_cifar_c[name], distill.METHODS[name]
    assert told["paper"] == (method.paper and method.paper._asdict())
    for field in ("compares", "needs"):
        assert told[field] == getattr(method, field)
    assert (told["labels"] == "class numbers") == method.hard_labels
    assert told["teacher_norm"] == (method.teacher_norm if method.needs else None)
    assert " ".join(told["about"].split()) in " ".join(method.__doc__.split()) and told["about"].count(". ") == 1


def test_what_is_learned_is_what_a_real_pair_has(of_cifar_c):
    student, teacher = (models.create(net) for net in (SETUPS["cifar_c"].student, SETUPS["cifar_c"].teacher))
    found = {name: models.parameters(method(student, teacher).connectors) for name, method in distill.METHODS.items()}
    assert found == {name: each["learned_parameters"] for name, each in of_cifar_c.items()}
    assert {name for name, number in found.items() if number} == {"fitnets", "overhaul", "reviewkd"}


def test_the_table_and_its_json(overhaul):
    found = {each["method"]: each for each in json.loads(overhaul("methods", "--setup", "imagenet_b", "--json").out)}
    assert found["dkd"]["settings"] == {"alpha": 1, "beta": 2, "temperature": 1} and found["dkd"]["ramp_epochs"] == 0
    assert (found["kd"]["label_weight"], found["kd"]["distill_weight"]) == (0.5, 0.5)
    assert (found["overhaul"]["distill_weight"], found["sp"]["distill_weight"]) == (1e-4, None)
    rows = [line.split("  ") for line in overhaul("methods", "--setup", "imagenet_b").out.splitlines()]
    are, have = ({row[0]: "  ".join(row[1:]).split() for row in part} for part in (rows[2:12], rows[15:25]))
    assert {*are} == {*have} == {*distill.METHODS} and are["kd"][-3:] == ["2015", "class", "probabilities"]
    assert have["reviewkd"] == ["any", "28,664,328", "running", "1", "8", "0", "-"]
    assert have["sp"] == ["any", "0", "running", "1", "none", "known", "0", "-"]
    assert have["dkd"][:2] == ["class", "numbers"] and have["original"] == ["any", "0", *"-----"]


def test_standardized_logits_have_values_of_their_own(overhaul):
    assert "with --method.standardize kd has distill_weight 9, temperature 2" in overhaul("methods").out


def test_a_method_that_cannot_be_had_for_a_pair_is_told_with_the_reason(overhaul, monkeypatch):
    monkeypatch.setitem(SETUPS, "cifar_d", replace(SETUPS["cifar_d"], student=MOBILENET))
    found = {each["method"]: each for each in list_methods(setup="cifar_d")}
    assert found["fitnets"]["learned_parameters"] is None and found["reviewkd"]["learned_parameters"] > 1e6
    assert "the student has 4 and the teacher 3" in found["fitnets"]["without"]
    assert "learned -: FitNets counts the stages alike" in overhaul("methods", "--setup", "cifar_d").out
    assert "does not name both networks (at, dist, dkd, fitnets, kd, original, overhaul" in overhaul(
        "methods", "--setup", "own"
    ).out.replace("\n", " ")


def test_an_unknown_setup_is_one_line(overhaul):
    result = overhaul("methods", "--setup", "cifar_z")
    assert result.status == 2 and "did you mean cifar_" in result.err


def test_the_table_of_the_readme_is_that_of_the_classes(of_cifar_c):
    readme = (REPOSITORY / "README.md").read_text()
    for each in listing.methods(SETUPS["imagenet_a"]):
        if each["paper"]:
            name, title, year = each["method"], short(each["paper"]["title"]), each["paper"]["year"]
            told = [f"`{name}`", f"{title}, {year}", each["compares"], each["labels"], each["teacher_norm"]]
            values = of_cifar_c[name], each
            assert f"| {' | '.join([*told, *map(in_readme, values)])} |\n" in readme


def in_readme(told: dict) -> str:
    weight = "none known" if told["distill_weight"] is None else plain(told["distill_weight"])
    recipe = f"{plain(told['label_weight'])}, {weight}, {plain(told['ramp_epochs'])}"
    return f"{recipe}; {plain(told['settings'])}" if told["settings"] else recipe
