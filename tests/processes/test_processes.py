"""Several processes train, agree, and count every test image once: two gloo ranks, and under every launcher."""

import io
import json
import shutil

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image
from support.launch import TORCHRUN, launch, launch_two_nodes
from support.one_step import one_step
from support.places import SHARED
from support.ranks import Ranks
from support.runs import DIGITS, digests, distilling, flags, quick, stop, teaching, times_apart

from overhaul import models
from overhaul.data import sources
from overhaul.options import Run
from overhaul.setups import SETUPS


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_ranks_train_as_one_run(two):
    assert "2 x cpu" in two.out
    assert two.out.count("epoch   1/3") == 1, "only the main process speaks"
    metrics = lines_of(two.folder)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert metrics[1]["loss"] < metrics[0]["loss"]
    assert yaml.safe_load((two.folder / "config.yaml").read_text())["batch_size"] == 64


def test_two_ranks_start_as_one_process_does(two, finished):
    """Same samples and same weights: the first epoch's loss differs by BatchNorm's smaller batches alone."""
    ours, theirs = lines_of(two.folder)[0]["loss"], finished.metrics[0]["loss"]
    assert ours == pytest.approx(theirs, rel=0.05) and ours != theirs


def test_the_test_set_is_counted_whole_and_the_saved_student_is_the_measured_one(two, overhaul):
    final = lines_of(two.folder)[-1]
    alone = json.loads(overhaul("evaluate", two.folder, "--data", "digits", "--json").out)
    assert alone == {"top1": final["test_top1"], "top5": final["test_top5"], "images": 360}


def test_two_ranks_evaluate_an_odd_number_of_images_exactly(ranks, finished, tmp_path, overhaul):
    """359 images on two processes: the loaders are of unequal length."""
    (digits,) = sources.load("digits", Run(), DIGITS.preprocessing, 10, splits=("test",))
    pictures = [Image.fromarray(pixels) for pixels in digits.pixels[:359]]
    columns = {"image": pictures, "label": digits.labels[:359]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "test.parquet")
    evaluate = ["evaluate", str(finished.folder), "--data", str(tmp_path), "--json"]
    together, other = ranks("support.runs:command", *evaluate)
    assert (together.status, other.status, other.out) == (0, 0, ""), together.err
    assert json.loads(together.out) == json.loads(overhaul(*evaluate).out)
    assert json.loads(together.out)["images"] == 359


def test_two_ranks_go_on_with_the_images_of_one_process(two, ranks, digits_teacher, tmp_path, monkeypatch):
    """Stopped in the middle of the first epoch, whose sums are then those of all its images."""
    stop(monkeypatch, quick(digits_teacher), Run(output_dir=str(tmp_path / "run")), step=11)
    result, _ = ranks("support.runs:command", *flags(digits_teacher, tmp_path / "run"))
    assert result.status == 0, result.err
    assert "resumed after step 11 of epoch 1; it ran on 1 process before and on 2 now" in result.out
    now, whole = lines_of(tmp_path / "run")[0], lines_of(two.folder)[0]
    assert now["loss"] == pytest.approx(whole["loss"], rel=0.05)


def test_one_process_goes_on_with_the_images_of_two(two, digits_teacher, tmp_path, overhaul):
    folder = tmp_path / "run"
    shutil.copytree(two.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "epoch-0003")
    result = overhaul(*flags(digits_teacher, folder, "--epochs", 3))
    assert result.status == 0, result.err
    assert "resumed after epoch 2; it ran on 2 processes before and on 1 now: the same images" in result.out
    assert "images in the same order, but not the same to the last bit, as BatchNorm" in result.out
    whole, now = times_apart(lines_of(two.folder)), times_apart(lines_of(folder))
    assert now[:2] == whole[:2] and now[2] != whole[2]
    assert now[2]["loss"] == pytest.approx(whole[2]["loss"], rel=0.02)


