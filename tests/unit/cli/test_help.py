"""What --help says: an example first, plain words, and no value that is not so."""

import re
from dataclasses import fields

import pytest

from overhaul.catalogue import method, methods
from overhaul.cli.arguments import parse_training
from overhaul.cli.commands import COMMANDS
from overhaul.cli.flags import training_flags
from overhaul.recipe import Setup
from overhaul.setups import HIDDEN, get, settings

INSIDE = re.compile(
    r"\(required|type:|Union|Literal|NoneType|<class|dict\[|tuple\[|\bint\b|\bfloat\b|\bstr\b|\bnull\b|\bNone\b|True|False|CONFIG\b"
)


@pytest.fixture(autouse=True)
def a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("command", [*COMMANDS, "bench data", "train --setup cifar_c", "train --setup digits_teacher"])
def test_the_help_of_a_command_begins_with_examples_and_speaks_plainly(overhaul, command):
    result = overhaul(*command.split(), "--help")
    assert result.status == 0 and result.out.startswith(f"usage: overhaul {command.split(' --')[0]}")
    head = result.out.splitlines()[:12]
    assert any(line.startswith("  overhaul ") for line in head), head
    assert not INSIDE.search(result.out), INSIDE.search(result.out)
    assert max(map(len, result.out.splitlines())) <= 100
    assert overhaul(*command.split(), "-h").out == result.out


def test_every_flag_of_train_is_explained(overhaul):
    out = overhaul("train", "--help").out
    of_one_method = {f"method.{name}.{each}" for name in methods() for each in method(name).settings}
    assert of_one_method < {*training_flags().kinds}
    for name in {*training_flags().kinds} - of_one_method:
        assert re.search(rf"^  --{re.escape(name)}\b[^\n]*?(\n?)  +\S", out, re.M), name
    assert "--student.family FAMILY" in out and "`overhaul models`" in out


def test_the_help_has_no_values_of_a_setup_that_was_not_named(overhaul):
    out = overhaul("train", "--help").out
    recipe = out[out.index("the method:") : out.index("the data:")]
    assert "(default" not in recipe and "default: cifar_a" not in out


def test_the_help_of_a_setup_has_its_values(overhaul):
    words = " ".join(overhaul("train", "--setup", "cifar_e", "--help").out.split())
    assert "(default: 64)" in words and "(default: 200)" in words and '"alpha": 240' in words
    assert '{"depth": 28, "width": 4, "num_classes": 100}' in words
    assert overhaul("train", "--help", "--setup", "cifar_x").status == 2


def test_the_help_tells_the_settings_of_the_methods_and_what_they_are_in_a_setup(overhaul):
    words = {name: " ".join(overhaul("train", "--setup", name, "--help").out.split()) for name in ("digits", "own")}
    for name, temperature, beta in (("digits", 4, 8), ("own", 1, 0.5)):
        assert f"of dist, dkd, kd: what the logits are divided by, above 0 (default: {temperature})" in words[name]
        assert f"of dkd: weight of the other classes among themselves, 0 or more (default: {beta})" in words[name]
    assert "of fitnets: number of the stage in both networks, from 0 (default: 2)" in words["own"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_help_are_commands_that_parse(overhaul, command):
    for example in COMMANDS[command].examples:
        assert example.split()[:2] == ["overhaul", command]
        if command == "train":
            values = parse_training(example.split()[2:])
            setup, _ = settings(values.pop("setup"), values)
            assert {each.name for each in fields(Setup)} > {*HIDDEN} and get(setup.name)
