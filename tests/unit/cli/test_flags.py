"""The flags of every command, frozen: one that comes or goes is a decision, and changes flags.txt."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from overhaul import api
from overhaul.options import DataOptions, Run
from overhaul.recipe import Setup

FLAGS = dict(line.split(": ", 1) for line in (Path(__file__).parent / "flags.txt").read_text().splitlines())


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_of_a_command(overhaul, command):
    shown = overhaul(*command.split(), "--help").out
    assert set(re.findall(r"--[a-z][\w.]*", shown)) - {"--help"} == set(FLAGS[command].split())


def test_train_is_seen_with_the_fields_of_a_setup_and_a_run_as_its_arguments():
    parameters = inspect.signature(api.train).parameters
    named = {field.name for of in (Setup, Run) for field in fields(of)} - set(api.HIDDEN)
    assert set(parameters) == {"setup", "show", *named}
    assert parameters["momentum"].annotation is float and parameters["seed"].default == 0
    assert "weight decay" not in parameters and "seed: of the initial weights" in api.train.__doc__


@pytest.mark.parametrize("function", [api.evaluate, api.prepare])
def test_what_reads_data_takes_all_of_its_options(function):
    assert {field.name for field in fields(DataOptions)} <= set(inspect.signature(function).parameters)
    assert "skip_broken: how many images" in function.__doc__