@pytest.mark.parametrize(("parts", "hook", "bound"), [(1, "no", 1e-5), (2, "no", 1e-5), (1, "bf16", 1e-2)])
def test_loss_and_gradient_are_those_of_one_process(ranks, digits_teacher, parts, hook, bound):
    """With BatchNorm in eval mode, whatever the processes and the gradient accumulation steps."""
    alone = one_step(str(digits_teacher), 1)
    assert alone["losses"].min() > 0.1 and all(alone[name].abs().max() > 0 for name in alone)
    for theirs in ranks("support.one_step:one_step", str(digits_teacher), parts, hook):
        assert theirs.keys() == alone.keys()
        for name, value in alone.items():
            error = (theirs[name] - value).norm() / value.norm()
            assert error < (1e-5 if name == "losses" else bound), (name, error)
            assert name == "losses" or hook == "no" or error > 1e-5, "the hook had no part in it"


def test_a_rank_that_raises_or_dies_fails_its_test_and_the_next_one_gets_new_ranks(tmp_path):
    """Of the ranks that the tests share."""
    pair = Ranks(tmp_path)
    with pytest.raises(AssertionError, match="No module named 'nowhere'"):
        pair("nowhere:nothing")
    with pytest.raises(AssertionError, match="ended with status 3"):
        pair("os:_exit", 3)
    assert pair("os:getpid") == [process.pid for process in pair.processes]
    processes = pair.processes
    pair.close()
    assert all(process.returncode is not None for process in processes)


def test_two_ranks_try_a_run_out(ranks, few_digits, tmp_path):
    dry = teaching("--batch_size", 16, "--data_path", few_digits, "--output_dir", tmp_path / "run", "--dry_run")
    first, second = ranks("support.runs:command", "train", *dry)
    assert (first.status, second.status, second.out) == (0, 0, ""), first.err
    assert "dry run: stopped here" in first.out and not (tmp_path / "run").exists()


def test_accelerate_s_launcher_trains_the_run_that_two_ranks_do(two, digits_teacher, tmp_path):
    result = launch(2, *distilling(digits_teacher, "--output_dir", tmp_path / "run", epochs=3))
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stdout and result.stdout.count("epoch   1/3") == 1
    assert digests(tmp_path / "run" / "final") == digests(two.folder / "final")


@pytest.mark.slow
def test_two_nodes_train_the_run_that_two_ranks_do(two, digits_teacher, tmp_path):
    statuses, outputs = launch_two_nodes(*distilling(digits_teacher, "--output_dir", tmp_path / "run", epochs=3))
    assert statuses == [0, 0], outputs
    assert "2 x cpu" in outputs[0] and "epoch   3/3" in outputs[0] and "epoch " not in outputs[1]
    assert digests(tmp_path / "run" / "final") == digests(two.folder / "final")


