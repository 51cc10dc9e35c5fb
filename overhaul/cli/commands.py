"""The subcommands of `overhaul`, one thin function each."""

import argparse
import json
import os
from pathlib import Path

from overhaul.system.messages import choose
from overhaul.system.preemption import listening, stop

COMMANDS = {
    "train": "train a setup: distil a student, train it alone, or train a teacher",
    "evaluate": "top-1 and top-5 accuracy of a run, a checkpoint file or a Hub model",
    "predict": "the most probable classes of image files",
    "pull": "copy a student from the Hub into a folder",
    "push": "send a run's student to the Hub, with its model card",
    "export": "write a bare student as safetensors, pt2 or ONNX",
    "prepare": "read a data set once and write it as sharded parquet",
    "bench": "where a training step goes, and how near it comes to the machine's best; bench data: the images",
    "setups": "the settings of the paper and our own, as a table",
    "demo": "train a teacher, a student alone and a distilled one on handwritten digits",
}

SOURCE = "a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub"

BENCH_DATA = "training images a second of one core"


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def train(argv: list[str]) -> int:
    from overhaul.cli.arguments import parse_training

    setup, run = parse_training(argv)
    with listening(stop):  # importing takes seconds, a last push takes minutes
        from overhaul.training.trainer import train

        train(setup, run)
    return 0


