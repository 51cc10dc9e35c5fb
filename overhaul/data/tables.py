"""The tables of a set in any form that `datasets` takes, of one configuration, no file in two splits."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from overhaul.data.bounds import Bounds
from overhaul.data.columns import Unlabelled, count_rows, split_of
from overhaul.data.descriptions import check_files, check_saved, has_card
from overhaul.data.folders import read_folder
from overhaul.system.messages import UserError, choose

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
    is one. bounds: where the image files of splits lie, if they lie in files.
    """

    splits: dict
    counts: dict[str, int]
    whole: dict = field(default_factory=dict)
    bounds: dict[str, Bounds] = field(default_factory=dict)

    def bounds_of(self, split: str) -> Bounds:
        return self.bounds[split]


def find_tables(source: str, config: str | None, streaming: bool) -> Tables:
    """The tables, or streams, of a folder or a repository of the Hub; whatever a library raises is let through."""
    import datasets

    local = Path(source)
    if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
        refuse_config(source, config)
        check_saved(local)
        tables = datasets.load_from_disk(source)
        tables = tables if isinstance(tables, dict) else {str(tables.split or "train"): tables}
        return as_streams(tables, streaming, Bounds((str(local.absolute()),)))
    folder = source if local.is_dir() else None
    if folder is None or has_card(local):
        return build(open_builder(source, config), streaming, folder)
    refuse_config(source, config)
    images, files = read_folder(local.absolute())
    walked = Bounds((str(local.absolute()),), walked=True)
    found = as_streams(mixed(images) if streaming else images, streaming, walked)
    if not files:
        return found
    more = build(datasets.load_dataset_builder(source, data_files=files), streaming, folder)
    bounds = {**found.bounds, **more.bounds}
    return Tables({**found.splits, **more.splits}, {**found.counts, **more.counts}, found.whole, bounds)


def mixed(images: dict) -> dict:
    """With the training images in a random order, the same every time: a stream of class after class mixes badly."""
    order = np.random.default_rng(0).permutation
    return {
        name: table.select(order(len(table)))
        if split_of(name) == "train" and not isinstance(table, Unlabelled)
        else table
        for name, table in images.items()
    }


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


def build(builder, streaming: bool, folder: str | None) -> Tables:
    """What a builder of datasets makes of a folder, or of a repository of the Hub."""
    files = {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
    check_files(files, folder)
    bounds = {split: bounds_of(builder, folder, each) for split, each in files.items()}
    if not streaming:
        builder.download_and_prepare()
        return Tables(dict(builder.as_dataset()), {}, {}, bounds)
    if folder is None and of_folders(builder):
        raise UserError(
            f"{builder.repo_id} has its images in single files or zip archives, of which the Hub gives no stream: "
            f"leave --streaming out, or take a copy that `overhaul prepare` has made"
        )
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
    return Tables(streams, counts, {}, bounds)


def of_folders(builder) -> bool:
    """Whether a builder walks through folders of images itself."""
    import datasets

    return isinstance(builder, datasets.packaged_modules.folder_based_builder.folder_based_builder.FolderBasedBuilder)


def bounds_of(builder, folder: str | None, files: list[str]) -> Bounds:
    """Where the images of a builder's split lie: in the folder, or in what was fetched from the Hub or unpacked.

    files: the split's data files. A relative path may count from them.
    """
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    own = [folder] if folder else []
    if builder.repo_id:
        repo = repo_folder_name(repo_id=builder.repo_id, repo_type="dataset")
        own = [os.path.join(constants.HF_HUB_CACHE, repo)]
    folders = (*own, datasets.config.EXTRACTED_DATASETS_PATH)
    walked = of_folders(builder)
    starts = () if walked or folder is None else sorted({os.path.dirname(os.path.abspath(file)) for file in files})
    return Bounds(tuple(os.path.abspath(each) for each in folders), tuple(starts), walked)


def as_streams(tables: dict, streaming: bool, bounds: Bounds) -> Tables:
    """Tables that are there, or streams of them, and their lengths."""
    whole = {name: table for name, table in tables.items() if not isinstance(table, Unlabelled)}
    if streaming:
        streams = {name: table.to_iterable_dataset(min(SHARDS, len(table))) for name, table in whole.items()}
        tables = {**tables, **streams}
    counts = {name: len(table) for name, table in whole.items()}
    return Tables(tables, counts, whole, dict.fromkeys(tables, bounds))
