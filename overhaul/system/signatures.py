"""Functions that show the fields of dataclasses as keyword arguments of their own, and what docstrings say of those."""

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass


def takes(*classes: type, hidden: tuple[str, ...] = (), of_row: type | None = None) -> Callable:
    """Let a function of **options be seen with the fields of dataclasses as its keyword arguments, with their help.

    hidden: fields that are none. of_row: the class whose fields have the row's value, shown as `...`, unless named.
    """

    def seen(function: Callable) -> Callable:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=field.type,
                default=... if of is of_row else default(field),
            )
            for of in classes
            for field in fields(of)
            if field.name not in hidden
        ]
        function.__signature__ = signature.replace(parameters=[*own, *more])
        function.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
        helps = [line for of in classes for line in help_lines(of) if line.split(":")[0].strip() not in hidden]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__), *helps])
        return function

    return seen


def default(field: Field) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def help_lines(of: type) -> list[str]:
    """What the docstrings of a dataclass, and of those that it extends, say under Args."""
    classes = [each for each in reversed(of.__mro__) if is_dataclass(each) and each.__doc__]
    return [line for each in classes for line in inspect.cleandoc(each.__doc__).partition("Args:\n")[2].splitlines()]


def helps_in(doc: str) -> dict[str, str]:
    """What a docstring without its indentation says under Args, by names."""
    helps, name = {}, None
    for line in doc.partition("Args:\n")[2].splitlines():
        if opened := re.match(r"    (\w+): (.*)", line):
            name, text = opened.groups()
            helps[name] = text
        elif name and line.startswith(" " * 8):
            helps[name] += f" {line.strip()}"
    return helps
