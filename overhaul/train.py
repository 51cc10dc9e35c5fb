"""The one loop: a teacher, a student alone or a distilled student, on whatever devices Accelerate finds."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from overhaul import engine, hub, run_folder
from overhaul.job import Job, prepare
from overhaul.meter import Meter
from overhaul.optimisation import begin_epoch, training_step
from overhaul.progress import Progress, epoch_line, millions, result_lines
from overhaul.run import Run
from overhaul.setups import Setup

READ_EVERY = 20  # steps between two looks at the sums on the device


@dataclass(frozen=True)
class Result:
    """How a run ended. metrics: the lines of its metrics.jsonl; teacher_top1: percent, or None without a teacher."""

    folder: Path
    metrics: list[dict]
    teacher_top1: float | None

    @property
    def final(self) -> dict:
        return self.metrics[-1]

    @property
    def best(self) -> dict:
        return max(self.metrics, key=lambda line: line["test_top1"])


def train(setup: Setup, run: Run) -> Result:
    """Train a setup to its end, going on from the folder's last checkpoint if there is one.

    Raises ValueError, with what to do, for whatever the user can mend; an earlier run in the folder is left whole.
    """
    folder = run_folder.output_dir(setup, run)
    run_folder.claim(folder, run)
    accelerator = engine.start(run, folder)
    job = prepare(setup, run, accelerator)
    setup = job.setup
    engine.open_folder(accelerator, folder, setup, run)
    state = engine.resume(accelerator, folder, job.train_loader.images.fingerprint)
    progress = Progress(accelerator.is_main_process, (setup.epochs - state.epoch) * len(job.train_loader))
    introduce(job, state, folder, progress)
    for epoch in range(state.epoch, setup.epochs):
        trained = train_epoch(job, epoch, progress, folder)
        engine.sync_buffers(job.model)
        if not engine.all_finite(job.model):
            raise ValueError(not_finite(job, f"the weights are no longer finite after epoch {epoch + 1}", folder))
        tested = job.evaluate(job.student)
        state.metrics.append({"epoch": epoch + 1, **trained, "test_top1": tested["top1"], "test_top5": tested["top5"]})
        keep(job, state, folder)
        progress.say(epoch_line(state.metrics[-1], setup, progress.left))
    save_student(job, folder / "final")
    accelerator.end_training()
    result = Result(folder, state.metrics, state.teacher_top1)
    progress.say(result_lines(setup, run.seed, result.final, result.best, folder))
    return result


def introduce(job: Job, state: engine.State, folder: Path, progress: Progress) -> None:
    """Say what is about to run; measure the teacher, which every later epoch stands on."""
    setup, accelerator = job.setup, job.accelerator
    student = sum(p.numel() for p in job.student.parameters())
    progress.say(
        f"{setup.name}, {setup.method}: student {setup.student} ({millions(student)} parameters), "
        f"{len(job.train_loader.images):,} training and {len(job.test_loader.images):,} test images, "
        f"{setup.epochs} epochs of {len(job.train_loader)} steps, {engine.describe_devices(accelerator)}; {folder}"
    )
    if job.teacher is not None:
        if state.teacher_top1 is None:
            state.teacher_top1 = job.evaluate(job.teacher)["top1"]
            job.teacher.train()
        teacher = sum(p.numel() for p in job.teacher.parameters())
        progress.say(
            f"teacher {setup.teacher} ({millions(teacher)} parameters) from {setup.teacher.weights}: "
            f"test top-1 {state.teacher_top1:.2f} %"
        )
    if state.epoch:
        progress.say(f"resumed after epoch {state.epoch}")


def train_epoch(job: Job, epoch: int, progress: Progress, folder: Path) -> dict:
    """One pass over the training images; the epoch's means, learning rate and speed."""
    setup, loader, meter = job.setup, job.train_loader, Meter(job.accelerator)
    lr = begin_epoch(job.optimizer, setup, epoch)
    loader.set_epoch(epoch)
    job.model.train()
    progress.open_epoch(f"epoch {epoch + 1}/{setup.epochs}", len(loader))
    started = time.monotonic()
    for number, (images, labels) in enumerate(loader, start=1):
        images, labels = job.normalize(images), labels.to(job.accelerator.device, non_blocking=True)
        logits, cross_entropy, distill_loss = training_step(
            job.accelerator, job.model, job.teacher, job.optimizer, images, labels, setup.distill_weight
        )
        meter.add(number, logits, labels, cross_entropy, distill_loss)
        progress.step()
        if number % READ_EVERY == 0 or number in (1, len(loader)):
            means = meter.read()
            if (step := means.pop("first_bad")) < float("inf"):
                where = f"step {int(step)} of epoch {epoch + 1} (step {epoch * len(loader) + int(step)} of the run)"
                raise ValueError(not_finite(job, f"the loss is no longer finite at {where}", folder))
            seconds, seen = time.monotonic() - started, means.pop("images")
            progress.show(means["loss"], means["train_top1"], seen / seconds)
    progress.close_epoch()
    return {"lr": lr, **means, "images_per_second": seen / seconds, "seconds": seconds}


def not_finite(job: Job, what: str, folder: Path) -> str:
    setup, kept = job.setup, run_folder.complete_checkpoints(folder)
    last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
    lower = f"lower --lr ({setup.lr:g}) or --distill_weight ({setup.distill_weight:g})"
    return f"{what}; {lower} and start anew; {last}"


def keep(job: Job, state: engine.State, folder: Path) -> None:
    """Write down what the epoch brought: metrics, the best student, tracker, checkpoint."""
    line = state.metrics[-1]
    if state.newest_is_best:
        save_student(job, folder / "best")
    if job.accelerator.is_main_process:
        run_folder.write_metrics(folder, state.metrics)
    job.accelerator.log({key: value for key, value in line.items() if key != "epoch"}, step=line["epoch"])
    engine.save_checkpoint(job.accelerator, folder, state)


def save_student(job: Job, folder: Path) -> None:
    if job.accelerator.is_main_process:
        hub.save(folder, job.student, job.setup, job.classes)


if __name__ == "__main__":
    from overhaul.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
