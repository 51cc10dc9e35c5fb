"""Whether images are held in memory is decided in one place, for every size and every command."""

from dataclasses import replace

import pytest
import torch
from support.images import NAMES, some_split, write_parquet

from overhaul import hub, models
from overhaul.data import sources
from overhaul.data.images import EncodedImages, Images
from overhaul.data.loaders import load_splits, make_loaders
from overhaul.options import DataOptions, Run
from overhaul.recipe import Net, Preprocessing
from overhaul.setups import SETUPS
from overhaul.system import accelerator
from overhaul.training.evaluation import evaluate_source

TINY = Net(family="pyramidnet", kwargs={"depth": 8, "alpha": 6, "bottleneck": False, "num_classes": 10})


@pytest.mark.parametrize("crop_area", [None, (0.2, 1.0)])
@pytest.mark.parametrize("size", [8, 32, 64, 65, 96])
def test_what_trains_can_be_evaluated(tmp_path, size, crop_area):
    """Also beyond 64 pixels a side, where the digits of the student that was trained could not be evaluated."""
    setup = replace(SETUPS["digits"], image_size=size, crop_area=crop_area, student=TINY)
    run, here = Run(workers=2), accelerator.start()
    train, test = make_loaders(setup, run, load_splits(setup, run, 10, here), here)
    assert isinstance(train.images, Images) and train.workers == 0
    assert next(iter(train))[0].shape == (64, 3, size, size) and test.images.size == size
    torch.manual_seed(0)
    hub.save(tmp_path, models.create(TINY), setup, [str(i) for i in range(10)])
    assert evaluate_source(str(tmp_path), "digits", DataOptions(workers=2))["images"] == 360


@pytest.mark.parametrize("crop_area", [None, (0.2, 1.0)])
@pytest.mark.parametrize("size", [16, 80])
def test_images_of_files_are_held_where_the_crops_need_it_and_evaluated_as_they_come(tmp_path, size, crop_area):
    path = write_parquet(tmp_path / "set", train=some_split(8), test=some_split(5))
    net = replace(TINY, kwargs={**TINY.kwargs, "num_classes": 3})
    setup = replace(SETUPS["digits"], image_size=size, crop_area=crop_area, student=net, batch_size=4)
    run, here = Run(data_path=path, workers=1), accelerator.start()
    train, test = make_loaders(setup, run, load_splits(setup, run, 3, here), here)
    kind = EncodedImages if crop_area else Images
    assert isinstance(train.images, kind) and isinstance(test.images, kind)
    assert train.workers == test.workers == (1 if crop_area else 0)
    hub.save(tmp_path / "student", models.create(net), setup, NAMES)
    result = evaluate_source(str(tmp_path / "student"), path, DataOptions(workers=0))
    assert result["images"] == 5


def test_images_that_would_not_fit_the_memory_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "set", train=some_split(8), test=some_split(5))
    show = Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr(sources, "memory", lambda: 8 * 64 * 64 * 3 - 1)
    monkeypatch.setattr(EncodedImages, "centres", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(ValueError, match=r"the 8 images of the train split take .*--crop_area .* --image_size"):
        sources.load("x/y", DataOptions(data_path=path), show, 3)
    assert len(sources.load("x/y", DataOptions(data_path=path), show, 3, whole=True)) == 2
