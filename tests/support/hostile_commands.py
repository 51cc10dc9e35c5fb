"""Hostile inputs by way of the command line, YAML, values and the environment."""

import os
from pathlib import Path

from support.hostile import Case

TRAIN = ("train", "--setup", "digits_teacher", "--dry_run")
LEVELS = "".join(
    f"  {here}: &{here} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, here in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {  # what a --config file holds, and a part of the line
    "class_path": ("class_path: os.system\n", "unknown entry class_path"),
    "class_path of a network": ("student: {class_path: os.system}\n", "student.class_path is unknown"),
    "config": ("config: /etc/passwd\n", "unknown entry config"),
    "python's tags": ("lr: !!python/object/apply:os.system ['true']\n", "tags are not read"),
    "a tag that fits nothing": ("epochs: !!int ''\n", "tags are not read"),
    "aliases within aliases": (f"student:\n  a: &a [x, x]\n{LEVELS}", "aliases"),
    "a list in itself": ("lr_drops: &a [*a]\n", "aliases"),
    "names in themselves": ("student: &a {kwargs: *a}\n", "aliases"),
    "a merge with itself": ("student: &a {<<: *a}\n", "aliases"),
    "a date": ("lr: 2001-01-01\n", "lr takes a number, not '2001-01-01'"),
    "a date that is none": ("lr: 2001-13-41\n", "lr takes a number"),
    "base 60": ("epochs: 1:30\n", "takes a whole number, not '1:30'"),
    "base 8": ("epochs: 010\n", "takes a whole number, not '010'"),
    "base 16": ("epochs: 0x10\n", "takes a whole number, not '0x10'"),
    "underscores": ("epochs: 1_0\n", "takes a whole number, not '1_0'"),
    "yes": ("epochs: yes\n", "takes a whole number, not true"),
    "an exponent": ("epochs: 1e3\n", "takes a whole number"),
    "no finite number": ("lr: .nan\n", "--lr must be 0 or more and finite"),
    "a name twice": ("epochs: 1\nepochs: 2\n", "epochs stands there twice"),
    "a name in two ways": ("batch_size: 64\nbatch-size: 32\n", "batch_size twice"),
    "a name within and without": ("student: {kwargs: {depth: 10}}\nstudent.kwargs.depth: 16\n", "depth twice"),
    "a list for a name": ("? [a]\n: 2\n", "a name is a word"),
    "a number for a name": ("1: 2\n", "unknown entry 1"),
    "a tab": ("lr:\t0.1\n\tepochs: 1\n", "is not YAML"),
    "bytes": (bytes(range(256)), "is not YAML"),
    "NUL": (b"lr: 0\0.1", "is not YAML"),
    "depth": (f"lr: {'[' * 5000}{']' * 5000}", "nested too deeply"),
    "a number of 5000 digits": (f"epochs: {'9' * 5000}", "is not YAML"),
    "two documents": ("lr: 1\n---\nlr: 2\n", "is not YAML"),
    "NUL in a text": ('output_dir: "a\\0b"\n', "without NUL"),
    "half a letter in a text": ('output_dir: "\\ud800"\n', "UTF-8"),
    "a terminal's words": ('"\\e[2Jx": 1\n', "unknown entry"),
}
FLAGS = {  # the words of a training, and a part of the line
    "lr nan": ("--lr=nan", "--lr takes a number"),
    "momentum above 1": ("--momentum=5", "at most 1"),
    "epochs beyond all": (f"--epochs=1{'0' * 30}", "at most 1,000,000"),
    "epochs with underscores": ("--epochs=1_000", "takes a whole number"),
    "epochs in another script": ("--epochs=１２", "takes a whole number"),
    "epochs true": ("--epochs=true", "takes a whole number"),
    "batch_size beyond all": ("--batch_size=1000000000", "at most 1,000,000"),
    "image_size beyond all": ("--image_size=1000000", "at most 10,000"),
    "image_size beyond the memory": ("--image_size=10000", "this machine has"),
    "pad beyond all": ("--pad=1000000", "at most 10,000"),
    "pad beyond the memory": ("--pad=9000", "this machine has"),
    "num_classes beyond all": ("--num_classes=1000000000", "at most 1,000,000"),
    "workers beyond all": ("--workers=100000", "at most 1,000"),
    "mean of two": ("--mean=[0.5, 0.5]", "three numbers"),
    "mean nan": ("--mean=[.nan, 0, 0]", "three numbers"),
    "std 0": ("--std=[0, 1, 1]", "--std must be above 0"),
    "seed beyond all": (f"--seed={2**32}", "--seed must be between"),
    "minutes of no end": ("--checkpoint_minutes=1e400", "--checkpoint_minutes must be above 0"),
    "a student beyond the memory": ("--student.kwargs.depth=304", "--student.kwargs.width=64", "this machine has"),
    "depth beyond all": ("--student.kwargs.depth=1000000006", "depth"),
    "width of text": ("--student.kwargs.width=x", "takes a whole number"),
    "a setting of no name": ("--method.=1", "unknown flag"),
    "a folder with NUL": ("--output_dir=a\0b", "without NUL"),
    "a folder of odd bytes": ("--output_dir=\udcff", "UTF-8"),
    "a folder with a long name": (f"--output_dir={'a' * 300}", "no longer than"),
    "a folder of a long path": (f"--output_dir={'a/' * 3000}", "no longer than"),
    "a folder of nobody's": ("--output_dir=~nobody-of-that-name/run", "the home of no user"),
    "images of nobody's": ("--data_path=~nobody-of-that-name", "the home of no user"),
    "class names with NUL": ("--class_names=a\0b", "without NUL"),
    "a run beside with a long name": (f"--beside={'a' * 300}", "no longer than"),
    "the last of two flags": ("--lr=1", "--lr=x", "takes a number, not 'x'"),
    "words that stand alone": ("--", "--lr", "unknown argument --lr"),
    "an empty word": ("", "unknown argument"),
    "a flag of 100,000 letters": (f"--{'x' * 100_000}", "unknown flag"),
}
PAIR = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
ENVIRONMENT = {
    "RANK of words": ({"RANK": "x"}, "RANK in the environment"),
    "RANK below 0": ({"RANK": "-1"}, "RANK in the environment"),
    "LOCAL_RANK of words": ({"LOCAL_RANK": "x"}, "LOCAL_RANK in the environment"),
    "LOCAL_RANK of more": ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3"),
    "WORLD_SIZE of words": ({"WORLD_SIZE": "x"}, "WORLD_SIZE in the environment"),
    "WORLD_SIZE 0": ({"WORLD_SIZE": "0"}, "is of 0 processes"),
    "no address": ({**PAIR, "MASTER_ADDR": None}, "MASTER_ADDR"),
    "no port": ({**PAIR, "MASTER_PORT": None}, "MASTER_PORT"),
    "a port of words": ({**PAIR, "MASTER_PORT": "x"}, "MASTER_PORT"),
    "a port beyond all": ({**PAIR, "MASTER_PORT": "99999999"}, "is no port"),
    "fp8": ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "ACCELERATE_MIXED_PRECISION"),
    "dynamo": ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "--compile is what compiles"),
    "DeepSpeed": ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED"),
    "FSDP": ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP"),
    "Megatron": ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "ACCELERATE_USE_MEGATRON_LM"),
    "a level of no log": ({"ACCELERATE_LOG_LEVEL": "zzz"}, "is no level"),
    "a device of no machine": ({"ACCELERATE_TORCH_DEVICE": "zzz"}, "ACCELERATE_TORCH_DEVICE"),
}


