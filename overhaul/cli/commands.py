"""The commands: a function of the API each, with words for the list of them, examples, and its result as text."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from overhaul.report import methods, tables, written


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
    "report": Command(
        "runs in tables, curves and a page: errors over the seeds, gains with their intervals, what it cost",
        (
            "overhaul report runs",
            "overhaul report runs/cifar_c-kd-seed0 USER/STUDENT --out tables",
            "overhaul report runs --watch",
            "overhaul report runs --with_data cifar100",
        ),
        written.reported,
        json="whole",
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
