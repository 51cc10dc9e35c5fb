"""The one loop: a teacher, a student alone or a distilled student, on whatever devices Accelerate finds."""

import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from overhaul import engine, hub, run_folder
from overhaul.job import Job, make_job
from overhaul.meter import Meter
from overhaul.optimisation import begin_epoch, training_step
from overhaul.plan import Pace, plan_lines
from overhaul.progress import Progress, epoch_line, result_lines
from overhaul.publish import Publisher
from overhaul.record import make_record
from overhaul.run import Run
from overhaul.setups import Setup
from overhaul.stream import TrainStream
from overhaul.workers import deaths_explained

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


@deaths_explained()
def train(setup: Setup, run: Run) -> Result:
    """Train a setup to its end, going on from the folder's last checkpoint if there is one.

    Raises ValueError, with what to do, for whatever the user can mend; an earlier run in the folder is left whole.
    With run.dry_run it stops after the first few steps, has written nothing, and the Result has no metrics.
    """
    folder = run_folder.output_dir(setup, run)
    if not run.dry_run:
        run_folder.claim(folder, run)
    accelerator = engine.start(run, folder)
    job = make_job(setup, run, accelerator)
    setup = job.setup
    if run.dry_run:
        return rehearse(job, folder)
    engine.open_folder(accelerator, folder, setup, run)
    publisher = Publisher(run, folder, accelerator.is_main_process)
    teacher = job.origin and job.origin.sha256
    state = engine.resume(accelerator, folder, job.train_loader.images.fingerprint, teacher)
    progress = Progress(accelerator.is_main_process, (setup.epochs - state.epoch) * len(job.train_loader))
    introduce(job, run, state, folder, progress)
    pace = Pace(job, setup.epochs - state.epoch)
    for epoch in range(state.epoch, setup.epochs):
        trained = train_epoch(job, epoch, progress, folder, pace)
        pace = None
        engine.sync_buffers(job.model)
        if not engine.all_finite(job.model):
            raise ValueError(not_finite(job, f"the weights are no longer finite after epoch {epoch + 1}", folder))
        tested = job.evaluate(job.student)
        state.metrics.append({"epoch": epoch + 1, **trained, "test_top1": tested["top1"], "test_top5": tested["top5"]})
        keep(job, state, folder)
        publisher.after_epoch(job, epoch + 1)
        progress.say(epoch_line(state.metrics[-1], setup, progress.left))
    save_student(job, folder / "final")
    accelerator.end_training()
    result = Result(folder, state.metrics, state.teacher_top1)
    progress.say(result_lines(setup, run.seed, result.final, result.best, folder))
    if address := publisher.finish():
        progress.say(f"pushed: {address}")
    return result


def rehearse(job: Job, folder: Path) -> Result:
    """The plan and the first few steps of a run, which leave nothing behind."""
    progress = Progress(job.accelerator.is_main_process, 0)
    progress.say(opening(job, folder) + "\n" + plan_lines(job))
    pace = Pace(job, job.setup.epochs)
    train_epoch(job, 0, progress, folder, pace, steps=max(pace.looks))
    job.accelerator.end_training()
    progress.say("dry run: stopped here, nothing was written")
    return Result(folder, [], None)


def introduce(job: Job, run: Run, state: engine.State, folder: Path, progress: Progress) -> None:
    """Say what is about to run; measure the teacher, which every later epoch stands on; write the run's record."""
    setup = job.setup
    progress.say(opening(job, folder) + "\n" + plan_lines(job))
    if job.teacher is not None:
        if state.teacher_top1 is None:
            state.teacher_top1 = job.evaluate(job.teacher)["top1"]
            job.teacher.train()
        progress.say(f"teacher {setup.teacher.weights}: test top-1 {state.teacher_top1:.2f} %")
    if job.accelerator.is_main_process:
        run_folder.write_record(folder, make_record(job, run, state))
    if state.epoch:
        progress.say(f"resumed after epoch {state.epoch}")


def opening(job: Job, folder: Path) -> str:
    setup, train, test = job.setup, job.train_loader, job.test_loader
    left_out = [*getattr(train.images, "left_out", ()), *getattr(test.images, "left_out", ())]
    tests = "an unknown number of" if test.expected is None else f"{test.expected:,}"
    stream = "; a stream: shuffled within a buffer, and resumed approximately" if isinstance(train, TrainStream) else ""
    return (
        f"{setup.name}, {setup.method}: {len(train.images):,} training and {tests} test images"
        f"{''.join(f', {each}, left out' for each in left_out)}{stream}; {engine.describe_devices(job.accelerator)}; "
        f"{folder}"
    )


def train_epoch(
    job: Job, epoch: int, progress: Progress, folder: Path, pace: Pace | None = None, steps: int | None = None
) -> dict:
    """One pass over the training images, or the first steps of it; the epoch's means, learning rate and speed."""
    setup, loader, meter = job.setup, job.train_loader, Meter(job.accelerator)
    looks = pace.looks if pace else {1}
    lr = begin_epoch(job.optimizer, setup, epoch)
    loader.set_epoch(epoch)
    job.model.train()
    progress.open_epoch(f"epoch {epoch + 1}/{setup.epochs}", len(loader))
    started = time.monotonic()
    for number, (images, labels) in enumerate(islice(loader, steps), start=1):
        images, labels = job.normalize(images), labels.to(job.accelerator.device, non_blocking=True)
        logits, cross_entropy, distill_loss = training_step(
            job.accelerator, job.model, job.teacher, job.optimizer, images, labels, setup.distill_weight, job.parts
        )
        meter.add(number, logits, labels, cross_entropy, distill_loss)
        progress.step()
        if number % READ_EVERY == 0 or number in looks or number == len(loader):
            means = read_means(job, meter, epoch, folder)
            seconds, seen = time.monotonic() - started, means.pop("images")
            progress.show(means["loss"], means["train_top1"], seen / seconds)
            if pace and number in looks and (words := pace.look(number)):
                progress.say(words)
    progress.close_epoch()
    return {"lr": lr, **means, "images_per_second": seen / seconds, "seconds": seconds}


def read_means(job: Job, meter: Meter, epoch: int, folder: Path) -> dict:
    """The epoch's means so far; ValueError, on all processes at once, where they show that the run must not go on."""
    loader = job.train_loader
    means = meter.read(len(loader.broken))
    if (step := means.pop("first_bad")) < float("inf"):
        where = f"step {int(step)} of epoch {epoch + 1} (step {epoch * len(loader) + int(step)} of the run)"
        raise ValueError(not_finite(job, f"the loss is no longer finite at {where}", folder))
    if means["broken"] > loader.skip_broken:
        raise ValueError(f"{means['broken']} images in epoch {epoch + 1} are broken, and --skip_broken allows fewer")
    if not means["broken"]:
        del means["broken"]
    return means


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
