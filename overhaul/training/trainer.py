"""The one loop: a teacher, a student alone or a distilled student, on whatever devices Accelerate finds."""

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from accelerate.utils import gather_object

from overhaul.data.workers import deaths_explained
from overhaul.hub.publish import Publisher
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.run.checkpointer import Checkpointer
from overhaul.run.folder import RunFolder, configuration, flatten, unless_restarted
from overhaul.run.state import State
from overhaul.system import accelerator as system
from overhaul.system.preemption import StopRequested, StopSignal, stop_with_launcher
from overhaul.training.build import Components, build
from overhaul.training.evaluation import evaluate
from overhaul.training.metrics import READ_EVERY, Meter, check_means, check_weights
from overhaul.training.optimisation import begin_epoch, training_step
from overhaul.training.progress import Pace, header, result_lines, resumed, shown, start_progress
from overhaul.training.record import Result, make_record


@deaths_explained()
def train(setup: Setup, run: Run, show: bool = False) -> Result:
    """Train a setup to its end, going on from the folder's newest checkpoint if there is one.

    show: tell of it on stdout. Raises UserError, with what to do, for whatever the user can mend; an earlier run in the
    folder is left whole. Under the command, SIGTERM or SIGUSR1 makes it save its state and raise Preempted, a
    SystemExit. With run.dry_run it stops after the first few steps, has written nothing, and the Result has no metrics.
    """
    system.keep_memory()
    if run.dry_run:
        folder = RunFolder.of(setup, run)
        return Trainer(**vars(build(setup, run)), folder=folder, show=show).dry_run()
    run = unless_restarted(run)
    stop_with_launcher()
    with StopSignal() as stop, RunFolder.of(setup, run) as folder, system.lost_processes_explained(run.timeout_minutes):
        trainer = Trainer(**vars(build(setup, run, folder)), folder=folder, show=show, stop=stop)
        trainer.resume_or_start()
        trainer.train()
    return trainer.finish()


