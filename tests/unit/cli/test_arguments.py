"""Flags and YAML: what they mean, and one plain line for every value that they do not take."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from overhaul import api
from overhaul.cli.arguments import parse, parse_training
from overhaul.cli.commands import COMMANDS
from overhaul.cli.flags import flags_of, training_flags
from overhaul.recipe import Net
from overhaul.setups import get, settings
from overhaul.system.messages import UserError

WRONG = ("x", "-1", "2.5", "[]", "[a]", "{}", '{"a": 1}', '{"a":', "null", "1e400", "", "a\nb", "yes", "9" * 5000)
INSIDE = re.compile(
    r"Parser|NestedArg|Union|Literal|Namespace|<class|NoneType|typing|Traceback|Expected|dict|tuple|\bstr\b"
)
FLAGS = [*training_flags().kinds, "student.kwargs.depth", "teacher.kwargs.bottleneck"]


def refusal(call, *arguments) -> str | None:
    """What is said of wrong arguments, or nothing of what may be right."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    except SystemExit:  # --print_config
        return None
    return None


def recipe(*argv: str):
    values = parse_training(list(argv))
    return settings(values.pop("setup"), values)[0]


@pytest.mark.parametrize("name", FLAGS)
def test_a_wrong_value_of_a_flag_of_train_is_one_plain_line(name):
    for value in WRONG:
        said = refusal(parse_training, ["--setup", "cifar_c", f"--{name}={value}"])
        if said is not None and name not in ("setup", "config"):
            assert said.startswith(f"--{name}") and not INSIDE.search(said.replace(value[:9], "")), said
            assert re.search(r" takes (a|one|two|three|true|numbers|names)\b|is not known|is unknown", said), said
            assert len(said) < 400
    said = refusal(parse_training, ["--setup", "cifar_c", f"--{name}"])
    assert said is None or said.startswith(f"--{name} needs a value: ")


@pytest.mark.parametrize("command", [*sorted({*COMMANDS} - {"train"}), "bench_data"])
def test_a_wrong_value_of_a_flag_of_another_command_is_one_plain_line(command):
    function = getattr(api, command)
    for name in flags_of(function):
        for value in WRONG:
            said = refusal(parse, function, ["a", "b", f"--{name}={value}"], command, False)
            assert not said or not INSIDE.search(said.replace(value[:9], "")), said
            assert not said or said.startswith(f"--{name}") or "unknown argument" in said or " needs " in said, said
    assert refusal(parse, api.evaluate, ["a", "--data", "b", "--workers", "x"], "evaluate", True) == (
        "--workers takes a whole number, not 'x'"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no settings"),
        ("- a", "holds no settings"),
        ("7", "holds no settings"),
        ("lr: fast", ": lr takes a number, not 'fast'"),
        ("momentum:", ": momentum takes a number, not null"),
        ("epochs: 2.5", ": epochs takes a whole number, not 2.5"),
        ("epochs: true", ": epochs takes a whole number, not true"),
        ("mean: [1, 2]", ": mean takes three numbers in brackets"),
        ("lr_drops: 0.5", ": lr_drops takes numbers in brackets"),
        ("nesterov: 1", ": nesterov takes true or false, not 1"),
        ("compile: on", ": compile: 'true' is not known"),
        ("data: [a]", ": data takes a text, not [a]"),
        ("student: [a]", ": student takes a run's folder"),
        ("student:", ": student takes a run's folder"),
        ("student: {family: 3}", ": student.family takes a text, not 3"),
        ("teacher: {famly: resnet}", ": teacher.famly is unknown (did you mean teacher.family?)"),
        (
            "teacher: {kwargs: {depth: }}",
            ": teacher.kwargs.depth takes a whole number, or true or false, or a number, or",
        ),
        ("teacher: {positions: layer1}", ": teacher.positions takes names of modules in brackets"),
        ("teacher: {positions: []}", ": teacher.positions takes names of modules in brackets"),
        ("teacher: {kwargs: [1]}", ": teacher.kwargs takes names and values"),
        ("student: {class_path: os.system}", ": student.class_path is unknown"),
        ("config: other.yaml", "has the unknown entry config"),
        ("3: 4", "has the unknown entry 3"),
        ("learning_rate: 3", "has the unknown entry learning_rate"),
    ],
)
def test_a_wrong_entry_of_yaml_is_one_plain_line(tmp_path, text, words):
    (tmp_path / "run.yaml").write_text(text)
    said = refusal(parse_training, ["--setup", "cifar_c", "--config", str(tmp_path / "run.yaml")])
    assert said and said.startswith("--config ") and words in said and not INSIDE.search(said), said


