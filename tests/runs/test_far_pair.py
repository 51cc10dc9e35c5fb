"""Two networks that are far apart, in the loop: measured margins, the first batch, a baseline, a file that changes."""

import contextlib
import copy
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.jpegs import write_jpegs
from support.pair import gradients, pair, write_pair
from support.runs import DIGITS, digests, outcome, stop

import overhaul
from overhaul import bench, hub, models
from overhaul.data.loaders import unaugmented
from overhaul.options import DataOptions, Run
from overhaul.recipe import Net
from overhaul.run import checkpoints
from overhaul.setups import SETUPS
from overhaul.training import networks, pretrained, start, trainer
from overhaul.training.build import build
from overhaul.training.evaluation import evaluate, evaluate_source
from overhaul.training.first_batch import measure_first_batch
from overhaul.training.margins import measure_margins
from overhaul.training.trainer import train

COUNTED = """

class Counted(Student):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.act, self.more = nn.ReLU(), nn.ModuleList(nn.Conv2d(n, n, 3, padding=1) for n in (8, 16))
        self.aside = nn.Linear(8, num_classes)

    def forward(self, images):
        x = self.act(self.one[1](self.one[0](images)))
        x = self.act(x + self.more[0](x))
        aside = self.aside(self.act(x).mean((2, 3))) if self.training else None
        x = self.act(self.two[1](self.two[0](x)))
        x = self.act(self.three[1](self.three[0](x)))
        logits = self.fc(self.act(x + self.more[1](x)).mean((2, 3)))
        return (logits, aside) if self.training else logits
"""
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the pair; its file is not to be changed."""
    return write_pair(tmp_path_factory.mktemp("far") / "nets")


@pytest.fixture(scope="module")
def whole(place):
    """A run of it, and what was said."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        result = train(pair(place), Run(output_dir=str(place / "whole")), show=True)
    return SimpleNamespace(result=result, said=said.getvalue())


def silent(text: str) -> None:
    pass


def own_maps(net, images) -> list[torch.Tensor]:
    """The three last maps of the teacher before their ReLU, written out."""
    x, found = net.stem(images), []
    for layer in net.layers:
        found.append(layer[1](layer[0](x)))
        x = found[-1].relu()
    return found


@pytest.fixture(scope="module")
def pictures(place, request) -> dict:
    """Changes of a setup that make it train on 600 pictures of CIFAR-100, or on the digits where there is none."""
    if not (request.getfixturevalue("shared") / "data" / "cifar100").is_dir():
        return {}
    source = request.getfixturevalue("shared") / "data" / "cifar100"
    for split, n in (("train", 600), ("test", 60)):
        names = sorted(map(str, source.rglob(f"*{split}*.parquet")))
        rows = datasets.load_dataset("parquet", data_files=names, split="train", cache_dir=str(place / "cache"))
        rows.select(range(n)).to_parquet(place / "few" / f"{split}.parquet")
    return {"data": str(place / "few"), "image_size": 32}


def test_margins_are_measured_on_the_first_images_as_the_teacher_sees_them(place, pictures):
    """8 batches of 64 images of CIFAR, in the order of the first epoch, with the teacher's own mean, std and size."""
    seen = {"mean": MEAN, "std": STD, "image_size": 40}
    of = build(pair(place, teacher=replace(pair(place).teacher, **seen), **pictures), Run(seed=3))
    measure_margins(of, silent)
    images, net = of.train_loader.images, copy.deepcopy(of.teacher.bare).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    batches = []
    for rows in np.random.default_rng([3, 0]).permutation(len(images))[:512].reshape(8, 64):
        pixels = torch.from_numpy(images.pixels[rows]).permute(0, 3, 1, 2) / 255
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        with torch.no_grad():
            batches.append(own_maps(net, F.interpolate(pixels, (40, 40), mode="bilinear")))
    for n, maps in enumerate(zip(*batches, strict=True)):
        rows = torch.cat(maps).movedim(1, 0).flatten(1).double()
        expected = torch.stack([row[row < 0].mean() for row in rows]).float()
        torch.testing.assert_close(of.method.get_buffer(f"margin{n}"), expected, rtol=1e-4, atol=1e-5)


