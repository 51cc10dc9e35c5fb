"""A user's own file of Python: imported once for what is in it, and what its code raises told in a line."""

import hashlib
import importlib
import importlib.util
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from overhaul.system.messages import UserError, nearest, printable
from overhaul.system.preemption import Preempted

SIBLINGS: dict[Path, dict[str, ModuleType]] = {}  # by their folder, modules that were imported with a file beside them


def function_of(file: Path, function: str) -> Callable:
    """The function or class of that name in a file; UserError where there is none."""
    module = module_of(file)
    own = [name for name, each in vars(module).items() if getattr(each, "__module__", None) == module.__name__]
    if not hasattr(module, function):
        there = f"; it has {', '.join(own[:10])}" if own else ""
        raise UserError(f"{file} has no {function}{nearest(function, own) or there}")
    found = getattr(module, function)
    if isinstance(found, nn.Module):
        raise UserError(f"{file}:{function} is a network already: name the function or class that makes it")
    if not callable(found):
        raise UserError(
            f"{file}:{function} is of the type {type(found).__name__}: name a function or class that makes it"
        )
    return found


def module_of(file: Path) -> ModuleType:
    """The module that a file is, imported once for its place and what is in it, under a name that pickle finds."""
    content, path = read(file), absolute(file)
    digest = hashlib.sha256(bytes(path) + b"\0" + content).hexdigest()
    name = f"{file.stem}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
    sys.modules[name] = module
    try:
        # its tensors have values even while a network without values is made
        with running(str(file), file), torch.device("cpu"), torch.random.fork_rng(devices=()):
            exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def read(file: Path) -> bytes:
    try:
        return absolute(file).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def absolute(file: Path) -> Path:
    return file.expanduser().absolute()


def sha256(file: Path) -> str:
    return hashlib.sha256(read(file)).hexdigest()


@contextmanager
def running(what: str, file: Path | None = None) -> Iterator[None]:
    """While code of others runs: the modules beside its file can be imported, and what it raises is a UserError.

    Of its warnings those are heard that a user's file gives, but for those of what is to come or has no values.
    """
    with siblings(absolute(file).parent) if file else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning if file else Warning)
        warnings.filterwarnings("ignore", ".*to a meta parameter in the current model")
        try:
            yield
        except (UserError, Preempted):
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"{what} cannot be used: {told(error, file)}") from None


@contextmanager
def siblings(folder: Path) -> Iterator[None]:
    """While the modules of a folder can be imported, before those of the same names that lie beside other files."""
    for name in [name for place in SIBLINGS for name in SIBLINGS[place] if place != folder and is_in(folder, name)]:
        sys.modules.pop(name, None)
    sys.modules.update(SIBLINGS.setdefault(folder, {}))
    before = {*sys.modules}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        found = {name: sys.modules[name] for name in {*sys.modules} - before if is_in(folder, name)}
        SIBLINGS[folder] |= found


def is_in(folder: Path, module: str) -> bool:
    first = module.split(".")[0]
    return (folder / f"{first}.py").is_file() or (folder / first).is_dir()


def told(error: BaseException, file: Path | None) -> str:
    """An error of others' code in a line, with the last line of the file that led to it."""
    said = textwrap.shorten(printable(str(error)), 300, placeholder=" ...")
    calls = traceback.extract_tb(error.__traceback__)
    lines = [each.lineno for each in calls if file and each.filename == str(absolute(file))]
    return f"{type(error).__name__}{said and f': {said}'}" + (f" (line {lines[-1]})" if lines else "")