def evaluate(argv: list[str]) -> int:
    parser = parser_of("evaluate")
    parser.add_argument("source", help=SOURCE)
    parser.add_argument("--data", required=True, help="cifar10, cifar100, imagenet, digits, a Hub id or a folder")
    parser.add_argument("--data_path", help="a local copy of the data set")
    parser.add_argument("--image_column", help="the column of the images, where it is not found")
    parser.add_argument("--label_column", help="the column of the labels, where it is not found")
    parser.add_argument("--class_names", help="a text file with one class name a line")
    parser.add_argument("--mixed_precision", help="no, bf16 or fp16")
    parser.add_argument("--workers", type=int, help="processes that decode images; the machine's cores unless named")
    parser.add_argument("--skip_broken", type=int, default=0, help="how many broken images may be left out")
    parser.add_argument("--setup", help="whose image size, mean and std to use where the source does not say them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = vars(parser.parse_args(argv))
    source, data, like, as_json = (options.pop(name) for name in ("source", "data", "setup", "json"))
    from overhaul.options import Run
    from overhaul.training.build import evaluate_source

    result = evaluate_source(source, data, Run(**options), like)
    if rank() != 0:
        return 0
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{source}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % of {result['images']:,} images")
    return 0


def predict(argv: list[str]) -> int:
    parser = parser_of("predict")
    parser.add_argument("source", help=SOURCE)
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show")
    parser.add_argument("--setup", help="whose image size, mean and std to use where the source does not say them")
    parser.add_argument("--json", action="store_true", help="print a JSON object an image")
    options = parser.parse_args(argv)
    from overhaul.setups import get
    from overhaul.training.predict import predict

    like = get(options.setup) if options.setup else None
    for answer in predict(options.source, options.images, options.top, like):
        shown = ", ".join(f"{name} {100 * share:.2f} %" for name, share in answer["classes"])
        print(json.dumps(answer) if options.json else f"{answer['image']}: {shown}")
    return 0


def pull(argv: list[str]) -> int:
    parser = parser_of("pull")
    parser.add_argument("source", help="USER/REPO[@REVISION] on the Hub")
    parser.add_argument("--out", required=True, help="the folder to make")
    options = parser.parse_args(argv)
    from overhaul.hub import weights as hub

    print(hub.pull(options.source, options.out))
    return 0


def push(argv: list[str]) -> int:
    parser = parser_of("push")
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("repo", help="USER/REPO on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is not there yet")
    parser.add_argument("--best", action="store_true", help="the student of the best epoch in place of the final one")
    options = parser.parse_args(argv)
    from overhaul.hub import publish

    print(f"pushed: {publish.push(options.run, options.repo, options.private, options.best)}")
    return 0


def export(argv: list[str]) -> int:
    parser = parser_of("export")
    parser.add_argument("source", help=SOURCE)
    parser.add_argument("--format", required=True, help="safetensors, pt2 (torch.export) or onnx")
    parser.add_argument("--out", required=True, help="the file to write")
    options = parser.parse_args(argv)
    from overhaul.hub.export import export

    print(export(options.source, options.format, options.out))
    return 0


def prepare(argv: list[str]) -> int:
    parser = parser_of("prepare")
    parser.add_argument("--data", required=True, help="imagenet, cifar10, cifar100, a Hub id or a folder")
    parser.add_argument("--data_path", help="a local copy of the data set, in any form that training takes")
    parser.add_argument("--out", required=True, help="the folder to write to; training takes it as --data_path")
    parser.add_argument("--num_classes", type=int, help="where the labels are plain numbers")
    parser.add_argument("--short_side", type=int, help="make larger images smaller: JPEGs of this short side in pixels")
    parser.add_argument("--quality", type=int, default=90, help="of those JPEGs, 1 to 100")
    parser.add_argument("--image_column", help="the column of the images, where it is not found")
    parser.add_argument("--label_column", help="the column of the labels, where it is not found")
    parser.add_argument("--class_names", help="a text file with one class name a line")
    parser.add_argument("--workers", type=int, help="images prepared side by side; the machine's cores unless named")
    parser.add_argument("--skip_broken", type=int, default=0, help="how many broken images may be left out")
    options = vars(parser.parse_args(argv))
    data, out, *how = (options.pop(name) for name in ("data", "out", "num_classes", "short_side", "quality"))
    from overhaul.data.prepare import Preparation
    from overhaul.options import Run

    print(Preparation(data, Run(**options), out, *how).write())
    return 0


def bench(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-"):
        choose("bench", argv[0], ("data",))
        return bench_data(argv[1:])
    parser = parser_of("bench")
    parser.add_argument("--setup", default="cifar_c", help="whose networks and batch size")
    parser.add_argument("--mixed_precision", default="no", help="no, bf16 or fp16")
    parser.add_argument("--compile", nargs="?", const="default", default="no", help="no, default or max")
    parser.add_argument("--batch_size", type=int, help="in place of the setup's own")
    parser.add_argument("--steps", type=int, default=10, help="how many steps are timed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, not {options.steps}")
    from overhaul.options import Run

    run = Run(mixed_precision=options.mixed_precision, compile=options.compile)
    from overhaul.bench import bench
    from overhaul.report.tables import step_table

    result = bench(options.setup, run, options.batch_size, options.steps)
    print(json.dumps(result) if options.json else step_table(result))
    return 0


def bench_data(argv: list[str]) -> int:
    parser = parser_of("bench data")
    parser.add_argument("--imagenet", help="a local copy of ImageNet or a part of it; synthetic JPEGs without one")
    parser.add_argument("--cifar100", help="a local copy of CIFAR-100; synthetic images without one")
    parser.add_argument("--seconds", type=float, default=20, help="how long each of the two is measured")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not 0 < options.seconds < 1e6:
        raise ValueError(f"--seconds must be above 0, not {options.seconds}")
    from overhaul.data.bench import bench_data
    from overhaul.report.tables import bench_table

    lines = bench_data(options.imagenet, options.cifar100, options.seconds)
    print(json.dumps(lines) if options.json else bench_table(lines))
    return 0


def setups(argv: list[str]) -> int:
    parser_of("setups").parse_args(argv)
    from overhaul.report.tables import setups_table

    print(setups_table())
    return 0


def demo(argv: list[str]) -> int:
    parser = parser_of("demo")
    parser.add_argument("--output_dir", default="runs", help="the folder of the three runs")
    parser.add_argument("--epochs", type=int, help="of each run, in place of its own")
    options = parser.parse_args(argv)
    from overhaul.cli.demo import demo

    print(demo(Path(options.output_dir), options.epochs))
    return 0


def parser_of(command: str) -> argparse.ArgumentParser:
    return Parser(prog=f"overhaul {command}", description=COMMANDS.get(command, BENCH_DATA), allow_abbrev=False)


class Parser(argparse.ArgumentParser):
    """Errors as one line, with the nearest flag where one is unknown."""

    def error(self, message: str) -> None:
        from overhaul.cli.arguments import explain

        raise ValueError(explain(message, self))