def test_dashes_and_underscores_are_the_same_in_the_names_of_flags_and_entries(tmp_path):
    assert recipe("--setup", "cifar_c", "--batch-size", "64", "--lr-drops=[0.3]") == recipe(
        "--setup", "cifar_c", "--batch_size", "64", "--lr_drops", "[0.3]"
    )
    assert parse_training(["--setup=cifar_c", "--dry-run"])["dry_run"] is True
    (tmp_path / "run.yaml").write_text("batch-size: 64\n")
    assert recipe("--setup", "cifar_c", "--config", str(tmp_path / "run.yaml")).batch_size == 64
    assert parse(api.evaluate, ["a", "--data", "b", "--skip-broken", "3"], "evaluate", True)["skip_broken"] == 3


def test_another_family_keeps_no_arguments_of_the_rows_but_those_that_are_named(tmp_path):
    def student(*argv) -> tuple:
        net = recipe("--setup", "cifar_c", *argv).student
        return net.family, net.kwargs

    fresh = ("cifar_resnet", {"num_classes": 100, "depth": 20})
    assert student("--student.family", "cifar_resnet", "--student.kwargs.depth", "20") == fresh
    assert student("--student.kwargs.depth", "20", "--student.family=cifar_resnet") == fresh
    assert student("--student", '{"family": "cifar_resnet", "kwargs": {"depth": 20}}') == fresh
    (tmp_path / "run.yaml").write_text("setup: cifar_c\nstudent:\n  family: cifar_resnet\n  kwargs: {depth: 20}\n")
    assert student("--config", str(tmp_path / "run.yaml")) == fresh
    assert student("--config", str(tmp_path / "run.yaml"), "--student.kwargs.depth", "32")[1]["depth"] == 32
    assert student("--config", str(tmp_path / "run.yaml"), "--student.family", "mobilenet") == (
        "mobilenet",
        {"num_classes": 100},
    )
    same = student("--student.family", "wide_resnet", "--student.kwargs.depth", "40")
    assert same == ("wide_resnet", {"depth": 40, "width": 2, "num_classes": 100})


def test_a_teacher_of_another_family_has_not_the_rows_weights_either():
    teacher = recipe("--setup", "imagenet_a", "--teacher.family", "mobilenet").teacher
    assert (teacher.family, teacher.kwargs, teacher.weights) == ("mobilenet", {"num_classes": 1000}, None)
    teacher = recipe("--setup", "imagenet_a", "--teacher.family", "mobilenet", "--teacher", "me/teacher").teacher
    assert (teacher.family, teacher.weights) == ("mobilenet", "me/teacher")
    assert recipe("--setup", "imagenet_a", "--teacher.family", "resnet").teacher == get("imagenet_a").teacher


@pytest.mark.parametrize(
    ("said", "setup", "student", "teacher"),
    [
        (
            "--data_path d --teacher timm/efficientnet_b3.ra2_in1k --student timm:mobilenetv3_small_100",
            "own",
            Net(family="timm:mobilenetv3_small_100"),
            Net(weights="timm/efficientnet_b3.ra2_in1k"),
        ),
        (
            "--setup cifar_c --teacher USER/WRN28-4 --student torchvision:mobilenet_v2",
            "cifar_c",
            Net(family="torchvision:mobilenet_v2", kwargs={"num_classes": 100}),
            replace(get("cifar_c").teacher, weights="USER/WRN28-4"),
        ),
        (
            "--setup own_teacher --data_path d --student timm/efficientnet_b3.ra2_in1k",
            "own_teacher",
            Net(weights="timm/efficientnet_b3.ra2_in1k"),
            None,
        ),
        (
            "--data_path d --teacher torchvision:resnet50@DEFAULT --student my_net.py:make --student.kwargs.width 0.5",
            "own",
            Net(family="my_net.py:make", kwargs={"width": 0.5}),
            Net(family="torchvision:resnet50", weights="torchvision:resnet50@DEFAULT"),
        ),
        (
            "--data_path d --teacher timm:resnet18 --teacher.weights a/b --student.family timm:resnet18 "
            "--student.kwargs.act_layer silu --student.kwargs.drop_rate 0.1 --teacher.image_size 64",
            "own",
            Net(family="timm:resnet18", kwargs={"act_layer": "silu", "drop_rate": 0.1}),
            Net(family="timm:resnet18", weights="a/b", image_size=64),
        ),
        (
            "--setup imagenet_a --teacher.family my_net.py:make --teacher.weights a/b",
            "imagenet_a",
            get("imagenet_a").student,
            Net(family="my_net.py:make", weights="a/b", kwargs={"num_classes": 1000}),
        ),
    ],
)
def test_what_a_user_can_say_of_networks(tmp_path, capsys, said, setup, student, teacher):
    """As flags, as YAML that they are printed as, and in Python."""
    found = recipe(*said.split())
    assert (found.name, found.student, found.teacher) == (setup, student, teacher)
    with pytest.raises(SystemExit):
        parse_training([*said.split(), "--print_config"])
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    assert recipe("--config", str(tmp_path / "run.yaml")) == found


