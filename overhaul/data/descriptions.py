"""The files that describe a set, README.md and those of save_to_disk, checked before datasets believes them."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from overhaul.data.bounds import check_regular, read_regular
from overhaul.data.listing import leads_out
from overhaul.system.messages import UserError, printable

MOST_BYTES = 2**24  # of such a file
OTHERS = (".huggingface.yaml", "dataset_infos.json")


class Plain(yaml.SafeLoader):
    """YAML without references, of which a few lines can make a list that is endless or larger than any memory."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise UserError("its head refers to a part of itself (*NAME): write that out")
        return super().compose_node(parent, index)


def has_card(folder: Path) -> bool:
    """Whether a README.md says, as on the Hub, what files the splits are of or what they hold.

    Raises UserError for one that is too large, no plain YAML, or names files that are not in the folder.
    """
    card, others = folder / "README.md", [folder / name for name in OTHERS if (folder / name).is_file()]
    for file in (card, *others) if card.is_file() else others:
        if check_regular(file) > MOST_BYTES:
            raise UserError(f"{file} has more than {MOST_BYTES:,} bytes, too many for what describes a data set")
    text = read_regular(card, MOST_BYTES).decode(errors="replace") if card.is_file() else ""
    head = text.split("\n---", 1)[0]
    said = head.startswith("---") and re.search("^(configs|dataset_info):", head, re.MULTILINE)
    if head.startswith("---"):
        check_card(card, head)
    return bool(said) or bool(others)


def check_card(card: Path, head: str) -> None:
    try:
        content = yaml.load(head, Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{card} cannot be read ({reason})") from None
    for word in words(content.get("configs") if isinstance(content, dict) else None):
        if "://" in word or leads_out(word):
            raise UserError(f"{card} names the files {printable(word)}, which are not in its folder")


def words(content: object) -> Iterable[str]:
    """The texts in nested lists and in the values of dicts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (list, dict)):
        for each in content.values() if isinstance(content, dict) else content:
            yield from words(each)


def check_saved(folder: Path) -> None:
    """UserError where what save_to_disk wrote names tables that are no files in the folder."""
    several = folder / "dataset_dict.json"
    splits = read_json(several)["splits"] if several.exists() else ["."]
    for split in splits:
        state = folder / check_name(folder, split) / "state.json"
        for file in read_json(state)["_data_files"]:
            check_regular(state.with_name(check_name(folder, file["filename"])))
        if (about := state.with_name("dataset_info.json")).exists():
            read_json(about)


def check_name(folder: Path, name: str) -> str:
    if leads_out(name):
        raise UserError(f"{folder} names {printable(name)}, which is not in it: it is not as save_to_disk wrote it")
    return name


def read_json(file: Path) -> dict:
    return json.loads(read_regular(file, MOST_BYTES))


def check_files(files: dict[str, list[str]], folder: str | None) -> None:
    """UserError for data files that are none, lie outside the folder, or are twice there, be it under two names."""
    seen = {}
    for split, file in ((split, file) for split, names in files.items() for file in names):
        if folder is not None:
            if "://" in file or not os.path.abspath(file).startswith(os.path.abspath(folder).rstrip("/") + "/"):
                raise UserError(f"{printable(file)} is a data file of {folder} and does not lie in it")
            check_regular(file)
        about = os.stat(file) if os.path.isfile(file) else None
        real = (about.st_dev, about.st_ino) if about else file
        if real in seen:
            where = (
                f"twice in the {split} split" if seen[real] == split else f"in the {seen[real]} and the {split} split"
            )
            raise UserError(
                f"{printable(file)} is {where}, and may be there only once: say which files a split is of (`configs:` "
                f"and `data_files:` in README.md), or take a local copy without a README.md"
            )
        seen[real] = split
