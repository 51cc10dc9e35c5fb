"""The only place that configures Accelerate, and the keeper of a run's state: checkpoints and resuming."""

import os
import shutil
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast
from torch import nn

from overhaul import run_folder
from overhaul.messages import first_line
from overhaul.run import Run
from overhaul.setups import Setup

KEPT = 2  # checkpoints


@dataclass
class State:
    """What a run must remember beside weights and momentum, as plain values.

    metrics: the lines of metrics.jsonl, one a finished epoch. teacher_top1: percent. data: what the images are.
    teacher: the SHA-256 of its weights' file.
    """

    metrics: list[dict] = field(default_factory=list)
    teacher_top1: float | None = None
    data: str | None = None
    teacher: str | None = None

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.metrics)

    @property
    def newest_is_best(self) -> bool:
        return self.metrics[-1]["test_top1"] > max((line["test_top1"] for line in self.metrics[:-1]), default=-1)

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        for name in (each.name for each in fields(self)):
            setattr(self, name, state[name])


def start(run: Run, folder: Path | None = None) -> Accelerator:
    """The Accelerator of a run; ValueError for a launch, a precision or a tracker that cannot work."""
    if run.tracker and not find_spec(run.tracker):
        raise ValueError(f"--tracker {run.tracker} is not installed: pip install 'overhaul[trackers]'")
    AcceleratorState._reset_state()  # else a second run of one Python process could not have another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on CPUs would not find each other
        mixed_precision=run.mixed_precision,
        log_with=run.tracker,
        project_config=folder and ProjectConfiguration(str(folder), logging_dir=str(folder / "logs")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=run.gradient_accumulation_steps == 1,  # a step without synchronising is another graph
            ),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # the main process may be downloading
        ],
    )
    world, launched = accelerator.num_processes, int(os.environ.get("WORLD_SIZE", 1))
    if launched != world:
        raise ValueError(
            f"{launched} processes were launched, but each would train alone on {accelerator.device}; launch with "
            f"`accelerate launch --multi_gpu --num_processes {launched}`, on CPUs after ACCELERATE_USE_CPU=true"
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError("FSDP and DeepSpeed are of no use here: these networks are small; launch plain multi-GPU")
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("--mixed_precision fp16 needs a GPU; on a CPU use bf16")
    return accelerator


def describe_devices(accelerator: Accelerator) -> str:
    device = accelerator.device.type
    name = torch.cuda.get_device_name() if device == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{accelerator.num_processes} x {name}, {precision}"


def all_finite(model: nn.Module) -> bool:
    """Whether every parameter and BatchNorm statistic is a finite number."""
    return all(bool(torch.isfinite(value).all()) for value in (*model.parameters(), *model.buffers()))


def sync_buffers(model: nn.Module) -> None:
    """Give every process the BatchNorm statistics of the main process."""
    for buffer in model.buffers():
        buffer.copy_(broadcast(buffer))


def open_folder(accelerator: Accelerator, folder: Path, setup: Setup, run: Run) -> None:
    """Write the resolved configuration and start the tracker; ValueError if the folder's run has another one."""
    config, file = run_folder.resolved(setup, run, accelerator.mixed_precision), folder / "config.yaml"
    if file.exists() and not run.overwrite:
        run_folder.compare(config, run_folder.read_config(file), folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if run.overwrite:
            run_folder.remove_run(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run_folder.write_text(file, yaml.safe_dump(config, sort_keys=False))
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to ({error}); name another with --output_dir") from None
    accelerator.wait_for_everyone()
    if run.tracker:
        values = run_folder.flatten(config).items()
        plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in values}
        named = {} if run.tracker == "tensorboard" else {run.tracker: {"name": folder.name}}
        accelerator.init_trackers("overhaul", config=plain, init_kwargs=named)


def resume(accelerator: Accelerator, folder: Path, data: str, teacher: str | None) -> State:
    """The state after the folder's newest checkpoint, with all that it holds loaded; a fresh state without one.

    data: what the images are now (see images.Labelled); teacher: the SHA-256 of its weights' file; ValueError where
    the run began with others.
    """
    state = State(data=data, teacher=teacher)
    accelerator.register_for_checkpointing(state)
    found = run_folder.complete_checkpoints(folder)
    if found:
        try:
            accelerator.load_state(str(found[-1]))
        except Exception as error:  # a broken file may raise anything
            then = "go on from the one before" if len(found) > 1 else "start anew"
            raise ValueError(f"{found[-1]} is broken ({first_line(error)}); remove it to {then}") from None
        check_same(folder, "on other data", state.data, data)
        check_same(folder, "under another teacher, told in overhaul.json", state.teacher, teacher)
        if accelerator.is_main_process:
            run_folder.write_metrics(folder, state.metrics)
    return state


def check_same(folder: Path, what: str, before: str | None, now: str | None) -> None:
    if before != now:
        raise ValueError(
            f"{folder} was trained {what} ({before} there, {now} here); name another folder with --output_dir, or "
            f"replace the run with --resume never --overwrite"
        )


def save_checkpoint(accelerator: Accelerator, folder: Path, state: State) -> None:
    """Add a checkpoint, which appears whole or not at all, and delete all but the newest ones."""
    checkpoints = folder / "checkpoints"
    unfinished, target = checkpoints / "unfinished", checkpoints / f"epoch-{state.epoch:04d}"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for path in (*unfinished.iterdir(), unfinished):
            run_folder.flush(path)
        unfinished.rename(target)
        run_folder.flush(checkpoints)
        for old in run_folder.complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