def test_networks_named_in_a_word_in_python():
    for name, setup in (("cifar_c", get("cifar_c")), ("own", get("own"))):
        changed, _ = settings(name, {"student": "timm:resnet18", "teacher": "USER/TEACHER"})
        assert changed.student.family == "timm:resnet18" and not {*changed.student.kwargs} - {"num_classes"}
        assert changed.teacher == replace(setup.teacher, weights="USER/TEACHER")
    changed, _ = settings("cifar_c", {"student": Path("nets") / "my_net.py:make", "teacher": "USER/TEACHER"})
    assert changed.student.family == "nets/my_net.py:make"
    whole = Net(family="timm:resnet18", positions=("layer1", "layer2"))
    assert settings("cifar_c", {"student": whole, "teacher": "a/b"})[0].student == whole


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[layer1, layer2.0.relu#2]", ("layer1", "layer2.0.relu#2")),
        ("[4, 0.10, 1e3, no, layer1:in]", ("4", "0.10", "1e3", "no", "layer1:in")),
        ("['a', \"b.c\"]", ("a", "b.c")),
    ],
)
def test_names_of_modules_stay_texts(tmp_path, text, names):
    (tmp_path / "run.yaml").write_text(f"student:\n  family: timm:resnet18\n  positions: {text}\n")
    (tmp_path / "flat.yaml").write_text(f"teacher.positions: {text}\nstudent: timm:resnet18\n")
    assert recipe("--student", "timm:resnet18", "--student.positions", text).student.positions == names
    assert recipe("--config", str(tmp_path / "run.yaml")).student.positions == names
    assert recipe("--config", str(tmp_path / "flat.yaml")).teacher.positions == names


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("--student.positions layer1", '--student.positions takes names of modules in brackets, as in "[layer1, '),
        ("--student.positions [a,,b]", "takes names of modules in brackets"),
        ("--student.positions [a,b,a]", "--student.positions has a twice"),
        ("--teacher.image_size 0", "--teacher.image_size must be at least 1, not 0"),
        ("--student.image_size 32", "the student sees images of --image_size"),
        ("--teacher_norm moving", "--teacher_norm: 'moving' is not known (did you mean running?); it is one of batch"),
        ("--student.kwargs.pretrained true", "--student.kwargs.pretrained is no argument of a fresh network"),
        ("--student.kwargs.width 1e400", "--student.kwargs.width must be true or false, a number up to"),
        ("--student.weights timm:resnet18", "names a network, not its weights; name them: --student timm/resnet18.TAG"),
        ("--student.family torchvision:resnet18@DEFAULT", "say --student torchvision:resnet18@DEFAULT"),
        ("--student tim:resnet18", "a network is named timm:NAME, torchvision:NAME or FILE.py:FUNCTION"),
        ("--student.family tim:resnet18", "a network is named timm:NAME, torchvision:NAME or FILE.py:FUNCTION"),
        ("--student timm:resnet18.a1_in1k", "say timm/resnet18.a1_in1k"),
        ("--student my_net.py", "FILE.py:FUNCTION"),
    ],
)
def test_what_is_wrong_with_a_network_is_said_at_once(said, words):
    assert words in refusal(recipe, "--data_path", "d", "--student", "timm:resnet18", *said.split())


def test_a_row_for_images_of_ones_own_says_what_it_needs():
    for named, words in (
        ({}, "--setup own needs a student: --student timm:NAME"),
        ({"student": "timm:resnet18"}, "--setup own needs images: --data_path FOLDER"),
        ({"setup": "own_teacher", "data_path": "d"}, "--setup own_teacher needs a student"),
    ):
        with pytest.raises(UserError, match=words):
            api.train(**named)
    assert "or a student with --student" in refusal(parse_training, ["--data_path", "d"])


def test_flags_and_files_count_in_the_order_in_which_they_stand(tmp_path):
    (tmp_path / "run.yaml").write_text("epochs: 7\n")
    file = ("--config", str(tmp_path / "run.yaml"))
    assert recipe("--setup", "cifar_c", "--epochs", "9", *file).epochs == 7
    assert recipe("--setup", "cifar_c", *file, "--epochs", "9").epochs == 9
    assert recipe("--setup", "cifar_c", *file, *file, "--epochs", "9", "--epochs", "10").epochs == 10


@pytest.mark.parametrize("setup", ["cifar_teacher_wrn", "imagenet_a", "digits", "own", "own_teacher"])
def test_the_printed_settings_are_those_of_the_run(tmp_path, capsys, setup):
    with pytest.raises(SystemExit):
        parse_training(["--setup", setup, "--seed", "4", "--print-config"])
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    given, plain = parse_training(["--config", str(tmp_path / "run.yaml")]), {"setup": setup, "seed": 4}
    assert settings(given.pop("setup"), given) == settings(plain.pop("setup"), plain)