def test_a_run_tells_of_margins_first_batch_and_weight_and_ends_the_same_wherever_it_is_stopped(
    place, whole, monkeypatch, tmp_path, capsys
):
    assert "margins    of 3 of the teacher's maps measured on 512 training images" in whole.said
    assert "1st batch  stage losses " in whole.said
    record = json.loads((whole.result.folder / "overhaul.json").read_text())
    assert len(record["first_batch"]["stage_losses"]) == 3 and record["first_batch"]["gradient_ratio"] > 0
    run = Run(output_dir=str(tmp_path / "run"))
    stop(monkeypatch, pair(place), run, 3)
    assert "of different make (nets.py:teacher, nets.py:student)" in capsys.readouterr().err
    monkeypatch.setattr(start, "measure_margins", None)
    monkeypatch.setattr(trainer, "measure_first_batch", None)
    stop(monkeypatch, pair(place), run, 20)
    assert outcome(train(pair(place), run)) == outcome(whole.result)
    assert json.loads((tmp_path / "run" / "overhaul.json").read_text())["first_batch"] == record["first_batch"]


def test_measuring_the_first_batch_changes_no_bit_of_a_run(place, whole, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "measure_first_batch", lambda *_: {"stage_losses": [], **dict.fromkeys(
        ("distill_loss", "cross_entropy", "gradient_ratio"))})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as said:
        result = train(pair(place), Run(output_dir=str(tmp_path / "run")), show=True)
    assert outcome(result) == outcome(whole.result) and "no finite number" in said.getvalue()


@pytest.mark.parametrize("parts", [1, 2])
def test_the_first_batch_by_hand(place, parts):
    """On images of one dropout: the losses, the gradients' norms, and nothing changed."""
    of = build(pair(place), Run(gradient_accumulation_steps=parts))
    measure_margins(of, silent)
    images, labels = next(iter(of.train_loader))
    images, before = of.normalize(images), copy.deepcopy(of.method.state_dict())
    torch.manual_seed(5)
    found = measure_first_batch(of, images, labels)
    assert torch.equal(torch.rand(3), (torch.manual_seed(5), torch.rand(3))[1])
    assert all(torch.equal(value, before[name]) for name, value in of.method.state_dict().items())
    assert all(p.grad is None for p in of.method.parameters()) and not of.student.on
    torch.manual_seed(5)
    learned, totals, losses = list(of.student.parameters()), [0, 0], []
    for some, truth in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        logits, features = of.student.forward_stages(some)
        stages = of.method.stage_losses(features, of.teacher_forward(some).features)
        both = F.cross_entropy(logits, truth), 1e-3 * (stages[0] / 4 + stages[1] / 2 + stages[2])
        losses.append(torch.stack([*both, *stages]).detach())
        for i, loss in enumerate(both):
            each = torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True)
            totals[i] = totals[i] + torch.cat([g.flatten() for g in each[:-2]])
    cross_entropy, distilled, *stages = (sum(losses) / parts).tolist()
    assert found["cross_entropy"] == pytest.approx(cross_entropy) and found["distill_loss"] == pytest.approx(distilled)
    assert found["stage_losses"] == pytest.approx(stages)
    assert found["gradient_ratio"] == pytest.approx((totals[1].norm() / totals[0].norm()).item(), rel=1e-4)


def test_a_student_that_ties_tensors_and_skips_layers_goes_on_and_trains_on_two_processes(
    place, few_digits, ranks, monkeypatch, tmp_path
):
    setup = pair(place, student=Net(family=f"{place / 'nets.py'}:restless"), batch_size=24)
    runs = [Run(output_dir=str(tmp_path / name), data_path=few_digits, gradient_accumulation_steps=2) for name in "ab"]
    whole = train(setup, runs[0])
    stop(monkeypatch, setup, runs[1], 2)
    assert outcome(train(setup, runs[1])) == outcome(whole)
    source = ["--teacher", setup.teacher.family, "--teacher.weights", setup.teacher.weights]
    names = ["--student", setup.student.family, *source, "--data_path", few_digits]
    sizes = ["--image_size", "16", "--batch_size", "24", "--epochs", "2", "--output_dir", str(tmp_path / "two")]
    for each in ranks("support.runs:command", "train", "--setup", "digits", *names, *sizes):
        assert each.status == 0, each.err


def test_logits_that_overflow_while_batchnorms_settle_count_as_wrong(place, capsys):
    of = build(pair(place), Run())
    of.student.net.one[1].running_var.fill_(-1)
    how = of.student, of.test_loader, of.normalize, of.accelerator
    assert evaluate(*how, in_training=True)["top1"] == 0
    assert "which count as wrong" in capsys.readouterr().err
    with pytest.raises(overhaul.UserError, match="no finite numbers"):
        evaluate(*how)


