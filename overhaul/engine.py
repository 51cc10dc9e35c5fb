"""The only place that configures Accelerate, and the keeper of a run's folder: configuration, metrics, checkpoints."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast
from torch import nn

from overhaul.run import Run
from overhaul.setups import Setup

KEPT = 2  # checkpoints
MAY_CHANGE = ("output_dir", "data_path", "resume", "overwrite", "tracker")  # between two starts of one run
OURS = ("checkpoints", "final", "best", "logs", "metrics.jsonl", "config.yaml")


@dataclass
class State:
    """What a run must remember beside weights and momentum, as plain numbers; accuracies in percent."""

    epoch: int = 0
    best_top1: float | None = None
    teacher_top1: float | None = None

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        for field in fields(self):
            setattr(self, field.name, state[field.name])


def start(run: Run, folder: Path | None = None) -> Accelerator:
    """The Accelerator of a run; ValueError for a launch, a precision or a tracker that cannot work."""
    if run.tracker and not find_spec(run.tracker):
        raise ValueError(f"--tracker {run.tracker} is not installed: pip install 'overhaul[trackers]'")
    AcceleratorState._reset_state()  # else a second run of one Python process could not have another precision
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        log_with=run.tracker,
        project_config=folder and ProjectConfiguration(str(folder), logging_dir=str(folder / "logs")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # the main process may be downloading
        ],
    )
    world, launched = accelerator.num_processes, int(os.environ.get("WORLD_SIZE", 1))
    if launched != world:
        raise ValueError(
            f"{launched} processes were launched, but each would train alone; on CPUs launch with "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {launched}"
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


def sync_buffers(model: nn.Module) -> None:
    """Give every process the BatchNorm statistics of the main process."""
    for buffer in model.buffers():
        buffer.copy_(broadcast(buffer))


def output_dir(setup: Setup, run: Run) -> Path:
    return Path(run.output_dir or f"runs/{setup.name}-{setup.method}-seed{run.seed}").expanduser()


def claim(folder: Path, run: Run) -> None:
    """ValueError unless the folder is free or holds a run that may be continued or overwritten. Changes nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder with --output_dir")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} holds files but no run; name another folder with --output_dir")
    if run.resume == "never" and not run.overwrite:
        raise ValueError(
            f"{folder} holds a run, and --resume never leaves it alone: add --overwrite, or --output_dir DIR"
        )


def open_folder(accelerator: Accelerator, folder: Path, setup: Setup, run: Run) -> None:
    """Write the resolved configuration and start the tracker; ValueError if the folder's run has another one."""
    config, file = resolved(setup, run, accelerator.mixed_precision), folder / "config.yaml"
    if file.exists() and not run.overwrite:
        compare(config, yaml.safe_load(file.read_text()), folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if run.overwrite:
            remove_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, yaml.safe_dump(config, sort_keys=False))
    accelerator.wait_for_everyone()
    if run.tracker:
        values = flatten(config).items()
        plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in values}
        named = {} if run.tracker == "tensorboard" else {run.tracker: {"name": folder.name}}
        accelerator.init_trackers("overhaul", config=plain, init_kwargs=named)


def resolved(setup: Setup, run: Run, mixed_precision: str) -> dict:
    """The whole configuration as plain values, as `overhaul train --config` takes it."""
    recipe = {key: value for key, value in asdict(setup).items() if key not in ("name", "published")}
    return json.loads(json.dumps({"setup": setup.name, **recipe, **asdict(run), "mixed_precision": mixed_precision}))


def compare(mine: dict, theirs: dict, folder: Path) -> None:
    mine, theirs = flatten(mine), flatten(theirs)
    differing = [
        f"{key}: {theirs.get(key)} there, {mine.get(key)} here"
        for key in mine | theirs
        if key not in MAY_CHANGE and mine.get(key) != theirs.get(key)
    ]
    if differing:
        raise ValueError(
            f"{folder} belongs to another configuration ({'; '.join(differing)}); name another folder with "
            f"--output_dir, or replace the run with --resume never --overwrite"
        )


def flatten(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def remove_run(folder: Path) -> None:
    """Delete what a run leaves in its folder, and nothing else."""
    for name in OURS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def resume(accelerator: Accelerator, folder: Path) -> tuple[State, list[dict]]:
    """The state after the folder's newest checkpoint, loaded, and the metrics up to it; a fresh state without one."""
    state = State()
    accelerator.register_for_checkpointing(state)
    found = complete_checkpoints(folder)
    if found:
        try:
            accelerator.load_state(str(found[-1]))
        except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{found[-1]} is broken ({reason}); remove it to go on from the one before") from error
    return state, [line for line in read_metrics(folder) if line["epoch"] <= state.epoch]


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
            flush(path)
        unfinished.rename(target)
        flush(checkpoints)
        for old in complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def complete_checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((folder / "checkpoints").glob("epoch-*"))


def read_metrics(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write_metrics(folder: Path, metrics: list[dict]) -> None:
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    flush(temporary)
    temporary.replace(path)


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
