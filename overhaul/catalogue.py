"""The network families and the methods by name, read from their files without importing them, so without torch."""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def families() -> tuple[str, ...]:
    """The files of models/ that name a class `Network`."""
    return tuple(files("models", "Network"))


def methods() -> tuple[str, ...]:
    """The files of distill/ that name a class `Method`."""
    return tuple(files("distill", "Method"))


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
    module = tree(family)
    classes = {each.name: each for each in module.body if isinstance(each, ast.ClassDef)}
    names = {
        target.id: each.value.id
        for each in module.body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    empty = ast.parse("class Network: pass").body[0]
    return classes.get("Network") or classes.get(names.get("Network"), empty)
