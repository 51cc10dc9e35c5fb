"""The tables of a set in any form that `datasets` takes, of one configuration, no file in two splits."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from overhaul.data.columns import Unlabelled, count_rows, split_of
from overhaul.data.folders import read_folder
from overhaul.system.messages import UserError, choose, printable

SHARDS = 64  # at most, of a stream of a set that lies in one piece


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Without datasets' own lines, which are given instead: what fails is raised too."""
    said = []
    handlers = logging.getLogger("datasets").handlers

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield said
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


@dataclass(frozen=True)
class Tables:
    """The splits of a set by name, images still encoded, and the images of each where that is known.

    splits: datasets.Dataset, or their streams, or Unlabelled. whole: datasets.Dataset of what is streamed, where there
    is one.
    """

    splits: dict
    counts: dict[str, int]
    whole: dict = field(default_factory=dict)


def find_tables(source: str, config: str | None, streaming: bool) -> Tables:
    """The tables, or streams, of a folder or a repository of the Hub; whatever a library raises is let through."""
    import datasets

    local = Path(source)
    if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
        refuse_config(source, config)
        tables = datasets.load_from_disk(source)
        return as_streams(tables if isinstance(tables, dict) else {str(tables.split or "train"): tables}, streaming)
    if not local.is_dir() or has_card(local):
        return build(open_builder(source, config), streaming)
    refuse_config(source, config)
    images, files = read_folder(local.absolute())
    found = as_streams(mixed(images) if streaming else images, streaming)
    if not files:
        return found
    more = build(datasets.load_dataset_builder(source, data_files=files), streaming)
    return Tables({**found.splits, **more.splits}, {**found.counts, **more.counts}, found.whole)


def mixed(images: dict) -> dict:
    """With the training images in a random order, the same every time: a stream of class after class mixes badly."""
    order = np.random.default_rng(0).permutation
    return {
        name: table.select(order(len(table)))
        if split_of(name) == "train" and not isinstance(table, Unlabelled)
        else table
        for name, table in images.items()
    }


def has_card(folder: Path) -> bool:
    """Whether a README.md says, as on the Hub, what files the splits are of or what they hold."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0] if card.is_file() else ""
    said = head.startswith("---") and re.search("^(configs|dataset_info):", head, re.MULTILINE)
    return bool(said) or any((folder / name).is_file() for name in (".huggingface.yaml", "dataset_infos.json"))


def refuse_config(source: str, config: str | None) -> None:
    if config is not None:
        raise UserError(f"--data_config {config}: the data set {source} has no configurations")


def open_builder(source: str, config: str | None):
    """datasets' builder of a configuration; UserError that names them all where it must be told or is unknown."""
    import datasets

    try:
        return datasets.load_dataset_builder(source, config)
    except ValueError as error:
        if not re.match("Config name is missing|BuilderConfig .* not found", str(error)):
            raise
        names = datasets.get_dataset_config_names(source)
    if config is None:
        raise UserError(
            f"the data set {source} has several configurations: name one of {', '.join(names)} with --data_config"
        )
    if names == ["default"]:
        refuse_config(source, config)
    choose("--data_config", config, names)


def build(builder, streaming: bool) -> Tables:
    files = {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
    check_files_once(files)
    if not streaming:
        builder.download_and_prepare()
        return Tables(dict(builder.as_dataset()), {})
    streams = dict(builder.as_streaming_dataset())
    for name, stream in streams.items():
        if stream.features is None and next(iter(stream), None) is not None:  # what cannot be read says so here
            raise UserError(
                f"the columns of the {name} split cannot be told before they are read: leave --streaming out"
            )
    counts = {str(name): split.num_examples for name, split in (builder.info.splits or {}).items()}
    for name in streams.keys() & files.keys() - counts.keys():
        if all(file.endswith(".parquet") and os.path.isfile(file) for file in files[name]):
            counts[name] = sum(map(count_rows, files[name]))
    return Tables(streams, counts)


def check_files_once(files: dict[str, list[str]]) -> None:
    """UserError where a data file is in two splits or twice in one, be it under two names."""
    seen = {}
    for split, file in ((split, file) for split, names in files.items() for file in names):
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


def as_streams(tables: dict, streaming: bool) -> Tables:
    """Tables that are there, or streams of them, and their lengths."""
    whole = {name: table for name, table in tables.items() if not isinstance(table, Unlabelled)}
    if streaming:
        streams = {name: table.to_iterable_dataset(min(SHARDS, len(table))) for name, table in whole.items()}
        tables = {**tables, **streams}
    return Tables(tables, {name: len(table) for name, table in whole.items()}, whole)
