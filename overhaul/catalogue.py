"""The network families and the methods by name, read from their files without importing them, so without torch."""

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from overhaul.system.signatures import helps_in

PACKAGE = Path(__file__).parent


def families() -> tuple[str, ...]:
    """The files of models/ that name a class `Network`."""
    return tuple(files("models", "Network"))


def methods() -> tuple[str, ...]:
    """The files of distill/ that name a class `Method`."""
    return tuple(files("distill", "Method"))


class Method(NamedTuple):
    """What a method says of itself, see distill.Distiller; settings: types and CIFAR's values by name, helps: what they
    are; about: two sentences; paper: the fields of distill.Paper, or None."""

    name: str
    about: str
    settings: dict[str, tuple[type, Any]]
    helps: dict[str, str]
    compares: str = ""
    paper: dict | None = None
    needs: str | None = "features"
    embedded: bool = False
    teacher_norm: str = "running"
    hard_labels: bool = False
    least_images: int = 1
    defaults: Mapping[str, dict] = MappingProxyType({})


@cache
def method(name: str) -> Method:
    """Of one of methods(), read from its file."""
    module = ast.parse(files("distill", "Method")[name])
    lines = lineage(module, named_in(module, "Method"))
    said = {key: value for each in reversed(lines) for key, value in literals(each).items()}
    told = {key: said[key] for key in Method._fields if key in said}
    docs = [ast.get_docstring(each) or "" for each in lines]
    helps = {key: text for doc in reversed(docs) for key, text in helps_in(doc).items()}
    taken = next((each for line in lines for each in line.body if getattr(each, "name", "") == "__init__"), None)
    about = " ".join(docs[0].split("\n\n")[0].split())
    return Method(name=name, about=about, settings=settings_of(taken), helps=helps, **told)


def lineage(module: ast.Module, of: ast.ClassDef) -> list[ast.ClassDef]:
    """A class and those that it extends as far as they are in distill/, the nearest first."""
    found, bases = [of], [each.id for each in of.bases if isinstance(each, ast.Name)]
    own = {each.name: each for each in module.body if isinstance(each, ast.ClassDef)}
    far = {
        alias.name: node.module
        for node in module.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("overhaul.distill.")
        for alias in node.names
    }
    for base in bases:
        if base in own:
            found += lineage(module, own[base])
        elif base in far:
            theirs = ast.parse((PACKAGE / "distill" / f"{far[base].rpartition('.')[2]}.py").read_text("utf-8"))
            classes = {each.name: each for each in theirs.body if isinstance(each, ast.ClassDef)}
            found += lineage(theirs, classes[base])
    return found


def literals(of: ast.ClassDef) -> dict[str, Any]:
    """What a class binds to plain values, and to calls of plain values by name, which count as dicts."""
    found = {}
    for each in of.body:
        target = each.target if isinstance(each, ast.AnnAssign) else getattr(each, "targets", [None])[0]
        if not isinstance(target, ast.Name) or each.value is None:
            continue
        try:
            if isinstance(each.value, ast.Call):
                found[target.id] = {given.arg: ast.literal_eval(given.value) for given in each.value.keywords}
            else:
                found[target.id] = ast.literal_eval(each.value)
        except ValueError:
            continue
    return found


def settings_of(taken: ast.FunctionDef | None) -> dict[str, tuple[type, Any]]:
    """The keyword-only arguments of an __init__, their types and defaults."""
    pairs = zip(taken.args.kwonlyargs, taken.args.kw_defaults, strict=True) if taken else ()
    kinds = {"float": float, "int": int, "bool": bool}
    return {each.arg: (kinds[ast.unparse(each.annotation)], ast.literal_eval(value)) for each, value in pairs}


@cache
def files(folder: str, named: str) -> dict[str, str]:
    """The files of a folder that bind a name at their top level, by their own names, and what is in them."""
    texts = {path.stem: path.read_text("utf-8") for path in sorted((PACKAGE / folder).glob("[!_.]*.py"))}
    bound = re.compile(rf"^(class {named}\b|{named}\s*[:=]|(from|import) .*\b{named}$)", re.MULTILINE)
    return {name: text for name, text in texts.items() if bound.search(text)}


@cache
def arguments(family: str) -> dict[str, str]:
    """What a family's networks take: names and types, as they are written; nothing where the file does not show it."""
    taken = opening(family)
    each_of = [*taken.args[1:], *taken.kwonlyargs]
    return {each.arg: ast.unparse(each.annotation) if each.annotation else "" for each in each_of}


@cache
def required(family: str) -> tuple[str, ...]:
    """Those of the arguments that have no default."""
    taken = opening(family)
    optional = [each.arg for each in taken.args[len(taken.args) - len(taken.defaults) :]]
    optional += [each.arg for each, value in zip(taken.kwonlyargs, taken.kw_defaults, strict=True) if value]
    return tuple(name for name in arguments(family) if name not in optional)


def opening(family: str) -> ast.arguments:
    """What the __init__ of a family's networks takes; nothing where it is not in the file."""
    empty = ast.parse("def __init__(self): ...").body
    return next(each for each in [*network(family).body, *empty] if getattr(each, "name", "") == "__init__").args


def about(family: str) -> str:
    """What a family's file and the class of its networks say of themselves."""
    docs = ast.get_docstring(tree(family)) or "", ast.get_docstring(network(family)) or ""
    return " ".join(" ".join(docs).split())


def tree(family: str) -> ast.Module:
    return ast.parse(files("models", "Network")[family])


def network(family: str) -> ast.ClassDef:
    """The class that the file of a family names `Network`; an empty one where it is not defined there."""
    return named_in(tree(family), "Network")


def named_in(module: ast.Module, name: str) -> ast.ClassDef:
    """The class that a file names so; an empty one where it is not defined there."""
    classes = {each.name: each for each in module.body if isinstance(each, ast.ClassDef)}
    names = {
        target.id: each.value.id
        for each in module.body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    empty = ast.parse(f"class {name}: pass").body[0]
    return classes.get(name) or classes.get(names.get(name), empty)
