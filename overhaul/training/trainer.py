"""The one loop: a teacher, a student alone or a distilled student, on whatever devices Accelerate finds."""

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch

from overhaul.data.streaming import TrainStream
from overhaul.data.workers import deaths_explained
from overhaul.hub.publish import Publisher
from overhaul.options import Run
from overhaul.run import folder as run_folder
from overhaul.run.checkpointer import Keeper
from overhaul.run.folder import Claim
from overhaul.run.state import State, resume
from overhaul.setups import Setup
from overhaul.system import accelerator as engine
from overhaul.system.preemption import Told, Watch, listening, stop_with_launcher
from overhaul.training.build import Job, make_job
from overhaul.training.optimisation import begin_epoch, losses, training_step
from overhaul.training.plan import Pace, plan_lines
from overhaul.training.progress import Progress, epoch_line, result_lines
from overhaul.training.record import make_record

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
        return run_folder.best_line(self.metrics)


@deaths_explained()
def train(setup: Setup, run: Run) -> Result:
    """Train a setup to its end, going on from the folder's newest checkpoint if there is one.

    Raises ValueError, with what to do, for whatever the user can mend; an earlier run in the folder is left whole.
    Told to stop by SIGTERM or SIGUSR1 it saves its state and raises Preempted, a SystemExit. With run.dry_run it stops
    after the first few steps, has written nothing, and the Result has no metrics.
    """
    engine.keep_memory()
    folder = run_folder.output_dir(setup, run)
    if run.dry_run:
        return rehearse(make_job(setup, run, engine.start(run, folder)), run, folder)
    run = run_folder.unless_restarted(run)
    setup = replace(setup, epochs=run.new_epochs or setup.epochs)
    watch = Watch()
    stop_with_launcher()
    with listening(watch.hear), Claim(folder, run) as claim, engine.losses_explained(run.timeout_minutes):
        accelerator = engine.start(run, folder)
        job = make_job(setup, run, accelerator)
        keeper = take_up(job, run, claim, watch)
        publisher = Publisher(run, folder, accelerator.is_main_process)
        progress = Progress(accelerator.is_main_process, keeper.steps_left)
        introduce(job, run, keeper.state, folder, progress)
        watch.arm(accelerator.num_processes, timedelta(minutes=run.timeout_minutes))
        try:
            train_epochs(job, keeper, publisher, progress)
            watch.any()
        except Told:
            progress.close_epoch()
            keeper.stop()
        watch.disarm()
        keeper.finish()
        engine.end(accelerator)
    result = Result(folder, keeper.state.metrics, keeper.state.teacher_top1)
    progress.say(result_lines(job.setup, run.seed, result.final, result.best, folder))
    if address := publisher.finish():
        progress.say(f"pushed: {address}")
    return result


def take_up(job: Job, run: Run, claim: Claim, watch: Watch) -> Keeper:
    """Begin the run in the folder, or go on with it."""
    accelerator, folder, images = job.accelerator, claim.folder, job.train_loader.images
    config = engine.open_folder(accelerator, claim, job.setup, run)
    teacher = job.origin and job.origin.sha256
    fresh = State(epochs=job.setup.epochs, data=images.fingerprint, teacher=teacher)
    state, newest = resume(accelerator, folder, fresh, before=lambda: settle(job))
    engine.begin(accelerator, folder, config, run, state.epoch, state.tracker_id)
    if newest and accelerator.is_main_process:
        with run_folder.writing(folder):
            run_folder.write_metrics(folder, state.metrics)
    engine.limit_waiting(accelerator, timedelta(minutes=run.timeout_minutes))
    return Keeper(job, run, folder, state, watch, newest)


def settle(job: Job) -> None:
    """Let DistributedDataParallel lay out its buckets as they are after the first step of a run.

    Of more than two processes, the order in which gradients are summed depends on it. The step leaves BatchNorm
    statistics behind, which a checkpoint then replaces.
    """
    setup, accelerator = job.setup, job.accelerator
    if accelerator.num_processes > 2:
        share = setup.batch_size // accelerator.num_processes // job.parts
        images = torch.zeros(share, 3, setup.image_size, setup.image_size, device=accelerator.device)
        labels = torch.zeros(share, dtype=torch.int64, device=accelerator.device)
        images = images.to(memory_format=torch.channels_last)
        results = losses(job.model, job.teach, images, labels, setup.distill_weight)
        accelerator.backward(results[1] + results[2])
        job.optimizer.zero_grad()


