"""The benchmark of the data: what is measured, on one core, and how it is told; the release's way makes the same."""

import json

import datasets
import numpy as np
import pytest
import torch
from support.release_data import release_loader
from support.runs import refused

from overhaul.data import bench
from overhaul.data.bench import bench_data
from overhaul.data.loaders import TrainLoader

KEYS = {"data", "images", "images_per_second", "lowest", "highest"}


def check(lines: list[dict]) -> None:
    for line in lines:
        assert set(line) == KEYS and 0 < line["lowest"] <= line["images_per_second"] <= line["highest"]


def test_synthetic_images_give_a_table_of_two_lines(overhaul, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    result = overhaul("bench", "data", "--seconds", 0.5)
    assert result.status == 0, result.err
    head, rule, *rows = result.out.splitlines()
    assert head.split("  ")[0] == "training images" and "images/s (median)" in head
    assert set(rule) == {"-", " "}
    assert [row.split("  ")[0] for row in rows] == ["ImageNet, synthetic", "CIFAR-100, synthetic"]
    assert all(float(number.replace(",", "")) > 0 for row in rows for number in row.split()[-3:])


def test_real_images_are_measured_where_they_lie(shared, tmp_path, overhaul, monkeypatch):
    imagenet, cifar = shared / "data" / "imagenet_sample", tmp_path / "cifar100"
    cifar.mkdir()
    file = str(shared / "data" / "cifar100" / "cifar100" / "train-00000-of-00001.parquet")
    datasets.Dataset.from_parquet(file).select(range(2000)).to_parquet(cifar / "train.parquet")
    monkeypatch.setattr(bench, "ROUNDS", 2)
    result = overhaul("bench", "data", "--imagenet", imagenet, "--cifar100", cifar, "--seconds", 1, "--json")
    assert result.status == 0, result.err
    lines = json.loads(result.out)
    check(lines)
    assert [line["data"] for line in lines] == [f"ImageNet, {imagenet}", f"CIFAR-100, {cifar}"]
    assert [line["images"] for line in lines] == [160, 2000]


def test_a_line_holds_the_median_and_the_spread_of_the_rounds(monkeypatch):
    speeds = iter([100, 300, 80, 60, 500])
    monkeypatch.setattr(bench, "images_per_second", lambda batches, seconds: next(speeds))
    line = bench.measure(*bench.jpegs(None), seconds=5)
    measured = {"images_per_second": 100, "lowest": 60, "highest": 500}
    assert line == {"data": "ImageNet, synthetic", "images": 64, **measured}


def test_json_holds_the_lines(overhaul, monkeypatch):
    monkeypatch.setattr(bench, "images_per_second", lambda batches, seconds: seconds)
    lines = json.loads(overhaul("bench", "data", "--seconds", 2, "--json").out)
    check(lines)
    assert [(line["images"], line["images_per_second"]) for line in lines] == [(64, 0.4), (10000, 0.4)]


@pytest.mark.parametrize("read", [bench.jpegs, bench.small_images])
def test_the_release_makes_the_same_batches_as_normalised_floats(read, tmp_path):
    """A worker each for JPEGs; in memory ours needs none."""
    name, images, setup, workers = read(None)
    release = release_loader(images, setup, tmp_path)
    pixels, labels, _ = next(bench.endless_batches(TrainLoader(images, setup, seed=0)))
    theirs, their_labels = next(iter(release))
    size, n = setup.image_size, setup.batch_size
    expected = ("ImageNet, synthetic", 224, 32, 1) if read is bench.jpegs else ("CIFAR-100, synthetic", 32, 128, 0)
    assert (name, size, n, workers) == expected and release.num_workers == 1
    assert pixels.dtype == torch.uint8 and pixels.shape == (n, size, size, 3) and labels.shape == (n,)
    assert theirs.dtype == torch.float32 and theirs.shape == (n, 3, size, size) and their_labels.shape == (n,)
    mean, std = (torch.tensor(each)[:, None, None] for each in (setup.mean, setup.std))
    back = (theirs * std + mean) * 255
    assert (back - back.round()).abs().max() < 1e-3 and back.min() > -0.1 and back.max() < 255.1
    assert np.ptp(back.numpy()) > 200


def test_one_thread_measures_and_the_others_are_given_back(monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(bench, "measure", lambda *arguments: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        bench_data(None, None, seconds=1)
        assert (seen, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_wrong_path_is_told_before_anything_is_timed_and_threads_are_given_back(monkeypatch):
    monkeypatch.setattr(bench, "images_per_second", None)
    before = torch.get_num_threads()
    for paths in (("/nowhere", None), (None, "/nowhere")):
        with pytest.raises(ValueError, match="/nowhere: there is no such folder"):
            bench_data(*paths, seconds=1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "--imagenet", "/nowhere"], ["/nowhere: there is no such folder"]),
        (["data", "--seconds", "0"], ["--seconds must be above 0"]),
        (["data", "--seconds", "-3"], ["--seconds must be above 0"]),
        (["data", "--seconds", "nan"], ["--seconds takes a number, not 'nan'"]),
        (["data", "--seconds", "long"], ["--seconds", "long"]),
        (["date"], ["date"]),
    ],
)
def test_wrong_values_are_one_line(overhaul, arguments, words):
    refused(overhaul("bench", *arguments), *words)