def test_maps_that_training_mode_counts_otherwise_are_refused(place, tmp_path):
    code = (place / "nets.py").read_text() + COUNTED
    (tmp_path / "counted.py").write_text(code)
    setup = pair(place, student=Net(family=f"{tmp_path / 'counted.py'}:Counted"))
    with pytest.raises(overhaul.UserError, match=r"modules of act#1:in, act#4:in another number of times in training"):
        build(setup, Run())
    names = "one.1", "three.1"
    positions = replace(setup.teacher, positions=("layers.1", "layers.2"))
    build(replace(setup, student=replace(setup.student, positions=names), teacher=positions), Run())


def test_loss_gradient_margins_and_first_batch_are_those_of_one_process(ranks, place):
    alone = gradients(place)
    assert alone["margin2"].min() < 0 and len(alone["first batch"]) == 6
    for theirs in ranks("support.pair:gradients", place):
        assert theirs.keys() == alone.keys()
        assert all(torch.equal(theirs[name], alone[name]) for name in alone if name.startswith("margin"))
        for name, value in alone.items():
            assert (theirs[name] - value).norm() <= 1e-5 * value.norm(), name


def test_a_broken_image_tells_no_margin_and_neither_does_a_single_one(tmp_path):
    data = write_jpegs(tmp_path)
    setup = replace(DIGITS, data=data, batch_size=2, image_size=32, crop_area=(0.2, 1.0), num_classes=22)
    of = build(replace(setup, method="original", teacher=None), Run(workers=0, skip_broken=1))
    assert [len(each) for each in unaugmented(of.train_loader)] == [21]
    assert [len(each) for each in unaugmented(of.train_loader, size=20)] == [19, 2]
    assert [len(each) for each in unaugmented(of.train_loader, size=21)] in ([20], [21])
    (first,) = unaugmented(of.train_loader)
    order = [row for row in np.random.default_rng([0, 0]).permutation(22) if row != 5]
    assert torch.equal(first, torch.from_numpy(of.train_loader.images.centres(np.array(order))[0]).permute(0, 3, 1, 2))
    streamed = build(replace(setup, method="original", teacher=None),
                     Run(streaming=True, stream_images=22, workers=0, skip_broken=1, data_config=None))  # fmt: skip
    (theirs,) = unaugmented(streamed.train_loader)
    sums = (sorted(each.sum((1, 2, 3)).tolist()) for each in (theirs, first))
    assert theirs.shape == first.shape and len({*map(tuple, sums)}) == 1


@pytest.fixture(scope="module")
def baseline(place, few_digits):
    setup = pair(place, method="original", teacher=None, epochs=4, batch_size=48)
    return train(setup, Run(output_dir=str(place / "base"), data_path=few_digits)).folder


def beside(place, few_digits, baseline, **changes) -> tuple:
    run = {"data_path": few_digits, "beside": str(baseline), "output_dir": str(place / "beside")}
    recipe = {name: changes.pop(name) for name in list(changes) if hasattr(DIGITS, name)}
    return pair(place, **{"epochs": 4, "batch_size": 48, **recipe}), Run(**(run | changes))


def test_each_epoch_is_compared_with_that_of_the_baseline(place, few_digits, baseline, tmp_path, capsys):
    """As far as that goes; a student behind for three epochs is told of the weight, once."""
    better = tmp_path / "better"
    better.mkdir()
    for name in ("config.yaml", "overhaul.json"):
        (better / name).write_bytes((baseline / name).read_bytes())
    lines = [json.loads(line) for line in (baseline / "metrics.jsonl").read_text().splitlines()]
    (better / "metrics.jsonl").write_text("".join(json.dumps({**line, "test_top1": 99.0}) + "\n" for line in lines[:3]))
    both = {"method": "overhaul+at", "distill_weight": {"overhaul": 1e-3, "at": 1e3}, "label_weight": 0.5}
    result = train(*beside(place, few_digits, better, output_dir=str(tmp_path / "run"), **both), show=True)
    said = capsys.readouterr()
    told = [line for line in said.out.splitlines() if line.startswith("epoch ")]
    for line, metrics in zip(told[:3], result.metrics, strict=False):
        assert line.endswith(f"  {99 - metrics['test_top1']:.2f} points behind {better}")
    assert told[3].endswith("has no epoch 4)")
    words = f"the student has been behind {better} for 3 epochs"
    assert said.err.count(words) == 1 and "the weight 0.001 and 1000 of the distillation loss" in said.err
    assert "--distill_weight.overhaul 1e-05 and --distill_weight.overhaul 0.0001" in said.err
    result = train(*beside(place, few_digits, baseline, output_dir=str(tmp_path / "real")), show=True)
    theirs = [json.loads(line)["test_top1"] for line in (baseline / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    for line, metrics, other in zip(told, result.metrics, theirs, strict=True):
        points = metrics["test_top1"] - other
        assert line.endswith(f"  {abs(points):.2f} points {'behind' if points < 0 else 'ahead of'} {baseline}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beside": "nowhere"}, "--beside nowhere is no folder of a run"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"lr": 0.1}, "lr: 0.05 there, 0.1 here"),
        ({"epochs": 5}, "epochs: 4 there, 5 here"),
        ({"data_path": None}, "data: 96 images of 10 classes"),
        ({"beside": "{whole}"}, "is a run of --method overhaul"),
    ],
)
def test_a_baseline_that_is_none_is_refused(place, few_digits, baseline, whole, changes, words):
    changes = {name: str(whole.result.folder) if value == "{whole}" else value for name, value in changes.items()}
    setup, run = beside(place, few_digits, baseline, **changes)
    with pytest.raises(overhaul.UserError) as refused:
        train(setup, replace(run, dry_run=True))
    assert words in str(refused.value), refused.value


