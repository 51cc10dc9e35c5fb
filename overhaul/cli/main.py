"""The command `overhaul`: which function of the API it is, and what its results and its errors look like."""

import inspect
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal, NamedTuple, NoReturn

from overhaul.report import methods, tables
from overhaul.system.messages import UserError, choose, launched, printable, without_tokens
from overhaul.system.preemption import Preempted, enlist, installed, leave, leave_status, stop_at_once


class Command(NamedTuple):
    """A function of the API as a command.

    words: for the list of commands. examples: of its use. text: of what the function returns and what it was called
    with; None where it has told of itself. json: whether --json shows what it returns, as a line or as a line an item.
    """

    words: str
    examples: tuple[str, ...]
    text: Callable[[object, dict], str] | None
    json: Literal["whole", "lines"] | None = None


COMMANDS = {
    "train": Command(
        "train a setup: distil a student, train it alone, or train a teacher",
        (
            "overhaul train --setup cifar_teacher_wrn",
            "overhaul train --setup cifar_c --teacher runs/cifar_teacher_wrn-original-seed0",
            "overhaul train --setup cifar_c --method original --data_path my_images --epochs 30 --lr 0.05",
            "overhaul train --data_path my_images --teacher timm/resnet50d.ra2_in1k --student timm:resnet18d",
        ),
        None,
    ),
    "study": Command(
        "train every combination of setups, methods, seeds and other settings, and report them",
        (
            "overhaul study --setup cifar_c --method original,kd --seed 0,1 --teacher T.pt --out studies/short",
            "overhaul study --setup digits_teacher --lr 0.1,0.05 --out studies/lr --dry_run",
            "overhaul study studies/short/study.yaml --seed 0,1,2,3 --jobs 4",
        ),
        None,
    ),
    "evaluate": Command(
        "top-1 and top-5 accuracy of a run, a checkpoint file or a Hub model",
        (
            "overhaul evaluate runs/cifar_c-overhaul-seed0 --data cifar100",
            "overhaul evaluate USER/STUDENT --data my_images --json",
        ),
        tables.accuracy,
        json="whole",
    ),
    "predict": Command(
        "the most probable classes of image files",
        ("overhaul predict runs/cifar_c-overhaul-seed0 image.jpg", "overhaul predict USER/STUDENT a.png b.png --top 3"),
        tables.predictions,
        json="lines",
    ),
    "pull": Command(
        "copy a student from the Hub into a folder", ("overhaul pull USER/STUDENT --out my_student",), tables.pulled
    ),
    "push": Command(
        "send a run's student to the Hub, with its model card",
        ("overhaul push runs/cifar_c-overhaul-seed0 USER/STUDENT --private",),
        tables.pushed,
    ),
    "export": Command(
        "write a bare student as safetensors, pt2 or ONNX",
        ("overhaul export runs/cifar_c-overhaul-seed0 --format onnx --out student.onnx",),
        tables.exported,
    ),
    "prepare": Command(
        "read a data set once and write it as sharded parquet",
        ("overhaul prepare --data imagenet --data_path imagenet --out imagenet_parquet --short_side 320",),
        tables.prepared,
    ),
    "bench": Command(
        "where a training step goes, and how near it comes to the machine's best; bench data: the images",
        ("overhaul bench --setup cifar_c --mixed_precision bf16", "overhaul bench --method kd", "overhaul bench data"),
        tables.step_table,
        json="whole",
    ),
    "setups": Command(
        "the settings of the paper and our own, as a table; setups NAME: the whole of one",
        ("overhaul setups", "overhaul setups cifar_c", "overhaul setups cifar_c --json"),
        tables.setups_text,
        json="whole",
    ),
    "models": Command(
        "the networks: our families with their arguments and sizes, and how all others are named",
        ("overhaul models", "overhaul models --json"),
        tables.families,
        json="whole",
    ),
    "methods": Command(
        "the methods: what each compares, what it learns, and its settings and weights in a setup",
        ("overhaul methods", "overhaul methods --setup imagenet_b", "overhaul methods --json"),
        methods.methods_text,
        json="whole",
    ),
    "inspect": Command(
        "the maps that a teacher and a student would be compared by, or those of one network",
        (
            "overhaul inspect --teacher timm/resnet50d.ra2_in1k --student timm:mobilenetv3_small_100",
            "overhaul inspect torchvision:mobilenet_v2 --image_size 32 --json",
        ),
        tables.inspected,
        json="whole",
    ),
    "demo": Command(
        "train a teacher, a student alone and a distilled one on handwritten digits",
        ("overhaul demo", "overhaul demo --output_dir out --epochs 3"),
        tables.demo_table,
    ),
}
BENCH_DATA = Command(
    "images a second of one core", ("overhaul bench data --imagenet imagenet",), tables.bench_table, json="whole"
)


