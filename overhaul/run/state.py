"""What a run must remember, as plain values."""

from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import get_args, get_origin, get_type_hints
from uuid import uuid4

from overhaul.run import checkpoints
from overhaul.run.folder import best_line
from overhaul.run.lines import are_metrics
from overhaul.system.messages import UserError


@dataclass
class State:
    """What a run must remember beside weights, momentum and random numbers, as plain values.

    epochs: the run's length. step: how many steps of the epoch after the finished ones are done; running: of each
    process, what it has summed up and found in them. metrics: the lines of metrics.jsonl, one a finished epoch.
    teacher_top1: percent. data: what the images are. teacher, student: the SHA-256 of the files of their trained
    weights. positions: of each network whose features were looked for, where they are taken; code: of each that comes
    from a user's file, the SHA-256 of that. first_batch: see training.first_batch. processes: of those that wrote it;
    threads: of each, on a CPU. lengths: changes of the run's length. tracker_id: the run's name for wandb. config: see
    configuration.configuration.
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
    config: dict | None = None

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
        """Take over what a checkpoint holds; what an older release did not write keeps its default.

        UserError where that is no state of a run.
        """
        kinds = get_type_hints(type(self))
        for name in (each.name for each in fields(self) if each.name in state):
            if not fits(state[name], kinds[name]):
                raise UserError(f"its {name} is not what a run writes")
            setattr(self, name, state[name])

    def check(self) -> None:
        """UserError where what was read from a file does not go together."""
        running = {"sums": list[float], "seconds": float, "broken": list[str]}
        kept = self.running or []
        of_each = all(fits(each.get(name), kind) for each in kept for name, kind in running.items())
        if not of_each or not are_metrics(self.metrics) or bool(self.step) != bool(kept) or self.step < 0:
            raise UserError("its parts do not go together")


def fits(value: object, kind: object) -> bool:
    """Whether a value read from a file is of a type: a plain one, a list, a dict, or one of several."""
    origin, of = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return any(fits(value, each) for each in of)
    if origin is list:
        return isinstance(value, list) and all(fits(each, of[0]) for each in value)
    if origin is dict and of:
        return isinstance(value, dict) and all(fits(each, of[1]) for each in value.values())
    return type(value) in ((int, float) if kind is float else (kind,))
