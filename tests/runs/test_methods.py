"""Every method in the loop: runs that are stopped, sums, ramps, precisions, and the teacher's modes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.methods import NAMES, STEPS, SUM, flags, taught
from support.pair import pair, write_pair
from support.runs import command, outcome, refused, stop

from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.setups import settings
from overhaul.training import build as building
from overhaul.training import optimisation, trainer
from overhaul.training.build import Components, build, start_accelerator
from overhaul.training.first_batch import measure_first_batch
from overhaul.training.margins import measure_margins
from overhaul.training.trainer import train

LEARNING = "reviewkd+fitnets+overhaul"  # each with learned parts


@pytest.mark.parametrize("method", [*NAMES, SUM, LEARNING])
def test_a_run_stopped_in_an_epoch_and_after_one_ends_the_same(
    digits_teacher, few_digits, monkeypatch, tmp_path, method
):
    """Within the ramp of a method that has one."""
    setup, run = taught(digits_teacher, few_digits, method, output_dir=str(tmp_path / "whole"))
    whole = outcome(train(setup, run))
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "epoch-0002")
    assert outcome(train(*taught(digits_teacher, few_digits, method, output_dir=str(tmp_path / "half")))) == whole
    setup, run = taught(digits_teacher, few_digits, method, output_dir=str(tmp_path / "run"))
    for step in (2, STEPS, STEPS + 1):
        stop(monkeypatch, setup, run, step)
    assert outcome(train(setup, run)) == whole


def weights_in(method: str, teacher, images: str, monkeypatch, folder, **how) -> list:
    """What the distillation loss weighed in the first step of each epoch of a run, or the losses of a sum."""
    found, step = {}, optimisation.training_step

    def training_step(accelerator, model, forward, optimizer, images, labels, weight, *more):
        found.setdefault(len(seen), torch.as_tensor(weight).tolist())
        return step(accelerator, model, forward, optimizer, images, labels, weight, *more)

    seen, opened = [], trainer.Trainer.open_epoch

    def open_epoch(self) -> None:
        seen.append(self.state.epoch)
        opened(self)

    with monkeypatch.context() as patch:
        patch.setattr("overhaul.training.step.training_step", training_step)
        patch.setattr(trainer.Trainer, "open_epoch", open_epoch)
        train(*taught(teacher, images, method, output_dir=str(folder), **how))
    return [found[each] for each in sorted(found)]


def test_the_ramp_goes_on_where_a_run_does(digits_teacher, few_digits, monkeypatch, tmp_path):
    """Its length is that of the recipe, whatever becomes of the run's."""
    how = digits_teacher, few_digits, monkeypatch, tmp_path / "run"
    assert weights_in("dkd", *how, ramp_epochs=4, distill_weight=8.0) == [2, 4]
    longer = {"resume_with": "epochs=6", "ramp_epochs": 4, "distill_weight": 8.0}
    assert weights_in("dkd", *how, **longer) == [6, 8, 8, 8]
    how = digits_teacher, few_digits, monkeypatch, tmp_path / "sum"
    by_method = {"ramp_epochs": {"kd": 2}, "distill_weight": {"kd": 3.0, "reviewkd": 10.0}}
    found = weights_in("kd+reviewkd", *how, **by_method)
    assert found == [pytest.approx([1.5, 0.5]), pytest.approx([3.0, 1.0])]


def test_a_ramp_of_20_epochs_and_none(digits_teacher, few_digits):
    for method, expected in (("dkd", [0.05, 0.1, 0.95, 1, 1, 1]), ("dist", [2] * 6)):
        setup, run = taught(digits_teacher, few_digits, method, epochs=30)
        module = build(setup, run).method
        found = [optimisation.distill_weights(module, setup, epoch, 16) for epoch in (0, 1, 18, 19, 20, 29)]
        assert found == pytest.approx(expected)