@pytest.fixture
def imagenet(tmp_path) -> list[str]:
    """The arguments of a few steps of imagenet_b: real JPEGs where they are to be had, and an untrained teacher."""
    sample = SHARED / "data" / "imagenet_sample" / "data"
    names = [f"n{number:08d}" for number in range(1000)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    draw, folder = np.random.default_rng(0), tmp_path / "imagenet"
    folder.mkdir()
    for split, n in (("train", 20), ("validation", 7)):
        if sample.is_dir():
            table = pyarrow.parquet.read_table(sample / f"{split}-00000-of-00001.parquet").slice(0, n)
            pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
            continue
        pictures = [Image.fromarray(draw.integers(0, 256, (240, 260, 3), dtype=np.uint8)) for _ in range(n)]
        columns = {"image": list(map(as_jpeg, pictures)), "label": draw.integers(0, 1000, n)}
        datasets.Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    torch.manual_seed(0)
    torch.save(models.create(SETUPS["imagenet_b"].teacher).state_dict(), folder / "resnet50.pt")
    arguments = ["--setup", "imagenet_b", "--data_path", str(folder), "--teacher", str(folder / "resnet50.pt")]
    return [*arguments, "--batch_size", "8", "--epochs", "1", "--workers", "1", "--output_dir"]


def as_jpeg(picture: Image.Image) -> dict:
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return {"bytes": file.getvalue(), "path": None}


def test_imagenet_b_in_one_process_and_on_two_ranks(imagenet, ranks, tmp_path, overhaul):
    """Its own networks at 64 pixels."""
    small = ["train", "--image_size", "64", "--test_resize", "73", *imagenet]
    alone = overhaul(*small, tmp_path / "alone")
    assert alone.status == 0, alone.err
    assert "20 training and 7 test images" in alone.out and "1 epochs x 2 = 2, each of 8 images (1 x 8)" in alone.out
    assert "published" not in alone.out, "they are not ImageNet's images"
    together, _ = ranks("support.runs:command", *small, str(tmp_path / "together"))
    assert together.status == 0, together.err
    assert "each of 8 images (2 x 4)" in together.out
    one, two = (lines_of(tmp_path / name)[-1] for name in ("alone", "together"))
    assert one["loss"] == pytest.approx(two["loss"], rel=0.2), "BatchNorm sees 8 images or 4"
    evaluate = ["evaluate", tmp_path / "alone", "--data", "imagenet", "--data_path", imagenet[3], "--json"]
    assert json.loads(overhaul(*evaluate).out) == {"top1": one["test_top1"], "top5": one["test_top5"], "images": 7}


@pytest.mark.slow
def test_imagenet_b_as_published_under_a_launcher_and_on_two_nodes(imagenet, tmp_path):
    together = launch(2, *imagenet, tmp_path / "together")
    assert together.returncode == 0, together.stderr
    statuses, outputs = launch_two_nodes(*imagenet, tmp_path / "nodes")
    assert statuses == [0, 0], outputs
    assert digests(tmp_path / "nodes" / "final") == digests(tmp_path / "together" / "final")


def test_torchrun_starts_one_run(tmp_path):
    result = launch(2, *teaching("--output_dir", tmp_path / "run"), launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stdout and result.stdout.count("epoch   1/1") == 1


def test_a_batch_that_the_processes_do_not_divide(ranks, tmp_path):
    command = ["train", *teaching("--batch_size", 63, "--output_dir", tmp_path / "run")]
    for rank, result in enumerate(ranks("support.runs:command", *command)):
        assert result.status == 2 and ("[process 1]" in result.err) == (rank == 1)
        assert "--batch_size 63 is of all processes together, and 2 processes do not divide it" in result.err
    assert not (tmp_path / "run").exists()


def test_independent_processes_are_refused(tmp_path):
    """As on a machine whose one accelerator has no collectives (Apple's): each process would be a run of its own."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from overhaul.system import accelerator as engine\n"
        "from overhaul.cli.main import main\n"
        "prepared = engine.Accelerator\n"
        "engine.Accelerator = lambda cpu, **others: prepared(cpu=False, **others)\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    arguments = ["--setup", "digits_teacher", "--output_dir", tmp_path / "run"]
    result = launch(2, *arguments, launcher=TORCHRUN, script=[script])
    assert result.returncode != 0 and "2 processes were launched, but each would train alone" in result.stderr
    assert not (tmp_path / "run").exists()


def test_gradients_of_compiled_networks_travel_beside_the_backward_pass(ranks):
    """Dynamo cuts what is compiled inside DistributedDataParallel where that sends."""
    done = ["backward", "sent", "backward", "sent"]
    assert ranks("support.between:backward_and_exchanges") == [done, done]


@pytest.mark.slow
def test_two_ranks_train_compiled_networks_as_plain_ones(ranks, few_digits, tmp_path, overhaul):
    losses = []
    for compile in ("no", "default"):
        run = teaching("--batch_size", 16, "--data_path", few_digits, "--output_dir", tmp_path / compile)
        results = ranks("support.runs:command", "train", *run, "--compile", compile)
        assert [each.status for each in results] == [0, 0], results
        losses.append(lines_of(tmp_path / compile)[0]["loss"])
        evaluated = overhaul("evaluate", tmp_path / compile, "--data", "digits", "--json")
        assert evaluated.status == 0, evaluated.err
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] != losses[1]
