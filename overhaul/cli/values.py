"""What a flag or an entry of YAML takes: in words for people, and as the value that its type asks for."""

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import yaml

from overhaul.recipe import Net
from overhaul.system.messages import UserError, choose
from overhaul.system.numbers import check_text

NO_YAML = (yaml.YAMLError, ValueError, RecursionError)  # what reading it raises: ValueError for numbers and bytes
POSITIONS = ("positions", "student.positions", "teacher.positions")
WHOLE = r"[-+]?(0|[1-9]\d*)"
NUMBER = r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|nan)"
SWITCH = {"true": True, "yes": True, "false": False, "no": False}
WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Net: "a run's folder, a checkpoint file, a repository on the Hub, timm:NAME, torchvision:NAME, FILE.py:FUNCTION, "
    "or the entries of a network",
}
NAMES = 'names of modules in brackets, as in "[layer1, layer2.0.relu#2]"'
LISTS = {  # by their length
    0: 'numbers in brackets, as in "[0.5, 0.75]"',
    2: 'two numbers in brackets, as in "[0.1, 1]"',
    3: 'three numbers in brackets, as in "[0.5, 0.5, 0.5]"',
}


class Reader(yaml.SafeLoader):
    """Plain values alone, each name once: no anchors, tags, dates, or numbers that YAML 1.1 reads to another base.

    The names of modules are texts: 0.10 would be a number.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}  # those of plain values, below

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if event.anchor or getattr(event, "tag", None):
            refused = "anchors, aliases and tags are not read: write the value itself"
            raise yaml.composer.ComposerError(None, None, refused, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        for (key, value), name in zip(node.value, names, strict=True):
            if not isinstance(key, yaml.ScalarNode) or names.count(name) > 1:
                wrong = f"{name} stands there twice" if isinstance(key, yaml.ScalarNode) else "a name is a word"
                raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
            if name in POSITIONS and isinstance(value, yaml.SequenceNode):
                for each in value.value:
                    each.tag = self.DEFAULT_SCALAR_TAG if isinstance(each, yaml.ScalarNode) else each.tag
        return super().construct_mapping(node, deep)


for kind, form, first in (
    ("bool", r"(?i:yes|no|true|false|on|off)", "yYnNtTfFoO"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", WHOLE, "-+0123456789"),
    ("float", NUMBER, "-+0123456789."),
):
    Reader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{form})\Z", re.ASCII), list(first))


class Unfit(Exception):
    """A value that its type does not take."""


def kinds_of(kind: Any) -> tuple:
    """The types of which a value may be any, None first."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(sorted(kinds, key=lambda each: each is not NoneType))


def of_origin(kind: Any, origin: type) -> Any:
    """The one among a type's kinds that is a tuple[...], dict[...] or Literal[...], or None."""
    return next((each for each in kinds_of(kind) if get_origin(each) is origin), None)


def is_switch(kind: Any) -> bool:
    return kind is bool


def is_names(kind: Any) -> bool:
    return kind == tuple[str, ...]


def words(kind: Any) -> str:
    """What a type takes, for people."""
    if choices := of_origin(kind, Literal):
        return f"one of {', '.join(get_args(choices))}"
    if numbers := of_origin(kind, tuple):
        if is_names(numbers):
            return NAMES
        return LISTS[0 if ... in get_args(numbers) else len(get_args(numbers))]
    if of_origin(kind, dict) and not {int, float} & {*kinds_of(kind)}:
        return "names and values in braces, as in '{\"depth\": 16}'"
    return ", or ".join(WORDS[each] for each in kinds_of(kind) if each in WORDS)


def accept(what: str, kind: Any, value: Any) -> Any:
    """The value as its type has it; UserError, which says what `what` takes, for one that it does not take."""
    try:
        fitting = fit(kind, value)
    except (Unfit, OverflowError):
        pass
    else:
        for text in fitting if isinstance(fitting, tuple) else (fitting,):
            if isinstance(text, str):
                check_text(what, text)
        return fitting
    if choices := of_origin(kind, Literal):
        choose(what, value[:80] if isinstance(value, str) else shown(value), get_args(choices))
    raise UserError(f"{what} takes {words(kind)}, not {shown(value)}")


def shown(value: Any) -> str:
    """A value as YAML would have it, and not endless."""
    text = repr(value) if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1000)
    text = text.removesuffix("\n...\n").strip()
    return text if len(text) <= 80 else f"{text[:77]}..."


def fit(kind: Any, value: Any) -> Any:
    """Text of the command line, or a value of YAML, as its type has it; Unfit where it has none."""
    for each in kinds_of(kind):
        try:
            return fit_one(each, value)
        except (Unfit, ValueError):
            continue
    raise Unfit


def fit_one(kind: Any, value: Any) -> Any:
    text = value if isinstance(value, str) else None
    if kind is NoneType and value in (None, "null"):
        return None
    if get_origin(kind) is Literal and (value in get_args(kind) or value is False):  # YAML reads a bare no as False
        return fit_one(kind, "no") if value is False else value
    if kind is bool and (isinstance(value, bool) or (text or "").lower() in SWITCH):
        return value if text is None else SWITCH[text.lower()]
    if kind is str and text and text.strip():
        return text
    if kind is int and (is_form(WHOLE, text) or (isinstance(value, int) and not isinstance(value, bool))):
        return int(value)
    if kind is float and (is_form(NUMBER, text) or (isinstance(value, (int, float)) and not isinstance(value, bool))):
        return float(value)
    if is_names(kind):
        return names_in(value)
    if get_origin(kind) is tuple:
        several, wanted = loaded(value), get_args(kind)
        if isinstance(several, (list, tuple)) and len(several) == (len(several) if ... in wanted else len(wanted)):
            return tuple(fit(wanted[0], each) for each in several)
    if get_origin(kind) is dict and isinstance(mapping := loaded(value), Mapping):
        return {str(name): fit(get_args(kind)[1], each) for name, each in mapping.items()}
    raise Unfit


def is_form(form: str, text: str | None) -> bool:
    """Whether a text is a number as people write them: without underscores, blanks, other bases or scripts' digits."""
    return text is not None and bool(re.fullmatch(form, text, re.ASCII))


def names_in(value: Any) -> tuple[str, ...]:
    """The names in a list, or in a text with brackets around them; Unfit where there are none."""
    if isinstance(value, str) and (listed := re.fullmatch(r"\s*\[(.*)\]\s*", value)):
        value = [each.strip().strip("\"'") for each in listed[1].split(",")]
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, str) and each for each in value):
        raise Unfit
    return tuple(value)


def loaded(value: Any) -> Any:
    """Text as the YAML in it; whatever is none, as it is."""
    try:
        return yaml.load(value, Reader) if isinstance(value, str) else value
    except NO_YAML:
        return value
