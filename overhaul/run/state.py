"""What a run must remember, and how it is found again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from uuid import uuid4

import torch
from accelerate import Accelerator
from accelerate.utils import SAFE_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import nn

from overhaul.run import checkpoints
from overhaul.run.folder import ANEW, best_line
from overhaul.system.accelerator import of_main, other_gpus_hidden
from overhaul.system.messages import UserError, first_line, innermost, warn
from overhaul.system.processes import agreed

STATE_FILE = "custom_checkpoint_0.pkl"  # as Accelerate calls it


@dataclass
class State:
    """What a run must remember beside weights, momentum and random numbers, as plain values.

    epochs: the run's length. step: how many steps of the epoch after the finished ones are done; running: of each
    process, what it has summed up and found in them. metrics: the lines of metrics.jsonl, one a finished epoch.
    teacher_top1: percent. data: what the images are. teacher, student: the SHA-256 of the files of their trained
    weights. positions: of each network whose features were looked for, where they are taken; code: of each that comes
    from a user's file, the SHA-256 of that. first_batch: see training.first_batch. processes: of those that wrote it;
    threads: of each, on a CPU. lengths: changes of the run's length. tracker_id: the run's name for wandb.
    """

    epochs: int = 0
    step: int = 0
    running: list[dict] | None = None
    metrics: list[dict] = field(default_factory=list)
    teacher_top1: float | None = None
    data: str | None = None
    teacher: str | None = None
    student: str | None = None
    positions: dict[str, list[str]] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    first_batch: dict | None = None
    processes: int = 1
    threads: int | None = None
    lengths: list[dict] = field(default_factory=list)
    tracker_id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.metrics)

    @property
    def begins(self) -> bool:
        """Whether nothing is learned yet."""
        return not self.epoch and not self.step

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
        """See folder.best_line."""
        return best_line(self.metrics)

    def kept_by(self, process: int, processes: int) -> dict | None:
        """What a process has summed up in the epoch; of another number of processes, the main one takes all."""
        kept = self.running
        if not self.step:
            return None
        if len(kept) == processes:
            return kept[process]
        if process > 0:
            return None
        return {
            "sums": [sum(column) for column in zip(*(each["sums"] for each in kept), strict=True)],
            "seconds": max(each["seconds"] for each in kept),
            "broken": sorted({name for each in kept for name in each["broken"]}),
        }

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Take over what a checkpoint holds; what an older release did not write keeps its default."""
        for name in (each.name for each in fields(self) if each.name in state):
            setattr(self, name, state[name])


def resume(accelerator: Accelerator, folder: Path, now: State, before: Callable[[], None]) -> tuple[State, Path | None]:
    """The state after the folder's newest whole checkpoint, with all that it holds loaded, and that checkpoint.

    now: what a run that begins here would be; it is returned where there is no checkpoint. before: what is to be done
    where there is one, before it is loaded. Raises UserError where the run began with another teacher or other data,
    has gone on for longer than it is to be, or has no whole checkpoint.
    """
    state = State()
    accelerator.register_for_checkpointing(state)
    found = agreed(accelerator, lambda: checkpoints.newest_whole(folder))
    if not found:
        state.load_state_dict(now.state_dict())
        return state, None
    load(accelerator, folder, found, now, before)
    done = state.epoch + (state.step > 0)
    if done > now.epochs:
        raise UserError(f"{folder} is in epoch {done} already; --resume_with epochs={done} is the least")
    if state.epochs != now.epochs:
        where = {"after_epoch": state.epoch, "and_steps": state.step}
        state.lengths.append({**where, "epochs_before": state.epochs, "epochs": now.epochs})
    state.epochs, state.positions, state.code = now.epochs, now.positions, now.code
    return state, found


def load(accelerator: Accelerator, folder: Path, found: Path, now: State, before: Callable[[], None]) -> None:
    """Load a checkpoint of the same data and networks; of a user's file that has changed if its tensors still fit."""
    kept = State()
    try:
        # as Accelerate loads it
        kept.load_state_dict(torch.load(found / STATE_FILE, map_location="cpu", weights_only=False))
    except Exception as error:  # of another version, perhaps
        raise UserError(f"{found} is whole but cannot be loaded ({first_line(error)})") from None
    check_same(folder, "on other data", kept.data, now.data)
    check_same(folder, "under another teacher, told in overhaul.json", kept.teacher, now.teacher)
    check_same(folder, "from other weights of the student, told in overhaul.json", kept.student, now.student)
    for role in kept.positions.keys() & now.positions.keys():
        lists = (", ".join(each.positions[role]) for each in (kept, now))
        check_same(folder, f"with the {role}'s features taken elsewhere", *lists)
    changed = [role for role in kept.code.keys() & now.code.keys() if kept.code[role] != now.code[role]]
    note = f"the file that makes the {' and the '.join(sorted(changed))} has changed since {found.name}"
    before()
    accelerator.register_load_state_pre_hook(load_model)
    try:
        with other_gpus_hidden(accelerator):
            accelerator.load_state(str(found))
    except Exception as error:
        why, how = (f"{note}: {innermost(error)}", f"; put it back, or {ANEW}") if changed else (first_line(error), "")
        raise UserError(f"{found} is whole but cannot be loaded ({why}){how}") from None
    if changed:
        of_main(accelerator, lambda: warn)(f"{note}; its tensors fit, and the run goes on")


def load_model(models: list[nn.Module], folder: str) -> None:
    """Load the one model, in which a tensor may have several names and the file only one of them.

    In place of the function of safetensors, which cannot compare tensors in channels_last. RuntimeError where they do
    not fit.
    """
    model = models.pop()
    file, own = load_file(Path(folder) / SAFE_WEIGHTS_NAME), model.state_dict()
    there = {own[name].untyped_storage().data_ptr() for name in file.keys() & own.keys()}
    same = {name: each for name, each in own.items() if each.untyped_storage().data_ptr() in there}
    model.load_state_dict({**same, **file})


def check_same(folder: Path, what: str, before: str | None, now: str | None) -> None:
    if before != now:
        raise UserError(f"{folder} was trained {what} ({before} there, {now} here); {ANEW}")
