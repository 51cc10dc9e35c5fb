"""A run of the digits killed again and again, beside one that never was: python tests/support/stress_resume.py --help

Every start is the real command under Accelerate's launcher; a kill is SIGKILL, to the launcher with all its processes
or to one of them. Prints what was killed when, and whether both runs ended in the same files.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(REPOSITORY / "launch" / "cpus.yaml")]
TIMES = ("seconds", "images_per_second")


class Killed:
    """A run in a folder, which is started as often as it takes. arguments: of overhaul train."""

    def __init__(self, folder: Path, processes: int, *arguments) -> None:
        launcher = [*LAUNCH, "--num_processes", str(processes), "--main_process_port", "0"]
        script = str(REPOSITORY / "overhaul" / "train.py")
        self.command = [*launcher, script, *map(str, arguments), "--output_dir", str(folder)]
        self.folder, self.unfinished, self.log = (
            folder,
            folder / "checkpoints" / "unfinished",
            folder.with_suffix(".log"),
        )
        self.process = None

    def start(self) -> "Killed":
        alone = {"ACCELERATE_USE_CPU": "false", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self.started = time.time()
        with self.log.open("a") as log:
            log.write(f"@@@ {time.time()}\n")
            log.flush()
            self.process = subprocess.Popen(
                self.command, env=os.environ | alone, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    @property
    def said(self) -> str:
        """What was printed since the last start."""
        return self.log.read_text().rpartition("@@@ ")[2]

    def wait_for(self, happens) -> bool:
        """Whether it happened before the run's end."""
        while not happens():
            if self.process.poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def training(self) -> bool:
        return "\n  steps " in self.said

    def writing(self) -> bool:
        """Whether a checkpoint is being written, or was when the run was killed."""
        try:
            return self.unfinished.stat().st_mtime > self.started
        except FileNotFoundError:
            return False

    def everyone(self) -> list[int]:
        """The process ids of the training processes and the launcher, which has put each into a session of its own."""
        self.process.send_signal(signal.SIGSTOP)  # so that it starts no more of them
        found = [*self.ranks(), self.process.pid]
        self.process.send_signal(signal.SIGCONT)
        return found

    def kill(self, processes: list[int] | None = None) -> None:
        """SIGKILL to these, or to all of them; the launcher ends where it is not killed itself."""
        for each in processes or self.everyone():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.process.wait(120)
        while self.orphans():
            time.sleep(0.01)

    def orphans(self) -> bool:
        """Whether processes of this run are left."""
        return any(str(self.folder) in line for line in command_lines())

    def ranks(self) -> list[int]:
        """The process ids of the training processes, by rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == self.process.pid:
                rank = next((each[5:] for each in environment if each.startswith(b"RANK=")), b"0")
                found[int(rank)] = int(entry.name)
        return [found[rank] for rank in sorted(found)]

    def result(self) -> dict:
        """What must be the same: SHA-256 of both students, and metrics.jsonl, times apart."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        students = {
            which: hashlib.sha256((self.folder / which / "model.safetensors").read_bytes()).hexdigest()
            for which in ("final", "best")
        }
        return {**students, "metrics": [{k: v for k, v in line.items() if k not in TIMES} for line in lines]}


def command_lines() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if int(entry.parent.name) != os.getpid():
                yield entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")


def finish(run: Killed) -> float:
    """Start it and let it come to its end; seconds."""
    started = time.monotonic()
    status = run.start().process.wait(1800)
    if status:
        raise SystemExit(f"status {status}\n{run.said}")
    return time.monotonic() - started


def stress(
    run: Killed, kills: int, in_checkpoints: int, processes: int, longest: float, draw: random.Random
) -> Counter:
    """Start the run and kill it, so often; longest: seconds of training between two kills. What the kills hit.

    A kill that was meant to hit the writing of a checkpoint and came too late is made again.
    """
    plan = [False] * kills + [True] * in_checkpoints
    draw.shuffle(plan)
    hit = Counter()
    while plan:
        in_checkpoint = plan.pop()
        run.start()
        rank, early = draw.choice([None, None, *range(processes)]), draw.random() < 0.1 and not in_checkpoint
        if in_checkpoint and rank:
            rank = None  # the main process would write on to the end
        arrived = early or run.wait_for(run.training)
        everyone = run.everyone() if arrived and not early else None
        only = everyone[rank] if everyone and rank is not None else None
        if in_checkpoint:
            for _ in range(draw.randint(0, 2)):
                arrived = arrived and run.wait_for(run.writing) and run.wait_for(lambda: not run.writing())
            arrived = arrived and run.wait_for(run.writing)
            time.sleep(draw.uniform(0, 0.005))
        else:
            time.sleep(draw.uniform(0, longest))
        if not arrived or run.process.poll() is not None:
            raise SystemExit(f"the run ended before its last kill; give it more --epochs\n{run.said}")
        run.kill([only] if only else everyone)
        if in_checkpoint and not run.writing():
            plan.insert(draw.randint(0, len(plan)), True)
        where = "while a checkpoint was written" if run.writing() else "between checkpoints"
        hit[where if run.training() else "before training began"] += 1
        hit["of one process alone" if only else "of all at once"] += 1
        print(f"killed {where}", *sorted(path.name for path in (run.folder / "checkpoints").glob("*")), flush=True)
    return hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25, help="at random moments")
    parser.add_argument("--in_checkpoints", type=int, default=10, help="further kills, while a checkpoint is written")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("more", nargs="*", help="further flags of overhaul train, after --")
    options = parser.parse_args()
    print(summary(options))


def summary(options) -> str:
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        finish(Killed(place / "teacher", 1, "--setup", "digits_teacher", "--epochs", 2))
        arguments = ["--setup", "digits", "--teacher", place / "teacher", "--epochs", options.epochs, *options.more]
        arguments += ["--checkpoint_steps", 5]
        whole = Killed(place / "whole", options.processes, *arguments)
        seconds = finish(whole)
        training = sum(json.loads(line)["seconds"] for line in (whole.folder / "metrics.jsonl").open())
        run = Killed(place / "killed", options.processes, *arguments)
        longest = 1.2 * training / (options.kills + options.in_checkpoints)
        draw = random.Random(options.seed)
        hit = stress(run, options.kills, options.in_checkpoints, options.processes, longest, draw)
        finish(run)
        one, other = whole.result(), run.result()
    same = [f"{name} {'the same' if one[name] == other[name] else 'DIFFERENT'}" for name in one]
    return "\n".join(
        [
            f"{sum(hit.values()) // 2} SIGKILLs on {options.processes} processes, {options.epochs} epochs of digits",
            *(f"  {count:3d} {what}" for what, count in sorted(hit.items())),
            f"one run of {seconds:.0f} s never stopped, the other after its last kill: {', '.join(same)}",
            f"final student: {one['final']}",
        ]
    )


if __name__ == "__main__":
    main()