def test_a_run_with_another_setting_is_another_run(digits_teacher, few_digits, tmp_path):
    run = flags(digits_teacher, few_digits, "kd", "--output_dir", tmp_path / "run", "--epochs", 1)
    assert command(*run).status == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["method.temperature"], config["label_weight"], config["distill_weight"]) == (4.0, 0.1, 0.9)
    for more, words in (
        (["--method.temperature", 2], "(method.temperature: 4.0 there, 2.0 here)"),
        (["--method.standardize"], "method.standardize: False there, True here"),
        (["--method.standardize"], "distill_weight: 0.9 there, 9.0 here"),
        (["--label_weight", 1], "(label_weight: 0.1 there, 1.0 here)"),
        (["--method", "dkd"], "(method: kd there, dkd here)"),
        (["--method", "overhaul+kd"], "(method: kd there, overhaul+kd here)"),
    ):
        refused(command(*run, *more), "belongs to another configuration", words)
    assert "resumed after epoch 1" in command(*run, "--resume_with", "epochs=2").out
    again = command("train", "--config", tmp_path / "run" / "config.yaml", "--resume_with", "epochs=2")
    assert "resumed after epoch 2" in again.out, again.err


@pytest.mark.parametrize("method", ["overhaul", "original"])
def test_a_run_from_before_there_were_other_methods_goes_on(digits_teacher, few_digits, tmp_path, method):
    """Its configuration knows no weight of the labels and no ramp, and its checkpoints' state no sums by method."""
    teacher = ["--teacher", digits_teacher] if method == "overhaul" else []
    run = ["train", "--setup", "digits", "--method", method, *teacher, "--data_path", few_digits, "--image_size", 16]
    run += ["--batch_size", 16, "--epochs", 2, "--output_dir", tmp_path / "run"]
    assert command(*run).status == 0
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config.pop("label_weight") == 1 and config.pop("ramp_epochs") == 0
    assert not [key for key in config if key.startswith("method.")]
    file.write_text(yaml.safe_dump(config))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "epoch-0002")
    result = command(*run)
    assert result.status == 0 and "resumed after epoch 1" in result.out, result.err


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_losses_of_a_sum_add_up(digits_teacher, few_digits, tmp_path):
    names = ("overhaul", "dkd", "sp")
    train(*taught(digits_teacher, few_digits, "+".join(names), output_dir=str(tmp_path), label_weight=0.3))
    for line in lines_of(tmp_path):
        each = [line[f"distill_loss.{name}"] for name in names]
        assert min(each) > 0 and line["distill_loss"] == pytest.approx(sum(each))
        assert line["loss"] == pytest.approx(0.3 * line["cross_entropy"] + line["distill_loss"])
    saved = load_file(tmp_path / "checkpoints" / "epoch-0002" / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"student", "parts"}
    assert len([name for name in saved if name.startswith("student.")]) == len(
        load_file(tmp_path / "final" / "model.safetensors")
    )


def test_the_first_step_of_a_sum_has_the_losses_of_each_alone(digits_teacher, few_digits, tmp_path):
    """An epoch of one step: the same images, student and connectors."""
    how = {"batch_size": 96, "epochs": 1}
    names = ("overhaul", "kd", "sp")
    train(*taught(digits_teacher, few_digits, "+".join(names), output_dir=str(tmp_path / "sum"), **how))
    (found,) = lines_of(tmp_path / "sum")
    for name in names:
        train(*taught(digits_teacher, few_digits, name, output_dir=str(tmp_path / name), **how))
        (alone,) = lines_of(tmp_path / name)
        assert found[f"distill_loss.{name}"] == pytest.approx(alone["distill_loss"], rel=1e-6)
        assert found["cross_entropy"] == pytest.approx(alone["cross_entropy"], rel=1e-6)


def first_step(of: Components) -> dict:
    """What is measured of the first batch."""
    measure_margins(of, lambda text: None)
    images, labels = next(iter(of.train_loader))
    of.model.train()
    return measure_first_batch(of, of.normalize(images), labels)


@pytest.mark.parametrize("method", [SUM, "kd+overhaul", "reviewkd+overhaul+rkd", "at+sp"])
def test_each_method_of_a_sum_starts_as_it_does_alone(digits_teacher, few_digits, method):
    """Of those with learned parts the first, as the others draw theirs after it."""
    names = method.split("+")
    both = build(*taught(digits_teacher, few_digits, method))
    found = first_step(both)
    alone = {name: build(*taught(digits_teacher, few_digits, name)) for name in names}
    by_name = dict(zip(names, found["stage_losses"], strict=True))
    expected = {}
    for name, each in alone.items():
        for key, value in each.student.state_dict().items():
            assert torch.equal(value, both.student.state_dict()[key])
        each.method.connectors.load_state_dict(both.method.parts[name].connectors.state_dict())
        expected[name] = first_step(each)["distill_loss"]
    assert by_name == pytest.approx(expected, rel=1e-6) and min(by_name.values()) > 0
    assert found["distill_loss"] == pytest.approx(sum(expected.values()), rel=1e-6)


