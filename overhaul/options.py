"""Where and how a setup is trained, apart from what is trained; imports without torch."""

import re
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from overhaul.system.messages import UserError, check_repo, choose
from overhaul.system.numbers import check_numbers

Precision = Literal["no", "bf16", "fp16"]
Compile = Literal["no", "default", "max", "graph"]

MOST_MINUTES = 100_000
MAX_PIXELS = 89_478_485  # a quarter of a GiB of RGB, from which on PIL warns
LEAST = {  # values of what is counted
    "workers": 0,
    "skip_broken": 0,
    "max_pixels": 1,
    "shuffle_buffer": 1,
    "stream_images": 1,
    "gradient_accumulation_steps": 1,
    "push_every": 1,
    "checkpoint_steps": 1,
}
MOST = {
    "workers": 1000,
    "shuffle_buffer": 1_000_000,
    "gradient_accumulation_steps": 1_000_000,
    **dict.fromkeys(("skip_broken", "stream_images", "push_every", "checkpoint_steps"), 10**12),
}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the images are and how they are read.

    Args:
        data_path: a local copy of the data set, in any form that datasets.load_dataset takes
        data_config: the configuration of a data set that has several
        image_column: the column of the images, where it is not found
        label_column: the column of the labels, where it is not found
        class_names: a text file with one class name a line, where the data do not name them
        workers: processes that decode images for each training process, where they are not held in memory; as many as
            it has cores, up to 16, unless named; 0: it decodes them itself
        skip_broken: how many images that cannot be decoded are replaced by others in an epoch, and left out in a test
        max_pixels: of an image; a larger one is not decoded, and its file may have 8 bytes a pixel
    """

    data_path: str | None = None
    data_config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    class_names: str | None = None
    workers: int | None = None
    skip_broken: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_numbers(self, MOST)
        for name, valid in choices(type(self)).items():
            if getattr(self, name) is not None:
                choose(f"--{name}", getattr(self, name), valid)
        for name, least in LEAST.items():
            value = getattr(self, name, None)
            if value is not None and value < least:
                raise UserError(f"--{name} must be {'0 or more' if least == 0 else 'at least 1'}, not {value}")


@dataclass(frozen=True, kw_only=True)
class Run(DataOptions):
    """Where and how a setup is trained: nothing here changes what the paper reports but the seed and the precision.

    Args:
        output_dir: where the run is kept; runs/SETUP-METHOD-seedN unless named
        seed: of the initial weights, the order of the images and their augmentation
        mixed_precision: no, bf16 or fp16 (a GPU); as accelerate launch says unless named
        streaming: read the data as they come, for sets that do not fit the disk; shuffled within a buffer, and resumed
            approximately: with other images of the epoch, in another order
        shuffle_buffer: training images of each worker, encoded, among which a stream is shuffled
        stream_images: training images that make an epoch of a stream, where the data do not say how many they are
        gradient_accumulation_steps: parts of a batch that go through the networks one after the other, to save memory;
            BatchNorm sees the parts
        sync_bn: BatchNorm statistics of student and connectors over all processes (GPUs)
        compile: torch.compile teacher and student: no, default, or max (with CUDA graphs of each); or graph: without
            it the whole step as one CUDA graph, on one GPU in bf16 or fp32
        comm_hook: no, or bf16 or fp16: the precision of gradients between processes, half the bytes on a slow network
        quiet: no bar and no line a minute; the plan, a line an epoch and the result are told all the same
        dry_run: say what the run will cost after a few steps on real data, and stop; writes nothing
        deterministic: only kernels that give the same bits every time, without TF32, which costs speed on GPUs;
            CPUs' do anyway
        tf32: on NVIDIA GPUs round the factors of fp32 products and convolutions to TF32, which is faster; nowhere else
        checkpoint_steps: steps between two checkpoints, beside that of each epoch's end
        checkpoint_minutes: minutes between two checkpoints, beside that of each epoch's end
        timeout_minutes: how long the processes of a training wait for one that does not answer
        resume: auto (go on from the last checkpoint of the folder, if any) or never (refuse a folder in use)
        resume_with: epochs=N: go on with a run of another length; the learning rate's drops move with it
        overwrite: with --resume never, delete the run in the folder and start anew
        beside: the folder of a run of --method original with the same recipe and seed, which each epoch is compared to
        tracker: tensorboard, wandb or trackio beside the run's own metrics.jsonl
        push_to_hub: USER/REPO on the Hub that gets the final student
        push_every: epochs between two pushes of the student so far, in the background
        push_private: make the repository private, if it is not there yet
    """

    output_dir: str | None = None
    seed: int = 0
    mixed_precision: Precision | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000
    stream_images: int | None = None
    gradient_accumulation_steps: int = 1
    sync_bn: bool = False
    compile: Compile = "no"
    comm_hook: Precision = "no"
    quiet: bool = False
    dry_run: bool = False
    deterministic: bool = False
    tf32: bool = True
    checkpoint_steps: int | None = None
    checkpoint_minutes: float = 10
    timeout_minutes: float = 10
    resume: Literal["auto", "never"] = "auto"
    resume_with: str | None = None
    overwrite: bool = False
    beside: str | None = None
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = None
    push_to_hub: str | None = None
    push_every: int | None = None
    push_private: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoint_minutes", "timeout_minutes"):
            if not 0 < getattr(self, name) <= MOST_MINUTES:
                raise UserError(f"--{name} must be above 0 and at most {MOST_MINUTES}, not {getattr(self, name)}")
        if self.resume_with is not None and self.new_epochs is None:
            raise UserError(f"--resume_with changes the length of a run alone: epochs=N, not {self.resume_with}")
        if self.resume_with and (self.resume == "never" or self.dry_run):
            raise UserError("--resume_with goes on with a run, so it goes with neither --resume never nor --dry_run")
        if self.push_to_hub is not None:
            check_repo("--push_to_hub", self.push_to_hub)
        elif self.push_every or self.push_private:
            raise UserError("--push_every and --push_private go with --push_to_hub USER/REPO")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed must be between 0 and 2^32 - 1, not {self.seed}")
        if self.compile in ("max", "graph") and self.gradient_accumulation_steps > 1:
            raise UserError(
                f"--compile {self.compile} takes whole batches; "
                f"with --gradient_accumulation_steps use --compile default"
            )
        if self.compile != "no" and self.sync_bn:
            raise UserError("--sync_bn goes without --compile: PyTorch compiles no synchronised BatchNorm")
        if self.overwrite and self.resume == "auto":
            raise UserError("--overwrite goes with --resume never: with --resume auto the run would be continued")

    @property
    def new_epochs(self) -> int | None:
        """The length that --resume_with asks for."""
        asked = re.fullmatch(r"epochs=([1-9]\d{0,8})", self.resume_with or "")
        return int(asked[1]) if asked else None


def choices(of: type) -> dict[str, tuple[str, ...]]:
    """The fields of a dataclass that take one of a few words, or may have none, and those words."""
    kinds = {field.name: (field.type, *get_args(field.type)) for field in fields(of)}
    return {name: get_args(kind) for name, types in kinds.items() for kind in types if get_origin(kind) is Literal}


def default_folder(setup: str, method: str, seed: int, under: str = "runs") -> str:
    """Where a run is kept that names no folder."""
    return f"{under}/{setup}-{method}-seed{seed}"