@dataclass(kw_only=True)
class Trainer(Components):
    """The loop over what was built, with the run's state, checkpoints and metrics, and words for people."""

    folder: RunFolder
    show: bool
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        self.state, self.meter = State(epochs=self.setup.epochs), Meter(self.accelerator)
        self.checkpointer = self.publisher = system.Nobody()

    def resume_or_start(self) -> None:
        """Go on with the run in the folder, or begin one; see Checkpointer.resume_or_start."""
        accelerator, setup, run, folder = self.accelerator, self.setup, self.run, self.folder
        config = configuration(setup, run, accelerator.mixed_precision)
        fresh = State(epochs=setup.epochs, data=self.train_loader.images.fingerprint, **self.sums)
        how = config, fresh, self.student_files, self.warm_up_ddp
        self.checkpointer = Checkpointer.resume_or_start(accelerator, folder, run, *how)
        self.state = self.checkpointer.state
        if run.tracker:
            how = flatten(config), folder.path.name, self.state.epoch, self.state.tracker_id
            system.start_tracker(accelerator, run.tracker, *how)
        system.limit_waiting(accelerator, timedelta(minutes=run.timeout_minutes))
        self.publisher = system.of_main(accelerator, lambda: Publisher(run, folder))
        self.log_start()

    def log_start(self) -> None:
        """Say what is about to run; measure the teacher, which every epoch stands on; write the run's record."""
        self.open_progress()
        if self.teacher_test and self.state.teacher_top1 is None:
            self.state.teacher_top1 = self.measure_teacher(self.test_loader)
        elif self.teacher_test:
            self.progress.say(self.teacher_test.line(self.state.teacher_top1))
        system.on_main(self.accelerator, lambda: self.folder.begin_record(make_record(self, self.state)))
        if self.state.epoch or self.state.step:
            self.progress.say(resumed(self.state, self.accelerator.num_processes))

    def open_progress(self) -> None:
        state, steps = self.state, len(self.train_loader)
        left = (state.epochs - state.epoch) * steps - state.step
        self.progress = start_progress(self.show, self.accelerator, left, self.run.quiet)
        self.pace = Pace(self.setup.batch_size, steps, left, first=state.step)
        self.progress.say(header(self, self.folder.path))
        system.warn_all(self.accelerator, self.notes)

    def measure_teacher(self, loader) -> float:
        how = self.accelerator, shown(self.progress, self.stop), self.progress.say
        return self.teacher_test.measure(self.teacher, loader, *how)

    def train(self) -> None:
        """The epochs that are still to come, and the final student; Preempted once any process was told to stop."""
        self.stop.arm(self.accelerator.num_processes, timedelta(minutes=self.run.timeout_minutes))
        try:
            while self.state.epoch < self.setup.epochs:
                trained = self.train_epoch()
                check_weights(self.model, self.state, self.setup, self.folder.path)
                how = self.normalize, self.accelerator, shown(self.progress, self.stop)
                self.finish_epoch(trained, evaluate(self.student, self.test_loader, *how))
            self.stop.check()
        except StopRequested:
            self.progress.close()
            self.save(then="")
            system.end(self.accelerator)
            self.checkpointer.stop(self.stop.received)
        self.stop.disarm()
        self.checkpointer.finish()
        system.end(self.accelerator)

    def train_epoch(self, steps: int | None = None) -> dict:
        """What is left of an epoch, or the first steps of it; the epoch's means, learning rate and speed."""
        setup, state, loader, device = self.setup, self.state, self.train_loader, self.accelerator.device
        lr = begin_epoch(self.optimizer, setup, state.epoch, state.step)
        self.open_epoch()
        networks = self.accelerator, self.model, self.teacher_forward, self.optimizer
        how = setup.distill_weight, self.run.gradient_accumulation_steps
        for images, labels in islice(loader, steps):
            images, labels = self.normalize(images), labels.to(device, non_blocking=True)
            logits, cross_entropy, distill_loss = training_step(*networks, images, labels, *how)
            state.step += 1
            self.meter.add(state.step, logits, labels, cross_entropy, distill_loss)
            self.after_step()
        self.progress.close()
        self.pace = None
        means, seconds = self.read_means(), self.meter.seconds
        seen = means.pop("images")
        return {"lr": lr, **means, "images_per_second": seen / seconds, "seconds": seconds}

    def open_epoch(self) -> None:
        """Take up the epoch where the state says that it is."""
        accelerator, state, loader = self.accelerator, self.state, self.train_loader
        kept = state.kept_by(accelerator.process_index, accelerator.num_processes)
        self.meter = Meter(accelerator, kept)
        loader.set_epoch(state.epoch, state.step, kept["broken"] if kept else ())
        self.model.train()
        self.progress.open_epoch(f"epoch {state.epoch + 1}/{self.setup.epochs}", len(loader), state.step)

    def after_step(self) -> None:
        """Show how it goes, and save where it is time to; StopRequested once any process has been told to stop."""
        step, sync_steps = self.state.step, self.pace.sync_steps if self.pace else {1}
        self.progress.step()
        if step % READ_EVERY == 0 or step in sync_steps:
            means = self.read_means()
            self.progress.show(means, means["images"] / self.meter.seconds)
            if self.pace and step in sync_steps and (words := self.pace.look(step)):
                self.progress.say(words)
        if self.stop.check(self.checkpointer.due(self.state.epoch * len(self.train_loader) + step)):
            self.save()

    def finish_epoch(self, trained: dict, tested: dict) -> None:
        """Write down what an epoch brought, and tell of it."""
        tests, state = {"test_top1": tested["top1"], "test_top5": tested["top5"]}, self.state
        state.metrics.append({"epoch": state.epoch + 1, **trained, **tests})
        state.step, state.running = 0, None
        self.checkpointer.keep_best()
        self.save()
        system.log(self.accelerator, state.metrics[-1])
        self.publisher.after_epoch(state.epoch, self.setup.epochs, self.student_files)
        self.progress.epoch(state.metrics[-1], self.setup)

    def read_means(self) -> dict:
        """The epoch's means so far; UserError, on all processes, where they show that the run must not go on."""
        means = self.meter.read(len(self.train_loader.broken))
        return check_means(means, self.train_loader, self.state.epoch, self.setup, self.folder.path)

    def save(self, **how) -> None:
        """Write the state down, with each process's part of it, unless that has been done; see Checkpointer.save."""
        if self.checkpointer.saved:
            return
        if self.state.step:
            self.read_means()
            check_weights(self.model, self.state, self.setup, self.folder.path)
            self.state.running = gather_object([{**self.meter.state(), "broken": sorted(self.train_loader.broken)}])
        self.checkpointer.save(**how)

    def dry_run(self) -> Result:
        """The plan, the teacher on some of the test images, and the first few steps, which leave nothing behind."""
        self.open_progress()
        if self.teacher_test:
            self.measure_teacher(self.test_loader.part())
        self.train_epoch(steps=max(self.pace.sync_steps))
        self.accelerator.end_training()
        self.progress.say("dry run: stopped here, nothing was written")
        return Result(self.folder.path, [], None)

    def finish(self) -> Result:
        """The result of a run that has ended, which is told and pushed."""
        result = Result(self.folder.path, self.state.metrics, self.state.teacher_top1)
        self.progress.say(result_lines(self.setup, self.run.seed, result.final, result.best, result.folder))
        if address := self.publisher.finish():
            self.progress.say(f"pushed: {address}")
        return result