def train_epochs(job: Job, keeper: Keeper, publisher: Publisher, progress: Progress) -> None:
    """The epochs that are still to come; Told, on all processes, once any has been told to stop."""
    setup, state = job.setup, keeper.state
    pace = Pace(job, keeper.steps_left, first=state.step)
    while state.epoch < setup.epochs:
        trained = train_epoch(job, keeper, progress, pace)
        pace = None
        keeper.check_weights()
        tested = job.evaluate(job.student, keeper.watch.rounds)
        keeper.after_epoch({**trained, "test_top1": tested["top1"], "test_top5": tested["top5"]})
        publisher.after_epoch(job, state.epoch)
        progress.say(epoch_line(state.metrics[-1], setup, progress.left))


def rehearse(job: Job, run: Run, folder: Path) -> Result:
    """The plan and the first few steps of a run, which leave nothing behind."""
    progress = Progress(job.accelerator.is_main_process, 0)
    progress.say(opening(job, folder) + "\n" + plan_lines(job))
    keeper = Keeper(job, run, folder, State(epochs=job.setup.epochs), Watch())
    pace = Pace(job, keeper.steps_left)
    train_epoch(job, keeper, progress, pace, steps=max(pace.looks))
    job.accelerator.end_training()
    progress.say("dry run: stopped here, nothing was written")
    return Result(folder, [], None)


def introduce(job: Job, run: Run, state: State, folder: Path, progress: Progress) -> None:
    """Say what is about to run; measure the teacher, which every later epoch stands on; write the run's record."""
    setup = job.setup
    progress.say(opening(job, folder) + "\n" + plan_lines(job))
    if job.teacher is not None:
        if state.teacher_top1 is None:
            state.teacher_top1 = job.evaluate(job.teacher)["top1"]
            job.teacher.train()
        progress.say(f"teacher {setup.teacher.weights}: test top-1 {state.teacher_top1:.2f} %")
    if job.accelerator.is_main_process:
        with run_folder.writing(folder):
            run_folder.write_record(folder, make_record(job, run, state))
    if state.epoch or state.step:
        progress.say(resumed(state, job.accelerator.num_processes))


def resumed(state: State, processes: int) -> str:
    words = f"resumed {state.where}"
    if state.processes != processes:
        words += (
            f"; it ran on {state.processes} process{'es' * (state.processes > 1)} before and on {processes} now: the "
            f"same images in the same order, but not the same to the last bit, as BatchNorm takes its statistics over "
            f"other shares of a batch"
        )
    return words


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
    job: Job, keeper: Keeper, progress: Progress, pace: Pace | None = None, steps: int | None = None
) -> dict:
    """What is left of an epoch, or the first steps of it; the epoch's means, learning rate and speed."""
    setup, loader, state = job.setup, job.train_loader, keeper.state
    looks = pace.looks if pace else {1}
    lr = begin_epoch(job.optimizer, setup, state.epoch, state.step)
    keeper.open_epoch()
    job.model.train()
    progress.open_epoch(f"epoch {state.epoch + 1}/{setup.epochs}", len(loader), state.step)
    for images, labels in islice(loader, steps):
        images, labels = job.normalize(images), labels.to(job.accelerator.device, non_blocking=True)
        logits, cross_entropy, distill_loss = training_step(
            job.accelerator, job.model, job.teach, job.optimizer, images, labels, setup.distill_weight, job.parts
        )
        state.step += 1
        keeper.meter.add(state.step, logits, labels, cross_entropy, distill_loss)
        progress.step()
        if state.step % READ_EVERY == 0 or state.step in looks:
            means = keeper.read_means()
            progress.show(means["loss"], means["train_top1"], means["images"] / keeper.meter.seconds)
            if pace and state.step in looks and (words := pace.look(state.step)):
                progress.say(words)
        keeper.after_step()
    progress.close_epoch()
    means, seconds = keeper.read_means(), keeper.meter.seconds
    seen = means.pop("images")
    return {"lr": lr, **means, "images_per_second": seen / seconds, "seconds": seconds}