def command(argv: list[str] | None = None) -> NoReturn:
    """Run a command as what this process is for."""
    leave(main(argv))


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 2, with one line of explanation, for whatever the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run(argv)
    except UserError as error:
        rank = launched_rank()
        message = printable(without_tokens(str(error)))
        print(f"overhaul{f' [process {rank}]' if rank else ''}: {message}", file=sys.stderr)
        return 2
    except Preempted as told:
        status = leave_status(told.together)
        if not launched_rank():
            print(f"overhaul: {told}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        print(f"overhaul: interrupted{how_to_go_on(argv)}", file=sys.stderr)
        return 130


def launched_rank() -> int:
    try:
        return launched("RANK")
    except UserError:  # which is told already
        return 0


def how_to_go_on(argv: list[str]) -> str:
    if argv[0] == "prepare":
        return "; the same command goes on with the files that are not whole"
    if argv[0] == "study":
        return "; its runs have saved, and the same command goes on with them"
    if argv[0] not in ("train", "demo"):
        return ""
    anew = " without --resume never --overwrite" if any(word.startswith("--overwrite") for word in argv) else ""
    return f"; the same command{anew} goes on from the last checkpoint"


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        listing = "\n".join(f"  {name:10}{command.words}" for name, command in COMMANDS.items())
        print(f"usage: overhaul COMMAND ...\n\n{listing}\n\n`overhaul COMMAND --help` says more.")
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("overhaul"))
        return 0
    name, *argv = argv
    choose("command", name, tuple(COMMANDS))
    if name == "bench" and argv and not argv[0].startswith("-"):
        choose("bench", argv[0], ("data",))
        return call("bench_data", "bench data", BENCH_DATA, argv[1:])
    if name in ("train", "study"):
        return {"train": train, "study": study}[name](argv)
    return call(name, name, COMMANDS[name], argv)


def asks_for_help(argv: list[str]) -> bool:
    return bool({"-h", "--help"} & {*argv[: argv.index("--") if "--" in argv else None]})


def train(argv: list[str]) -> int:
    if asks_for_help(argv):
        from overhaul.cli import help

        print(help.of_training(argv, *COMMANDS["train"][:2]))
        return 0
    with installed(stop_at_once):  # importing takes seconds, a last push takes minutes
        enlist()
        from overhaul import api
        from overhaul.cli.arguments import parse_training

        api.train(show=True, **parse_training(argv))
    return 0


def study(argv: list[str]) -> int:
    from overhaul.cli import study

    if asks_for_help(argv):
        print(study.helped(*COMMANDS["study"][:2]))
        return 0
    with installed(stop_at_once):
        return study.run(argv)


def call(function: str, name: str, command: Command, argv: list[str]) -> int:
    """Call a function of the API with the flags, and print what it returns, on the main process."""
    from overhaul import api
    from overhaul.cli.arguments import parse

    called, json_too = getattr(api, function), command.json is not None
    if asks_for_help(argv):
        from overhaul.cli import help

        print(help.of_command(called, name, command.words, command.examples, json_too))
        return 0
    values = parse(called, argv, name, json_too)
    as_json = values.pop("json", False)
    shown = {"show": True} if "show" in inspect.signature(called).parameters else {}
    with installed(stop_at_once) if name == "demo" else nullcontext():
        result = called(**shown, **values)
    if launched("RANK") == 0:
        lines = result if command.json == "lines" else [result]
        print("\n".join(map(json.dumps, lines)) if as_json else command.text(result, values))
    return 0
