"""What a run must remember, and how it is saved and found again."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from uuid import uuid4

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

from overhaul.run import checkpoints
from overhaul.run.folder import best_line
from overhaul.system.accelerator import agreed
from overhaul.system.messages import first_line


@dataclass
class State:
    """What a run must remember beside weights, momentum and random numbers, as plain values.

    epochs: the run's length. step: how many steps of the epoch after the finished ones are done; running: of each
    process, what it has summed up and found in them. metrics: the lines of metrics.jsonl, one a finished epoch.
    teacher_top1: percent. data: what the images are. teacher: the SHA-256 of its weights' file. processes: of those
    that wrote it. lengths: changes of the run's length. tracker_id: the run's name for wandb.
    """

    epochs: int = 0
    step: int = 0
    running: list[dict] | None = None
    metrics: list[dict] = field(default_factory=list)
    teacher_top1: float | None = None
    data: str | None = None
    teacher: str | None = None
    processes: int = 1
    lengths: list[dict] = field(default_factory=list)
    tracker_id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.metrics)

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        return checkpoints.name(self.epoch, self.step)

    @property
    def where(self) -> str:
        """For people."""
        step = f"step {self.step} of epoch {self.epoch + 1}"
        return f"after {step if self.step else f'epoch {self.epoch}'}"

    @property
    def best(self) -> dict | None:
        """See run_folder.best_line."""
        return best_line(self.metrics)

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        for name in (each.name for each in fields(self)):
            setattr(self, name, state[name])


def resume(accelerator: Accelerator, folder: Path, now: State, before: Callable[[], None]) -> tuple[State, Path | None]:
    """The state after the folder's newest whole checkpoint, with all that it holds loaded, and that checkpoint.

    now: what a run that begins here would be; it is returned where there is no checkpoint. before: what is to be done
    where there is one, before it is loaded. Raises ValueError where the run began with another teacher or other data,
    has gone on for longer than it is to be, or has no whole checkpoint.
    """
    state = State()
    accelerator.register_for_checkpointing(state)
    found = agreed(accelerator, lambda: checkpoints.newest_whole(folder))
    if not found:
        state.load_state_dict(now.state_dict())
        return state, None
    before()
    try:
        accelerator.load_state(str(found))
    except Exception as error:  # of another version, perhaps
        raise ValueError(f"{found} is whole but cannot be loaded ({first_line(error)})") from None
    check_same(folder, "on other data", state.data, now.data)
    check_same(folder, "under another teacher, told in overhaul.json", state.teacher, now.teacher)
    done = state.epoch + (state.step > 0)
    if done > now.epochs:
        raise ValueError(f"{folder} is in epoch {done} already; --resume_with epochs={done} is the least")
    if state.epochs != now.epochs:
        where = {"after_epoch": state.epoch, "and_steps": state.step}
        state.lengths.append({**where, "epochs_before": state.epochs, "epochs": now.epochs})
    state.epochs = now.epochs
    return state, found


def check_same(folder: Path, what: str, before: str | None, now: str | None) -> None:
    if before != now:
        raise ValueError(
            f"{folder} was trained {what} ({before} there, {now} here); name another folder with --output_dir, or "
            f"replace the run with --resume never --overwrite"
        )


def save(accelerator: Accelerator, folder: Path, state: State) -> None:
    """Add a checkpoint, which appears whole or not at all; Unsaved, on all processes, where it cannot be written."""
    unfinished = folder / "checkpoints" / checkpoints.UNFINISHED
    on_main = accelerator.is_main_process
    written(accelerator, folder, lambda: on_main and checkpoints.begin(folder))
    written(accelerator, folder, lambda: accelerator.save_state(str(unfinished)))
    written(accelerator, folder, lambda: on_main and checkpoints.complete(unfinished, state.name))


class Unsaved(Exception):
    """Something could not be written, and why."""


def written(accelerator: Accelerator, folder: Path, write: Callable[[], object]) -> None:
    """Let every process write; Unsaved, on all of them, with the first one's reason, where one could not."""
    reason = None
    try:
        write()
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: torch's and safetensors' own writers
        full = not isinstance(error, OSError) and shutil.disk_usage(folder).free < 2**20
        reason = "No space left on device" if full else getattr(error, "strerror", None) or first_line(error)
    reasons = gather_object([reason]) if accelerator.num_processes > 1 else [reason]
    if reason := next(filter(None, reasons), None):
        if accelerator.is_main_process:
            shutil.rmtree(folder / "checkpoints" / checkpoints.UNFINISHED, ignore_errors=True)
        raise Unsaved(reason)
