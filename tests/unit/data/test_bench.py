"""The benchmark of the data: both ways measured alike, on one core each, in one run."""

import json

import datasets
import numpy as np
import pytest
import torch
from support.runs import refused

from overhaul.data import bench
from overhaul.data.bench import bench_data
from overhaul.setups import SETUPS, Setup

KEYS = {"data", "images", "ours", "release", "ratio", "lowest", "highest"}


def check(lines: list[dict]) -> None:
    for line in lines:
        assert set(line) == KEYS and line["lowest"] <= line["ratio"] <= line["highest"]
        assert min(line["ours"], line["release"], line["lowest"]) > 0


def test_made_up_images_give_a_table_of_two_lines(overhaul, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    result = overhaul("bench", "data", "--seconds", 0.5)
    assert result.status == 0, result.err
    head, rule, *rows = result.out.splitlines()
    assert head.split("  ")[0] == "training images" and "ours, images/s" in head and "ratio (median)" in head
    assert set(rule) == {"-", " "}
    assert [row.split("  ")[0] for row in rows] == ["ImageNet, made up", "CIFAR-100, made up"]
    assert all(float(number.replace(",", "")) > 0 for row in rows for number in row.split()[-5:])


def test_real_images_come_faster_than_in_the_release(shared, tmp_path, overhaul, monkeypatch):
    """By less than the bar, since a test machine is a noisy one."""
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
    assert lines[0]["ratio"] > 1 and lines[1]["ratio"] > 10


def test_the_ratio_is_of_ours_over_the_releases_round_by_round(monkeypatch):
    speeds = iter([100, 50, 300, 100, 80, 10, 60, 60, 500, 100])
    monkeypatch.setattr(bench, "images_per_second", lambda batches, seconds: next(speeds))
    images = bench.made_up_jpegs(SETUPS["imagenet_b"])
    line = bench.compare("some", images, bench.replace(SETUPS["imagenet_b"], batch_size=8), [], workers=0, seconds=5)
    assert line == {
        **{"data": "some", "images": 64, "ours": 100, "release": 60},
        **{"ratio": 3, "lowest": 1, "highest": 8},
    }


def test_json_holds_the_lines(overhaul, monkeypatch):
    monkeypatch.setattr(bench, "images_per_second", lambda batches, seconds: seconds)
    lines = json.loads(overhaul("bench", "data", "--seconds", 2, "--json").out)
    check(lines)
    assert [(line["images"], line["ours"], line["ratio"]) for line in lines] == [(64, 0.4, 1), (10000, 0.4, 1)]


@pytest.fixture(scope="module")
def compared() -> dict[str, tuple]:
    """What the two measurements would compare, and how many threads PyTorch has then."""
    seen = {}

    def compare(name, images, setup, theirs, workers, seconds):
        ours = next(bench.endless_batches(bench.TrainLoader(images, setup, seed=0), 0))[:2]
        seen[name.split(",")[0]] = (setup, ours, next(iter(theirs)), theirs, workers, torch.get_num_threads())
        return {}

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "compare", compare)
        bench_data(None, None, seconds=1)
    assert torch.get_num_threads() == 2, "given back"
    torch.set_num_threads(before)
    return seen


@pytest.mark.parametrize("name", ["ImageNet", "CIFAR-100"])
def test_both_ways_make_the_same_batches_the_release_normalised_floats(compared, name):
    setup, (pixels, labels), (theirs, their_labels), *_ = compared[name]
    size, n = setup.image_size, setup.batch_size
    assert isinstance(setup, Setup) and size == (224 if name == "ImageNet" else 32)
    assert pixels.dtype == torch.uint8 and pixels.shape == (n, size, size, 3) and labels.shape == (n,)
    assert theirs.dtype == torch.float32 and theirs.shape == (n, 3, size, size) and their_labels.shape == (n,)
    mean, std = (torch.tensor(each)[:, None, None] for each in (setup.mean, setup.std))
    back = (theirs * std + mean) * 255
    assert (back - back.round()).abs().max() < 1e-3 and back.min() > -0.1 and back.max() < 255.1
    assert np.ptp(back.numpy()) > 200


def test_both_ways_have_one_core(compared):
    """For JPEGs a worker each, which PyTorch gives one thread; in memory ours needs no worker."""
    for name, workers in (("ImageNet", 1), ("CIFAR-100", 0)):
        *_, theirs, ours, threads = compared[name]
        assert (theirs.num_workers, ours, threads) == (1, workers, 1)


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
        (["data", "--seconds", "nan"], ["--seconds must be above 0"]),
        (["data", "--seconds", "long"], ["--seconds", "long"]),
        (["date"], ["date"]),
    ],
)
def test_wrong_values_are_one_line(overhaul, arguments, words):
    refused(overhaul("bench", *arguments), *words)