def written(content: str | bytes):
    def make(folder: Path) -> None:
        (folder / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def sparse(folder: Path) -> None:
    with (folder / "c.yaml").open("wb") as file:
        file.truncate(2**30)


def config_case(name: str, file: str, says: str, make=lambda folder: None) -> Case:
    return Case(f"--config: {name}", (*TRAIN, "--config", file), says, make)


CONFIG, CLASS_PATH = (written(YAML[name][0]) for name in ("config", "class_path of a network"))
CASES = [
    *(config_case(name, "c.yaml", says, written(content)) for name, (content, says) in YAML.items()),
    config_case("a pipe", "pipe", "no such file", lambda folder: os.mkfifo(folder / "pipe")),
    config_case("a GiB", "c.yaml", "are the most", sparse),
    config_case("a device", "/dev/zero", "no such file"),
    config_case("a folder", ".", "no such file"),
    config_case("NUL in its name", "a\0b", "without NUL"),
    config_case("a long name", "a" * 5000, "no longer than"),
    *(Case(f"train: {name}", (*TRAIN, *words), says) for name, (*words, says) in FLAGS.items()),
    *(Case(f"environment: {name}", TRAIN, says, environment=values) for name, (values, says) in ENVIRONMENT.items()),
    Case("evaluate: of nobody's", ("evaluate", "~nobody-of-that-name", "--data", "digits"), "the home of no user"),
    Case("predict: an image with NUL", ("predict", "x", "a\0b"), "without NUL"),
    Case("predict: a long name", ("predict", "x" * 300, "y.png"), "no longer than"),
    Case("bench: steps beyond all", ("bench", "--steps", "1" + "0" * 5000), "takes a whole number"),
    Case("bench data: seconds of no end", ("bench", "data", "--seconds", "1e400"), "--seconds must be above 0"),
    Case("inspect: no size", ("inspect", "torchvision:resnet18", "--image_size", "-5"), "image_size"),
    Case("inspect: a size beyond all", ("inspect", "torchvision:resnet18", "--image_size", "1" + "0" * 30), "at most"),
    Case("inspect: a key of no source", ("inspect", "--setup", "digits", "--key", "ema"), "--key goes with SOURCE"),
    Case("study: config", ("study", "--out", "s", "--config", "c.yaml"), "config (did you mean data_config?)", CONFIG),
    Case("study: class_path", ("study", "--out", "s", "--config", "c.yaml"), "c.yaml: student.class_path", CLASS_PATH),
    Case("no command", ("",), "command"),
]