@pytest.fixture(scope="module")
def baseline(few_digits, tmp_path_factory):
    """A run of the student alone, four epochs, in which it was made out to be right about every test image."""
    folder = tmp_path_factory.mktemp("baseline") / "run"
    sizes = {"image_size": 16, "batch_size": 16, "epochs": 4}
    train(*settings("digits", {"method": "original", "data_path": few_digits, "output_dir": str(folder), **sizes}))
    lines = [{**line, "test_top1": 100.5} for line in lines_of(folder)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("dkd", "the weight 1 of the distillation loss may be too much for these networks; try --distill_weight 0.01 "),
        ("kd+at", "the weight 0.9 and 1000 of the distillation loss may be too much for these networks; try "
         "--distill_weight.kd 0.009 and --distill_weight.kd 0.09"),
        ("kd+overhaul", "try --distill_weight.overhaul 1e-05 and --distill_weight.overhaul 0.0001"),
    ],
)  # fmt: skip
def test_beside_the_student_alone(digits_teacher, few_digits, baseline, tmp_path, method, words):
    """Which has neither weights nor a ramp."""
    more = ["--beside", baseline, "--epochs", 4, "--output_dir", tmp_path / "run"]
    result = command(*flags(digits_teacher, few_digits, method, *more))
    assert result.status == 0 and words in result.err, result.err
    assert result.out.count(f"points behind {baseline}") == 4


def test_what_is_named_counts_though_it_be_the_value_of_another_method(digits_teacher, few_digits):
    usual = {"label_weight": 1.0, "distill_weight": 1e-3, "ramp_epochs": 0, "teacher_norm": "batch"}
    for method in ("at", "dkd", "kd"):
        setup = build(*taught(digits_teacher, few_digits, method, **usual)).setup
        assert {name: getattr(setup, name) for name in usual} == usual


def step_of(setup: Setup, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of the first step, and all that is learned after it, in a row."""
    of = build(setup, run)
    images, labels = next(iter(of.train_loader))
    of.model.train()
    weight = optimisation.distill_weights(of.method, of.setup, 0, of.share)
    networks = of.accelerator, of.model, of.teacher_forward, of.optimizer
    images = of.normalize(images)
    _, *losses = optimisation.training_step(*networks, images, labels, weight, 1, of.setup.label_weight)
    return torch.stack([each.sum() for each in losses]), torch.cat([each.flatten() for each in of.method.parameters()])


@pytest.mark.parametrize("method", [*NAMES, SUM])
def test_scaled_and_half_precision_steps(digits_teacher, few_digits, method, monkeypatch):
    """fp16's scaling of the loss changes nothing but rounding, and bf16 little."""
    setup, run = taught(digits_teacher, few_digits, method)
    losses, learned = step_of(setup, run)
    in_half, half = step_of(setup, replace(run, mixed_precision="bf16"))
    torch.testing.assert_close(in_half, losses, rtol=0.05, atol=0)
    assert half.isfinite().all() and not torch.equal(half, learned)

    def scaling(*how):
        accelerator = start_accelerator(*how)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    monkeypatch.setattr(building, "start_accelerator", scaling)
    again, scaled = step_of(setup, run)
    assert losses.isfinite().all() and losses.min() > 0 and torch.equal(again, losses)
    torch.testing.assert_close(scaled, learned, rtol=1e-4, atol=1e-6)


def test_margins_that_are_measured_are_those_of_overhaul_alone(few_digits, monkeypatch, tmp_path):
    """In a sum, whose first method has the teacher in another mode; and a run that is stopped ends the same."""
    place = write_pair(tmp_path / "nets")
    usual = {"data_path": few_digits, "batch_size": 16}
    setup, run = settings(pair(place), {**usual, "method": "at+overhaul", "output_dir": str(tmp_path / "run")})
    both, alone = build(setup, run), build(*settings(pair(place), usual))
    for of in (both, alone):
        measure_margins(of, lambda text: None)
    margins = dict(alone.method.named_buffers())
    found = dict(both.method.parts["overhaul"].named_buffers())
    names = [name for name in found if name.startswith("margin")]
    assert len(names) == 3 and all(torch.equal(found[name], margins[name]) for name in names)
    whole = outcome(train(setup, replace(run, output_dir=str(tmp_path / "whole"))))
    stop(monkeypatch, setup, run, 2)
    assert outcome(train(setup, run)) == whole
