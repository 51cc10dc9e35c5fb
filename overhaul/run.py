"""Where and how a setup is trained, apart from what is trained; imports without torch."""

from dataclasses import dataclass

from overhaul.setups import choose


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how a setup is trained: nothing here changes what the paper reports but the seed and the precision.

    Args:
        output_dir: where the run is kept; runs/SETUP-METHOD-seedN unless named
        seed: of the initial weights, the order of the images and their augmentation
        mixed_precision: no, bf16 or fp16 (a GPU); as accelerate launch says unless named
        data_path: a local copy of the data set, in any form that datasets.load_dataset takes
        image_column: the column of the images, where it is not found
        label_column: the column of the labels, where it is not found
        class_names: a text file with one class name a line, where the data do not name them
        resume: auto (go on from the last checkpoint of the folder, if any) or never (refuse a folder in use)
        overwrite: with --resume never, delete the run in the folder and start anew
        tracker: tensorboard, wandb or trackio beside the run's own metrics.jsonl
    """

    output_dir: str | None = None
    seed: int = 0
    mixed_precision: str | None = None
    data_path: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    class_names: str | None = None
    resume: str = "auto"
    overwrite: bool = False
    tracker: str | None = None

    def __post_init__(self) -> None:
        choose("--resume", self.resume, ("auto", "never"))
        choose("--mixed_precision", self.mixed_precision or "no", ("no", "bf16", "fp16"))
        if self.tracker:
            choose("--tracker", self.tracker, ("tensorboard", "wandb", "trackio"))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be between 0 and 2^32 - 1, not {self.seed}")
        if self.overwrite and self.resume == "auto":
            raise ValueError("--overwrite goes with --resume never: with --resume auto the run would be continued")
