"""A run of the student alone, with which a distilled one is compared epoch by epoch."""

from dataclasses import dataclass, fields
from pathlib import Path

from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.run.configuration import configuration, flatten
from overhaul.run.folder import RunFolder
from overhaul.system.messages import UserError
from overhaul.training.build import Components
from overhaul.training.networks import weights_to_try
from overhaul.usual import OF_METHOD

BESIDES = ("name", "published", "data", "num_classes", "teacher", "method", "like", *OF_METHOD)  # that may differ
OF_STUDENT = ("positions", "weights", "key", "mean", "std", "image_size")  # of its weights the checksum is compared
PATIENCE = 3  # epochs


@dataclass
class Baseline:
    """What --beside names. config, record, metrics: as they are in its folder; told: whether the weight was named."""

    source: str
    config: dict
    record: dict
    metrics: list[dict]
    told: bool = False

    @classmethod
    def named_by(cls, run: Run) -> "Baseline | None":
        """UserError where it is no run of --method original that has finished an epoch."""
        if run.beside is None:
            return None
        folder = RunFolder(Path(run.beside).expanduser())
        if not folder.config_file.is_file():
            raise UserError(f"--beside {run.beside} is no folder of a run")
        config, (record, metrics) = folder.read_config(), folder.read()
        if config.get("method") != "original":
            raise UserError(
                f"--beside {run.beside} is a run of --method {config.get('method')}; name one of --method original"
            )
        return cls(run.beside, config, record, metrics)

    def check(self, of: Components) -> None:
        """UserError where it was trained otherwise than by the recipe, the seed and the data of this run."""
        mine, theirs = (self.compared(each) for each in (self.config_of(of), self.config))
        mine |= {"student weights": of.sums["student"], "data": of.train_loader.images.fingerprint}
        data, started = self.record.get("data") or {}, (self.record.get("student") or {}).get("started_from") or {}
        theirs |= {"student weights": started.get("sha256"), "data": data.get("training_images")}
        differing = [
            f"{key}: {theirs.get(key)} there, {mine.get(key)} here"
            for key in mine | theirs
            if mine.get(key) != theirs.get(key)
        ]
        if data.get("class_names", list(of.classes)) != list(of.classes):
            differing.append("other classes")
        if differing:
            raise UserError(
                f"--beside {self.source} must be a run of the same recipe, seed and data ({'; '.join(differing)}); "
                f"train one with --method original"
            )

    @staticmethod
    def config_of(of: Components) -> dict:
        return configuration(of.setup, of.run, of.accelerator.mixed_precision)

    @staticmethod
    def compared(config: dict) -> dict:
        """What of a configuration must be the same."""
        kept = {field.name for field in fields(Setup)} - {*BESIDES} | {"seed"}
        left_out = {f"student.{name}" for name in OF_STUDENT}
        flat = flatten({key: value for key, value in config.items() if key in kept})
        return {key: value for key, value in flat.items() if key not in left_out}

    def ahead(self, line: dict) -> float | None:
        """Points of test top-1 that an epoch is ahead of the same one here; None where there is none."""
        theirs = next((each for each in self.metrics if each["epoch"] == line["epoch"]), None)
        return theirs and line["test_top1"] - theirs["test_top1"]

    def look(self, metrics: list[dict], setup: Setup) -> tuple[str, list[str]]:
        """For the line of the last epoch; what to tell, once, of a student whose last epochs were all behind."""
        last = [self.ahead(line) for line in metrics[-PATIENCE:]]
        points = last[-1]
        if points is None:
            return f"  ({self.source} has no epoch {metrics[-1]['epoch']})", []
        words = f"  {abs(points):.2f} points {'behind' if points < 0 else 'ahead of'} {self.source}"
        behind = len(last) == PATIENCE and all(each is not None and each < 0 for each in last)
        told, self.told = self.told, self.told or behind
        return words, [self.warning(setup)] if behind and not told else []

    def warning(self, setup: Setup) -> str:
        weights = " and ".join(f"{each:g}" for each in setup.of_methods("distill_weight"))
        return (
            f"the student has been behind {self.source} for {PATIENCE} epochs: the weight {weights} of the "
            f"distillation loss may be too much for these networks; try {weights_to_try(setup)}"
        )
