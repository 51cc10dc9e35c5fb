"""The scripts of launch/: the demo from end to end, and how an environment is found or made."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from conftest import REPOSITORY

from overhaul import hub

FILES = sorted((REPOSITORY / "launch").glob("*.yaml"))
WHERE = {
    *("compute_environment", "distributed_type", "num_machines", "num_processes", "gpu_ids", "use_cpu"),
    *("rdzv_backend", "same_network"),
}


def bash(*arguments, cwd=REPOSITORY, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(["bash", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def this_environment():
    """The environment the tests run in, as an activated one would look."""
    return {"VIRTUAL_ENV": sys.prefix}


def test_the_demo_ends_with_a_table_and_the_folder_of_the_student(tmp_path, this_environment):
    result = bash("launch/demo.sh", "--output_dir", tmp_path, "--epochs", 3, **this_environment)
    assert result.returncode == 0, result.stderr
    table = result.stdout.strip().splitlines()[-7:]
    assert re.match(r"network +parameters +test top-1 % +training time", table[0])
    rows = {line.rsplit(maxsplit=4)[0].strip(): line.split()[-4:] for line in table[2:5]}
    assert list(rows) == ["teacher", "student, original", "student, overhaul"]
    assert [row[0] for row in rows.values()] == ["691,674", "77,850", "77,850"]
    accuracy = {name: float(row[1]) for name, row in rows.items()}
    assert accuracy["teacher"] > 70 and accuracy["student, overhaul"] > 20
    folder = Path(table[-1].split("the distilled student: ")[1])
    assert sum(p.numel() for p in hub.load(str(folder)).parameters()) == 77_850


def test_arguments_go_through_to_pytest(this_environment):
    arguments = ["--collect-only", "-k", "margin", "tests/test_distill.py"]
    result = bash("launch/test.sh", *arguments, **this_environment)
    assert result.returncode == 0, result.stderr
    collected = [line for line in result.stdout.splitlines() if "::" in line]
    assert collected and all("margin" in line for line in collected)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the scripts look at, without an environment, on a path with a space."""
    copy = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "launch", copy / "launch")
    shutil.copy(REPOSITORY / "setup.cfg", copy / "setup.cfg")
    return copy


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_for_accelerate_says_where_and_never_what(file):
    config = load_config_from_file(str(file))
    assert config.num_processes % config.num_machines == 0
    text = file.read_text()
    entries = {line.split(":")[0] for line in text.splitlines() if not line.startswith("#")}
    assert text.startswith("# ") and entries <= WHERE


def test_there_is_a_file_for_each_kind_of_machine():
    assert [file.stem for file in FILES] == ["cpus", "eight_gpus", "one_gpu", "several_nodes"]


def test_an_old_python_is_refused_in_one_line(checkout):
    for version in ("python3", *(f"python3.{minor}" for minor in range(10, 15))):
        tool(checkout / "bin", version, "exit 1")
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    result = bash("launch/demo.sh", cwd=checkout, PATH=path, VIRTUAL_ENV="")
    assert result.returncode == 2 and result.stderr == "Python 3.10 or newer is needed and was not found\n"


def test_an_environment_without_pip_is_made_whole(checkout):
    """As Debian leaves one where python3-venv is missing, once it has been installed."""
    tool(checkout / ".venv" / "bin", "python", "exit 1")
    tool(checkout / "bin", "python3", f'if [ "$1" != -c ]; then cp "{checkout}/bin/fake" .venv/bin/python; fi')
    tool(checkout / "bin", "fake", 'if [ "$1" = - ]; then exit 1; fi; echo "$@" >> asked')
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    result = bash("launch/test.sh", cwd=checkout, PATH=path, VIRTUAL_ENV="")
    assert result.returncode == 0, result.stderr
    assert (checkout / "asked").read_text().splitlines()[-1] == "-m pytest"


def test_without_an_environment_one_is_made_and_the_extra_installed(checkout):
    """With a pip that only writes down what it was asked for."""
    script = f'if [ "$1" = -c ]; then exit 0; fi; mkdir -p .venv/bin; cp "{checkout}/bin/fake" .venv/bin/python'
    tool(checkout / "bin", "python3", script)
    tool(checkout / "bin", "fake", 'if [ "$1" = - ]; then exit 1; fi; echo "$@" >> asked')
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    result = bash("launch/test.sh", "-k", "x", cwd=checkout, PATH=path, VIRTUAL_ENV="")
    assert result.returncode == 0, result.stderr
    asked = (checkout / "asked").read_text().splitlines()
    assert asked == ["-m pip install --quiet --disable-pip-version-check -e .[test]", "-m pytest -k x"]
