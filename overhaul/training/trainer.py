"""The one loop: a teacher, a student alone or a distilled student, on whatever devices Accelerate finds."""

from dataclasses import dataclass
from itertools import islice

from overhaul.data.workers import deaths_explained
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.report.alone import gained
from overhaul.run.folder import RunFolder, unless_restarted
from overhaul.system import accelerator as system
from overhaul.system.preemption import StopRequested, StopSignal
from overhaul.system.processes import hosts, lost_processes_explained, told
from overhaul.training.beside import Baseline
from overhaul.training.build import build
from overhaul.training.curves import leave_curves
from overhaul.training.evaluation import evaluate
from overhaul.training.first_batch import first_batch_lines, measure_first_batch
from overhaul.training.margins import measure_margins
from overhaul.training.metrics import check_means, check_weights
from overhaul.training.progress import result_lines, shown
from overhaul.training.record import Result
from overhaul.training.start import Start


@deaths_explained()
def train(setup: Setup, run: Run, show: bool = False) -> Result:
    """Train a setup to its end, going on from the folder's newest checkpoint if there is one.

    show: tell of it on stdout. Raises UserError, with what to do, for whatever the user can mend; an earlier run in the
    folder is left whole. Under the command, SIGTERM, SIGUSR1 or SIGHUP makes it save its state and raise Preempted,
    a SystemExit. With run.dry_run it stops after the first few steps, writes nothing, and the Result has no metrics.
    """
    baseline = Baseline.named_by(run)
    if run.dry_run:
        folder = RunFolder.of(setup, run)
        return Trainer(**vars(build(setup, run)), folder=folder, show=show, baseline=baseline).dry_run()
    run = unless_restarted(run, RunFolder.of(setup, run).path)
    with StopSignal() as stop, RunFolder.of(setup, run) as folder, lost_processes_explained(run.timeout_minutes):
        trainer = Trainer(**vars(build(setup, run, folder)), folder=folder, show=show, baseline=baseline, stop=stop)
        trainer.resume_or_start()
        trainer.train()
    return trainer.finish()