def test_positions_that_have_moved_are_refused_and_a_changed_file_is_told(place, tmp_path, monkeypatch, capsys):
    nets = write_pair(tmp_path / "nets")
    setup, run = pair(nets), Run(output_dir=str(tmp_path / "run"))
    stop(monkeypatch, setup, run, 2)
    before = digests(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(overhaul.UserError) as refused:
        patch.setattr(start, "positions", lambda network: ["elsewhere", "there"] if network else None)
        train(setup, run)
    assert "features taken elsewhere (" in str(refused.value) and "elsewhere, there here" in str(refused.value)
    assert digests(tmp_path / "run") == before
    with (nets / "nets.py").open("a") as file:
        file.write("# a word\n")
    stop(monkeypatch, setup, run, 4)
    words = f"the file that makes the student and the teacher has changed since {checkpoints.name(0, 2)}"
    assert f"{words}; its tensors fit, and the run goes on" in capsys.readouterr().err
    wider = (nets / "nets.py").read_text().replace("(12, 16)", "(12, 18)").replace("Linear(16", "Linear(18")
    (nets / "nets.py").write_text(wider)
    with pytest.raises(overhaul.UserError, match=r"has changed since epoch-0000-step-000004: .*16"):
        train(setup, run)


def test_a_method_of_logits_needs_a_teacher_of_the_same_classes(place, digits_teacher, monkeypatch, tmp_path):
    with pytest.raises(overhaul.UserError, match=r"compares logits, and the teacher knows other classes"):
        build(pair(place, method="kd"), Run())
    setup = pair(place, method="kd", teacher=replace(DIGITS.teacher, weights=str(digits_teacher)))
    stop(monkeypatch, setup, Run(output_dir=str(tmp_path / "run")), 2)
    first = json.loads((tmp_path / "run" / "overhaul.json").read_text())["first_batch"]
    assert first is None or (first["stage_losses"] == [] and first["distill_loss"] > 0)


def test_a_network_of_other_logits_or_for_other_images_is_refused(place, tmp_path):
    code = (place / "nets.py").read_text() + "\n\ndef odd(num_classes):\n    return Student(num_classes + 1)\n\n\n"
    code += "def fussy(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 999, num_classes))\n"
    code += "def still(num_classes):\n    return Student(num_classes).requires_grad_(False)\n\n\n"
    code += (
        "def deep(num_classes):\n    return nn.Sequential(Student(num_classes), nn.Unflatten(1, (num_classes, 1)))\n"
    )
    (tmp_path / "other.py").write_text(code)
    for name, words in (("odd", r"gives logits \[11\] of an image, and 10 classes"),
                        ("still", "has no parameter that learns"),
                        ("fussy", r"takes no images of 16 pixels")):  # fmt: skip
        with pytest.raises(overhaul.UserError, match=words):
            build(pair(place, student=Net(family=f"{tmp_path / 'other.py'}:{name}")), Run())
    deep = Net(family=f"{tmp_path / 'other.py'}:deep", weights=str(tmp_path / "deep.pt"))
    network = models.create(replace(deep, kwargs={"num_classes": 10}))
    torch.save(network.state_dict(), deep.weights)
    with pytest.raises(overhaul.UserError, match=r"gives logits \[10, 1\]"):
        build(pair(place, teacher=deep), Run())
    with pytest.raises(overhaul.UserError, match=r"gives logits \[10, 1\]"):
        evaluate_source(deep, "digits", DataOptions(), DIGITS)


def test_a_student_is_checked_before_a_teacher_is_downloaded(place, monkeypatch):
    fetched = []
    monkeypatch.setattr(pretrained, "fetch", lambda role, *_: fetched.append(role))
    student = replace(pair(place).student, positions=("nope", "one"))
    with pytest.raises(overhaul.UserError, match="no module 'nope'"):
        build(pair(place, student=student, teacher=Net(weights="USER/TEACHER")), Run())
    assert fetched == ["student"]


def test_parameters_that_nothing_depends_on_are_named_and_learn_nothing(place, monkeypatch):
    monkeypatch.setattr(models, "unreached", lambda network, size, with_features: ["one.0.bias"])
    of = build(pair(place), Run())
    frozen = [name for name, each in of.student.bare.named_parameters() if not each.requires_grad]
    assert frozen == ["one.0.bias"] and any("they stay as they are: one.0.bias" in note for note in of.notes)
    of.accelerator.end_training()


def test_what_a_teacher_sees(place, digits_teacher, tmp_path):
    """A size of its own in training and in its test; a size far below that of its training is told."""
    teacher = models.create("wide_resnet", depth=10, width=1, num_classes=10)
    student = replace(DIGITS, student=Net(family="wide_resnet", kwargs={"depth": 10, "width": 1, "num_classes": 10}))
    hub.save(tmp_path / "large", teacher, replace(student, image_size=48), list(map(str, range(10))))
    named = {"weights": str(tmp_path / "large"), "positions": ("block1.layer.0", "block3.layer.0")}
    setup = replace(DIGITS, teacher=replace(DIGITS.teacher, **named))
    with pytest.raises(overhaul.UserError, match=r"the student has 3 and the teacher 2"):
        build(setup, Run())
    setup = replace(setup, student=replace(DIGITS.student, positions=("block1.layer.0", "bn1")))
    of = build(setup, Run())
    assert any("trained on images of 48 pixels and sees 16 here" in note for note in of.notes)
    assert of.method.pairs == [(0, 0), (1, 1)] and [each.size for each in of.teacher.features] == [(16, 16), (4, 4)]
    large = build(replace(setup, teacher=replace(setup.teacher, image_size=32)), Run(), None)
    images = large.normalize(next(iter(large.train_loader))[0])
    assert [each.size for each in large.teacher.features] == [(32, 32), (8, 8)]
    features = large.teacher_forward(images).features
    assert [each.shape[-1] for each in features] == [32, 8]
    expected = large.teacher.forward_stages(F.interpolate(images, (32, 32), mode="bilinear")).features
    torch.testing.assert_close(features, expected)
    assert large.teacher_test.normalize(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 3, 32, 32)
    assert not any("trained on images" in note for note in large.notes)


def test_of_which_pairs_the_weight_is_told():
    def note(row: str, **nets) -> str | None:
        return networks.weight_note(replace(SETUPS[row], **{role: Net(family=name) for role, name in nets.items()}))

    assert note("cifar_d") is None and note("imagenet_b") is None and networks.weight_note(SETUPS["cifar_a"]) is None
    words = note("imagenet_a", student="timm:mobilenetv3_small_100")
    assert "(resnet, mobilenetv3)" in words and "--distill_weight 1e-06 and --distill_weight 1e-05" in words
    assert note("imagenet_a", student="timm:resnet18d") is None
    assert note("imagenet_a", student="timm:tf_efficientnet_b0", teacher="timm:efficientnet_b3") is None
    assert note("cifar_a", student="a.py:f", teacher="a.py:g")
    assert note("cifar_a", student="a.py:f", teacher="a.py:f") is None
    far = replace(SETUPS["cifar_a"], student=Net(family="timm:resnet18"))
    assert networks.weight_note(replace(far, method="kd")) is None
    both = replace(far, method="kd+overhaul", distill_weight={"kd": 0.9, "overhaul": 0.5})
    assert "--distill_weight.overhaul 1e-05 and --distill_weight.overhaul 0.0001" in networks.weight_note(both)
    assert networks.weights_to_try(replace(far, method="kd", distill_weight=0.9)).startswith(
        "--distill_weight 0.009 and"
    )


def test_a_benchmark_of_a_pair(place):
    setup = pair(place)
    teacher = replace(setup.teacher, image_size=24, kwargs={"num_classes": 7})
    setup = replace(setup, teacher=teacher, student=replace(setup.student, kwargs={"num_classes": 10}))
    trial = bench.Trial(setup, 4, Run())
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    loss = trial.step(images, labels)
    trial.step_in_pieces(images, labels, silent)
    assert loss.isfinite() and all(p.isfinite().all() for p in trial.method.parameters())
    assert bench.operations(trial.setup) > 0
