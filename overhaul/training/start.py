"""How a run starts: it goes on or begins anew, measures what every epoch stands on, and says what is about to run."""

from dataclasses import dataclass, field
from datetime import timedelta

from overhaul.hub.publish import Publisher
from overhaul.models.libraries import sha256_of
from overhaul.run.checkpointer import Checkpointer
from overhaul.run.configuration import configuration, flatten
from overhaul.run.folder import RunFolder
from overhaul.run.state import State
from overhaul.system import accelerator as system
from overhaul.system.preemption import StopSignal
from overhaul.system.processes import limit_waiting, on_main
from overhaul.training.beside import Baseline
from overhaul.training.build import Components
from overhaul.training.margins import measure_margins
from overhaul.training.metrics import Meter
from overhaul.training.networks import positions
from overhaul.training.plan import header
from overhaul.training.progress import Pace, resumed, shown, start_progress
from overhaul.training.record import make_record
from overhaul.training.step import Step


@dataclass(kw_only=True)
class Start(Components):
    """What was built, with the run's state, checkpoints and words for people, up to the first step."""

    folder: RunFolder
    show: bool
    baseline: Baseline | None = None
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        self.state, self.meter = State(epochs=self.setup.epochs), Meter(self.accelerator, self.setup)
        self.step = Step(self, self.meter)
        self.checkpointer = self.publisher = system.Nobody()
        if self.baseline:
            self.baseline.check(self)

    def fresh_state(self) -> State:
        """Of a run that begins."""
        nets = {"teacher": self.setup.teacher, "student": self.setup.student}
        networks = {"teacher": self.teacher, "student": self.student} if self.positions else {}
        return State(
            epochs=self.setup.epochs,
            data=self.train_loader.images.fingerprint,
            **self.sums,
            positions={role: found for role, each in networks.items() if (found := positions(each))},
            code={role: found for role, each in nets.items() if each and (found := sha256_of(each.family))},
        )

    def resume_or_start(self) -> None:
        """Go on with the run in the folder, or begin one; see Checkpointer.resume_or_start."""
        accelerator, run, folder = self.accelerator, self.run, self.folder
        config = configuration(self.setup, run, accelerator.mixed_precision)
        how = config, self.fresh_state(), self.student_files, self.warm_up_ddp
        self.checkpointer = Checkpointer.resume_or_start(accelerator, folder, run, *how)
        self.state = self.checkpointer.state
        if run.tracker:
            how = flatten(config), folder.path.name, self.state.epoch, self.state.tracker_id
            system.start_tracker(accelerator, run.tracker, *how)
        limit_waiting(accelerator, timedelta(minutes=run.timeout_minutes))
        self.publisher = system.of_main(accelerator, lambda: Publisher(run, folder))
        self.log_start()

    def log_start(self) -> None:
        """Say what is about to run; measure the teacher, which every epoch stands on; write the run's record."""
        self.open_progress()
        if self.teacher_test and self.state.teacher_top1 is None:
            self.state.teacher_top1 = self.measure_teacher(self.test_loader)
        elif self.teacher_test:
            self.progress.say(self.teacher_test.line(self.state.teacher_top1))
        if self.state.begins:
            measure_margins(self, self.progress.say)
        self.write_record()
        if not self.state.begins:
            self.progress.say(resumed(self.state, self.accelerator.num_processes, system.threads(self.accelerator)))

    def write_record(self) -> None:
        on_main(self.accelerator, lambda: self.folder.begin_record(make_record(self, self.state)))

    def open_progress(self) -> None:
        state, steps = self.state, len(self.train_loader)
        left = (state.epochs - state.epoch) * steps - state.step
        self.progress = start_progress(self.show, self.accelerator, left, self.run.quiet)
        self.pace = Pace(self.accelerator.device, self.setup.batch_size, steps, left, first=state.step)
        self.progress.say(header(self, self.folder.path))
        system.warn_all(self.accelerator, self.notes)

    def measure_teacher(self, loader) -> float:
        how = self.accelerator, shown(self.progress, self.stop), self.progress.say
        return self.teacher_test.measure(self.teacher, loader, *how)
