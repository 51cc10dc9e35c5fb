"""The runs of a study, checked, and its folder: study.yaml, configs/RUN.yaml, a folder a run, logs/RUN.log."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path

import yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from overhaul import methods
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.report.runs import read_metrics
from overhaul.run.configuration import MAY_CHANGE, configuration
from overhaul.run.folder import RunFolder, is_student
from overhaul.setups import check_whole, settings
from overhaul.study.grid import Axes
from overhaul.system.files import write_text
from overhaul.system.messages import UserError, some

DESCRIPTION, CONFIGS, LOGS = "study.yaml", "configs", "logs"


@dataclass(frozen=True)
class Planned:
    """A run of a study. config: all of its settings, as `overhaul train --config` takes them."""

    name: str
    out: Path
    setup: Setup
    run: Run
    config: dict

    @property
    def folder(self) -> Path:
        return self.out / self.name

    @property
    def config_file(self) -> Path:
        return self.out / CONFIGS / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        return self.out / LOGS / f"{self.name}.log"

    def metrics(self) -> list[dict]:
        """The lines of its finished epochs; [] before the first, and where one of them cannot be read."""
        try:
            return read_metrics(self.folder, self.name, [])
        except UserError:
            return []

    @property
    def epochs(self) -> int | None:
        """Its length; None where the images choose it and have not yet."""
        if self.setup.epochs or not RunFolder(self.folder).config_file.is_file():
            return self.setup.epochs
        return RunFolder(self.folder).read_config().get("epochs")

    def finished(self) -> bool:
        return is_student(self.folder / "final") and len(self.metrics()) >= (self.epochs or 1)

    def state(self) -> str:
        """As its folder tells: "finished", "interrupted" or "not begun"."""
        if self.finished():
            return "finished"
        return "interrupted" if RunFolder(self.folder).config_file.is_file() else "not begun"


def planned(out: Path, asked: Sequence[tuple[str, dict]]) -> list[Planned]:
    """The runs, each once; one that the folder knows keeps its name. asked: labels, and arguments of api.train.

    Raises UserError, which names the run, for the first that cannot be.
    """
    names, runs = known(out), {}
    taken = {*names.values()}
    for label, arguments in asked:
        try:
            setup, run = checked(arguments)
        except UserError as error:
            raise UserError(f"{label}: {error}") from None
        config = configuration(setup, run, run.mixed_precision)
        key = identity(config)
        if key in runs:
            continue
        name = names.get(key) or unlike(label, taken)
        taken.add(name)
        run = replace(run, output_dir=str(out / name))
        runs[key] = Planned(name, out, setup, run, {**config, "output_dir": run.output_dir})
    return list(runs.values())


def checked(arguments: dict) -> tuple[Setup, Run]:
    """The setup and the run of arguments of api.train; UserError for what can be told without data and networks."""
    setup, run = settings(arguments["setup"], {key: each for key, each in arguments.items() if key != "setup"})
    check_whole(setup, run)
    if methods.needs(setup.method) and not (setup.teacher and setup.teacher.weights):
        raise UserError(f"--method {setup.method} needs a trained teacher: name one with --teacher")
    return setup, run


def unlike(label: str, taken: set[str]) -> str:
    number, name = 1, label
    while name in taken:
        number += 1
        name = f"{label}-{number}"
    return name


def known(out: Path) -> dict[str, str]:
    """The runs of the study in a folder: their names by their identities."""
    files = (file for file in sorted((out / CONFIGS).glob("*.yaml")) if not file.name.startswith("."))
    return {identity(read(file)): file.stem for file in files}


def identity(config: dict) -> str:
    """The same for two configurations of one run."""
    return json.dumps({key: each for key, each in config.items() if key not in MAY_CHANGE}, sort_keys=True)


def read(file: Path) -> dict:
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file} is broken: put it back, or name another folder with --out")
    return found


def write(out: Path, axes: Axes, runs: Sequence[Planned]) -> None:
    """Write a study down, unless that is done; UserError where the folder has one with runs that this one lacks."""
    with locked(out, ".plan.lock", wait=True):
        there = known(out)
        mine = {identity(each.config) for each in runs}
        if lost := [name for key, name in there.items() if key not in mine]:
            raise UserError(f"{out} holds another study ({differences(out, axes) or some(lost)}); {GROW}")
        try:
            for folder in (out / CONFIGS, out / LOGS):
                folder.mkdir(exist_ok=True)
            for each in runs:
                if identity(each.config) not in there or read(each.config_file) != each.config:
                    write_text(each.config_file, yaml.safe_dump(each.config, sort_keys=False))
            if not (out / DESCRIPTION).exists() or read(out / DESCRIPTION) != described(axes):
                write_text(out / DESCRIPTION, yaml.safe_dump(described(axes), sort_keys=False))
        except OSError as error:
            raise UserError(f"{out} cannot be written to ({error}); name another folder with --out") from None


GROW = "a study may only grow: name its values too, or another folder with --out"


def described(axes: Axes) -> dict:
    """A study as YAML has it: a value, or a list of several."""
    plain = json.loads(json.dumps(axes, default=lambda each: as_plain(each)))
    return {name: values[0] if len(values) == 1 else values for name, values in plain.items()}


def as_plain(value: object) -> object:
    if is_dataclass(value):
        return {name: each for name, each in asdict(value).items() if each not in (None, {})}
    return str(value)


def differences(out: Path, axes: Axes) -> str:
    """What the description there and this one have differently."""
    if not (out / DESCRIPTION).is_file():
        return ""
    there, here = read(out / DESCRIPTION), described(axes)
    names = [name for name in there | here if name not in MAY_CHANGE and there.get(name) != here.get(name)]
    return "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)


@contextmanager
def locked(out: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Make the folder and hold a lock in it; UserError where another study has it. The lock ends with the process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / name, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{out} cannot be written to ({error.strerror}); name another folder with --out") from None
    try:
        if fcntl:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError:
        raise UserError(f"{out} is in use by another study: wait for its end, or stop it") from None
    finally:
        os.close(descriptor)