@dataclass(kw_only=True)
class Trainer(Start):
    """The loop over what was built, from the first step to the result."""

    def train(self) -> None:
        """The epochs that are still to come, and the final student; Preempted once any process was told to stop."""
        self.arm()
        try:
            while self.state.epoch < self.setup.epochs:
                trained = self.train_epoch()
                check_weights(self.model, self.state, self.setup, self.folder.path)
                how = self.normalize, self.accelerator, shown(self.progress, self.stop)
                self.finish_epoch(trained, evaluate(self.student, self.test_loader, *how, in_training=True))
            self.stop.check()
        except StopRequested:
            self.progress.close()
            self.save(then="")
            system.end(self.accelerator)
            self.checkpointer.stop(self.stop.received)
        self.stop.disarm()
        system.of_main(self.accelerator, lambda: leave_curves)(self.folder)
        self.checkpointer.finish()  # last, as a run that has its final student counts as finished
        system.end(self.accelerator)

    def arm(self) -> None:
        self.stop.arm(self.accelerator.num_processes, hosts())

    def train_epoch(self, steps: int | None = None) -> dict:
        """What is left of an epoch, or the first steps of it; the epoch's means, learning rate and speed."""
        state, lr = self.state, self.open_epoch()
        for batch in islice(self.train_loader, steps):
            if state.begins and self.teacher:
                self.look_at_first_batch(*batch)
            self.step(*batch)
            state.step += 1
            self.after_step()
        self.progress.close()
        self.pace = None
        means, seconds = self.read_means(), self.meter.seconds
        seen = means.pop("images")
        return {"lr": lr, **means, "images_per_second": seen / seconds, "seconds": seconds}

    def look_at_first_batch(self, *batch) -> None:
        """Tell how teacher and labels compare before anything is learned, and write it down."""
        self.state.first_batch = measure_first_batch(self, *self.step.normalized(*self.step.on_device(*batch)))
        self.progress.say(first_batch_lines(self.state.first_batch, self.setup))
        self.meter.begin()  # the time that this took is none of the epoch's
        if not self.run.dry_run:
            self.write_record()

    def open_epoch(self) -> float:
        """Take up the epoch where the state says that it is; its learning rate."""
        accelerator, state, loader = self.accelerator, self.state, self.train_loader
        lr = self.step.begin_epoch(state.epoch, state.step)
        kept = state.kept_by(accelerator.process_index, accelerator.num_processes)
        self.meter.begin(kept, state.step)
        loader.set_epoch(state.epoch, state.step, kept["broken"] if kept else ())
        self.model.train()
        self.progress.open_epoch(f"epoch {state.epoch + 1}/{self.setup.epochs}", len(loader), state.step)
        return lr

    def after_step(self) -> None:
        """Show how it goes, and save where it is time to; StopRequested once any process has been told to stop."""
        step, keeper = self.state.step, self.checkpointer
        due = bool(keeper.due(self.state.epoch * len(self.train_loader) + step))  # a dry run's says nothing
        self.progress.step()
        if self.pace and step in self.pace.sync_steps:
            self.tell(self.read_means(), self.meter.seconds)
            if words := self.pace.look(step):
                self.progress.say(words)
        late, old = self.stop.after_step(due, bool(keeper.late()), self.meter.old)
        if old and (found := self.meter.look(len(self.train_loader.broken))):
            self.tell(self.checked(found[0]), found[1])
        if due or late:
            self.save()

    def tell(self, means: dict, seconds: float) -> None:
        self.progress.show(means, means["images"] / seconds)

    def finish_epoch(self, trained: dict, tested: dict) -> None:
        """Write down what an epoch brought, and tell of it."""
        tests, state = {"test_top1": tested["top1"], "test_top5": tested["top5"]}, self.state
        state.metrics.append({"epoch": state.epoch + 1, **trained, **tests})
        state.step, state.running = 0, None
        self.checkpointer.keep_best()
        self.save()
        system.log(self.accelerator, state.metrics[-1])
        self.publisher.after_epoch(state.epoch, self.setup.epochs, self.student_files)
        words, warnings = self.baseline.look(state.metrics, self.setup) if self.baseline else ("", [])
        self.progress.epoch(state.metrics[-1], self.setup, words)
        system.warn_all(self.accelerator, warnings)

    def read_means(self) -> dict:
        """The epoch's means so far; UserError, on all processes, where they show that the run must not go on."""
        return self.checked(self.meter.read(len(self.train_loader.broken)))

    def checked(self, means: dict) -> dict:
        return check_means(means, self.train_loader, self.state.epoch, self.setup, self.folder.path)

    def save(self, **how) -> None:
        """Write the state down, with each process's part of it, unless that has been done; see Checkpointer.save."""
        if self.checkpointer.saved:
            return
        if self.state.step:
            self.read_means()
            check_weights(self.model, self.state, self.setup, self.folder.path)
            mine = {**self.meter.state(), "broken": sorted(map(str, self.train_loader.broken))}
            self.state.running = told(self.accelerator, mine)
        self.checkpointer.save(**how)

    def dry_run(self) -> Result:
        """The plan, the teacher on some of the test images, and the first few steps, which leave nothing behind."""
        self.open_progress()
        if self.teacher_test:
            self.measure_teacher(self.test_loader.part())
        measure_margins(self, self.progress.say)
        self.arm()
        self.train_epoch(steps=max(self.pace.sync_steps))
        self.accelerator.end_training()
        self.progress.say("dry run: stopped here, nothing was written")
        return Result(self.folder.path, [], None)

    def finish(self) -> Result:
        """The result of a run that has ended, which is told and pushed."""
        result = Result(self.folder.path, self.state.metrics, self.state.teacher_top1)
        self.progress.say(result_lines(self.setup, self.run.seed, result.final, result.best, result.folder))
        if line := system.of_main(self.accelerator, lambda: gained(result.folder, self.run.beside)):
            self.progress.say(line)
        if address := self.publisher.finish():
            self.progress.say(f"pushed: {address}")
        return result
