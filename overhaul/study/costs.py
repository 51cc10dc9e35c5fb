"""What the runs of a study will cost: by the epochs that like ones have finished, else by a dry run of one of them."""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from overhaul.study.jobs import TRAIN, environments, last_words, ours
from overhaul.study.plan import Planned

SAME_PACE = (  # of a configuration: what an epoch's length hangs on
    *("setup", "method", "student", "teacher", "data", "data_path", "batch_size", "image_size", "teacher_norm"),
    *("mixed_precision", "compile", "streaming", "gradient_accumulation_steps", "deterministic", "tf32"),
)
STEPS = re.compile(r"(\d+) epochs x [\d,]+ = ([\d,]+), each of (\d+) images")
PACE = re.compile(r"pace +(\S+) images/s")


def costs(runs: Sequence[Planned]) -> dict[str, tuple[float | None, str]]:
    """Of each run that is not finished, by its name: the seconds of training that are left, and how that is known.

    None, and why, where it is not known. Runs of one pace are measured once.
    """
    paces, found = {}, {}
    for run in runs:
        if run.epochs and (lines := [line["seconds"] for line in run.metrics() if line.get("seconds")]):
            paces[pace_of(run)] = sum(lines) / len(lines), f"by {run.name}'s epochs", run.epochs
    for run in runs:
        if run.finished():
            continue
        if pace_of(run) not in paces:
            paces[pace_of(run)] = dry_run(run)
        seconds, how, epochs = paces[pace_of(run)]
        left = (run.epochs or epochs or 0) - len(run.metrics())
        found[run.name] = (None if seconds is None else seconds * left), how
    return found


def pace_of(run: Planned) -> str:
    same = {name: run.config.get(name) for name in SAME_PACE} | {"chosen": run.epochs is None}
    return json.dumps(same, sort_keys=True)


def dry_run(run: Planned) -> tuple[float | None, str, int | None]:
    """Seconds an epoch by a few steps on real data, which leave nothing behind; how that is known; the epochs."""
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "config.yaml", Path(folder) / "log"
        config.write_text(yaml.safe_dump({**run.config, "output_dir": None}))
        with log.open("w") as said:
            command = [*TRAIN, "--config", str(config), "--dry_run", "--quiet"]
            status = subprocess.run(command, env=environments(1)[0], stdout=said, **ours()).returncode
        text = log.read_text(errors="replace")
        steps, pace = STEPS.search(text), PACE.search(text)
        if status or not steps or not pace:
            return None, f"unknown until its first epoch: {last_words(log)}", None
    epochs, images = int(steps[1]), int(steps[2].replace(",", "")) * int(steps[3])
    return images / float(pace[1]) / epochs, "by a few steps", epochs
