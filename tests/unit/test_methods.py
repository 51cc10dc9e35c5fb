"""What is asked of methods, by flags, YAML and Python: names, sums, settings and weights; and what is usual."""

from dataclasses import replace

import pytest
from support.methods import NAMES, flags
from support.runs import command, refused

from overhaul import catalogue, methods
from overhaul.cli.arguments import parse_training
from overhaul.recipe import Setup
from overhaul.setups import SETUPS, settings
from overhaul.system.messages import UserError

OF_METHOD = ("method_settings", "label_weight", "distill_weight", "ramp_epochs", "teacher_norm")


def setup_of(row: str, said: str = "", **changes) -> Setup:
    """A row with flags, or with changes as in Python."""
    values = parse_training(["--setup", row, "--teacher", "me/teacher", *said.split()])
    return settings(values.pop("setup"), {**values, **changes})[0]


def of_method(row: str, said: str = "", **changes) -> tuple:
    return tuple(getattr(setup_of(row, said, **changes), name) for name in OF_METHOD)


KD = {"temperature": 4.0, "standardize": False}
DKD = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}


@pytest.mark.parametrize(
    ("row", "said", "expected"),
    [
        ("cifar_c", "", ({}, 1, 1e-3, 0, "batch")),
        ("imagenet_b", "", ({}, 1, 1e-4, 0, "batch")),
        ("cifar_c", "--method kd", ({"kd": KD}, 0.1, 0.9, 0, "running")),
        ("imagenet_a", "--method kd", ({"kd": {**KD, "temperature": 1}}, 0.5, 0.5, 0, "running")),
        ("own --student timm:resnet18 --data_path d", "--method kd --distill_weight 3",
         ({"kd": {**KD, "temperature": 1}}, 0.5, 3, 0, "running")),
        ("cifar_c", "--method kd --method.standardize",
         ({"kd": {"temperature": 2, "standardize": True}}, 0.1, 9, 0, "running")),
        ("imagenet_a", "--method kd --method.standardize --method.temperature 3",
         ({"kd": {"temperature": 3, "standardize": True}}, 0.5, 9, 0, "running")),
        ("cifar_c", "--method dkd", ({"dkd": DKD}, 1, 1, 20, "running")),
        ("imagenet_a", "--method dkd --method.dkd.alpha 2",
         ({"dkd": {"alpha": 2, "beta": 0.5, "temperature": 1}}, 1, 1, 0, "running")),
        ("imagenet_b", "--method dkd", ({"dkd": {"alpha": 1, "beta": 2, "temperature": 1}}, 1, 1, 0, "running")),
        ("imagenet_b", "--method reviewkd", ({}, 1, 8, 0, "running")),
        ("imagenet_a", "--method fitnets", ({"fitnets": {"stage": 2}}, 1, 100, 0, "running")),
        ("imagenet_a", "--method sp --distill_weight 50", ({}, 1, 50, 0, "running")),
        ("cifar_c", "--method overhaul+kd",
         ({"kd": KD}, 0.1, {"overhaul": 1e-3, "kd": 0.9}, {"overhaul": 0, "kd": 0},
          {"overhaul": "batch", "kd": "running"})),
        ("cifar_c", "--method kd+dkd --distill_weight.dkd 7 --method.kd.temperature 3 --ramp_epochs 5",
         ({"kd": {**KD, "temperature": 3}, "dkd": DKD}, 0.1, {"kd": 0.9, "dkd": 7}, 5, "running")),
        ("cifar_c", "--method kd+dkd --label_weight 1 --ramp_epochs.kd 5 --teacher_norm.kd batch",
         ({"kd": KD, "dkd": DKD}, 1, {"kd": 0.9, "dkd": 1}, {"kd": 5, "dkd": 20}, {"kd": "batch", "dkd": "running"})),
        ("cifar_c", "--method overhaul+at --teacher_norm running",
         ({}, 1, {"overhaul": 1e-3, "at": 1000}, {"overhaul": 0, "at": 0}, "running")),
        ("cifar_c", "--method at --distill_weight.at 5", ({}, 1, 5, 0, "running")),
    ],
)  # fmt: skip
def test_what_is_usual_and_what_is_named(row, said, expected):
    row, _, more = row.partition(" ")
    settings_of, *others = of_method(row, f"{more} {said}")
    assert ({name: each for name, each in settings_of.items() if each}, *others) == expected


@pytest.mark.parametrize(
    "said",
    [
        "--method kd",
        "--method overhaul+kd",
        "--method dkd --label_weight 0.5 --epochs 3",
        "--method kd+dist --method.kd.standardize --ramp_epochs.dist 3",
        "--method original",
    ],
)
def test_the_printed_settings_are_those_of_the_run(tmp_path, capsys, said):
    """With all values of the method."""
    teacher = [] if "original" in said else ["--teacher", "me/teacher"]
    with pytest.raises(SystemExit):
        parse_training(["--setup", "cifar_c", *said.split(), *teacher, "--print_config"])
    printed = capsys.readouterr().out
    assert ("method.temperature: 4.0" in printed) == ("dkd" in said or said == "--method kd")
    (tmp_path / "run.yaml").write_text(printed)
    values, plain = (
        parse_training(each)
        for each in (["--config", str(tmp_path / "run.yaml")], ["--setup", "cifar_c", *said.split(), *teacher])
    )
    assert settings(values.pop("setup"), values) == settings(plain.pop("setup"), plain)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: kd\nmethod.temperature: 2\nmethod.standardize: true",
         "--method kd --method.temperature 2 --method.standardize"),
        ("method: overhaul+kd\ndistill_weight: {kd: 2}\nmethod.kd.temperature: 3",
         "--method overhaul+kd --distill_weight.kd 2 --method.temperature 3"),
        ("method: kd+dkd\nramp_epochs: {kd: 2, dkd: 3}\nteacher_norm.kd: batch",
         "--method kd+dkd --ramp_epochs.kd 2 --ramp_epochs.dkd 3 --teacher_norm.kd batch"),
    ],
)  # fmt: skip
def test_yaml_and_flags_say_the_same(tmp_path, text, said):
    (tmp_path / "run.yaml").write_text(text)
    assert setup_of("cifar_c", f"--config {tmp_path / 'run.yaml'}") == setup_of("cifar_c", said)


def test_a_file_of_another_method_says_nothing_of_this_one(tmp_path, capsys):
    """But what names no method is of whichever there is."""
    said = ["--setup", "cifar_c", "--method", "kd", "--method.temperature", "3", "--epochs", "7"]
    with pytest.raises(SystemExit):
        parse_training([*said, "--print_config"])
    (tmp_path / "kd.yaml").write_text(capsys.readouterr().out)
    (tmp_path / "weight.yaml").write_text("distill_weight: 5\n")
    of_kd, weight = (f"--config {tmp_path / name}" for name in ("kd.yaml", "weight.yaml"))
    assert of_method("cifar_c", f"{of_kd} --method dkd") == of_method("cifar_c", "--method dkd")
    assert setup_of("cifar_c", f"{of_kd} --method dkd").epochs == 7
    assert setup_of("cifar_c", f"{of_kd} --method kd") == setup_of("cifar_c", of_kd)
    assert setup_of("cifar_c", f"--method at --distill_weight 2 {of_kd}") == setup_of("cifar_c", of_kd)
    assert setup_of("cifar_c", f"{of_kd} {weight} --method at").distill_weight == 5


def test_settings_in_python():
    for given in ({"temperature": 2}, {"kd.temperature": 2.0}, {"kd": {"temperature": 2}}):
        assert setup_of("cifar_c", method="kd", method_settings=given) == setup_of(
            "cifar_c", "--method kd --method.temperature 2"
        )
    both = {"kd": {"temperature": 2}, "dkd": {"temperature": 3, "beta": 1}}
    found = setup_of("cifar_c", method="kd+dkd", method_settings=both, distill_weight={"kd": 2})
    assert found.method_settings == {"kd": {**KD, "temperature": 2}, "dkd": {**DKD, "temperature": 3, "beta": 1}}
    assert found.distill_weight == {"kd": 2, "dkd": 1}
    assert settings(found, {"epochs": 3})[0] == replace(found, epochs=3), "a setup that is whole stays so"
    wrong = {"temprature": (2, "did you mean temperature"), "temperature": ("2", "takes a number")}
    for name, (value, words) in {**wrong, "standardize": (1, "takes true or false")}.items():
        with pytest.raises(UserError, match=words):
            setup_of("cifar_c", method="kd", method_settings={name: value})
    with pytest.raises(UserError, match="a whole number"):
        setup_of("cifar_c", method="fitnets", method_settings={"stage": 1.5})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": ["overhaul", "kd"]}, "--method takes a name"),
        ({"method": "kd", "method_settings": None}, "method_settings takes names and values"),
        ({"method": "kd", "method_settings": ["temperature"]}, "method_settings takes names and values"),
        ({"method": "kd", "temperature": 2}, "no setting temperature; a method's own go into method_settings"),
        ({"method": "kd", "distill_weight": "2"}, "--distill_weight must be 0 or more and finite, not '2'"),
        ({"method": "overhaul+kd", "distill_weight": {"kd": None}}, "--distill_weight must be"),
        ({"method": "kd", "label_weight": True}, "--label_weight takes a number"),
        ({"method": "kd", "ramp_epochs": 2.5}, "--ramp_epochs must be a whole number"),
    ],
)
def test_wrong_values_in_python(given, words):
    with pytest.raises(UserError, match=words):
        settings("cifar_c", given)


WRONG = [
    ("--method kd --method.temprature 2", "--method.temprature", "did you mean --method.temperature?"),
    ("--method kd --alpha 2", "unknown flag --alpha (did you mean --method.alpha?)"),
    ("--method kd --student.positions [fc]", "--student.positions would change nothing", "kd compares no maps"),
    ("--method kd+rkd --teacher.positions [fc]", "--teacher.positions would change nothing"),
    ("--method kd --method.beta 2", "--method.beta is no setting of kd, but of dist, dkd", "temperature, standardize"),
    ("--method kd --method.dkd.beta 2", "--method.dkd.beta is no setting of kd"),
    ("--method.temperature 2", "--method.temperature is no setting of overhaul", "it has none"),
    ("--method kd+dkd --method.temperature 2", "is a setting of kd and of dkd", "say which, --method.kd.temp"),
    ("--method kd --method.temperature 0", "--method.temperature takes a number, finite and above 0, not 0"),
    ("--method kd --method.temperature nan", "--method.temperature takes a number, not 'nan'"),
    ("--method kd --method.temperature hot", "--method.temperature takes a number, not 'hot'"),
    ("--method dist --method.beta -1", "--method.beta takes a number, finite and 0 or more, not -1"),
    ("--method fitnets --method.stage 1.5", "--method.stage takes a whole number, not '1.5'"),
    ("--method overhaul+kd --distill_weight.at 3", "--distill_weight.at: at is no method of --method overhaul+kd"),
    ("--method overhaul+kd --distill_weight 1", "overhaul+kd are several", "--distill_weight.overhaul"),
    ("--method overhaul+kd --distill_weight.kd nan", "--distill_weight.kd takes a number, not 'nan'"),
    ("--method overhaul+original", "original is the student alone"),
    ("--method kd+kd", "names a method twice"),
    ("--method kd+dits", "'dits' is not known (did you mean dist?)"),
    ("--method dkd --mixup 0.2", "--method dkd needs class numbers, and --mixup makes probabilities of them"),
    ("--method at+dkd --mixup 1", "--method dkd needs class numbers"),
    ("--method kd --ramp_epochs 1.5", "--ramp_epochs takes a whole number"),
    ("--method kd --ramp_epochs.at 2", "--ramp_epochs.at: at is no method of --method kd"),
    ("--method kd --label_weight nan", "--label_weight takes a number, not 'nan'"),
    ("--method overhaul+kd --teacher_norm.kd moving", "--teacher_norm.kd: 'moving' is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "words"), [(said, words) for said, *words in WRONG], ids=[each[0] for each in WRONG])
def test_wrong_input_is_one_line(tmp_path, said, words):
    run = ["train", "--setup", "digits", "--teacher", tmp_path / "none", "--output_dir", tmp_path / "run"]
    refused(command(*run, *said.split()), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("said", "words"), [
    ("--method original --method.temperature 2", "--method.temperature is no setting of original"),
    ("--method original --label_weight 0.5", "--label_weight would change nothing"),
    ("--method original --ramp_epochs 3", "--ramp_epochs would change nothing"),
])  # fmt: skip
def test_the_student_alone_has_no_settings_of_a_method(said, words):
    refused(command("train", "--setup", "digits", *said.split()), words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: kd\nmethod.temprature: 2", "the unknown entry method.temprature (did you mean method.temperature?)"),
        ("method: kd\nmethod.temperature: hot", "method.temperature takes a number, not 'hot'"),
        ("method: kd\nmethod.temperature: .nan", "--method.temperature takes a number, finite and above 0, not nan"),
        ("method: {temperature: 2}", "method takes a text, not {temperature: 2}"),
        ("method: kd\nmethod.beta: 2", "--method.beta is no setting of kd, but of dist, dkd"),
        ("method: kd+dkd\nmethod.temperature: 2", "say which, --method.kd.temperature or --method.dkd.temperature"),
        ("method: overhaul+kd\ndistill_weight: {kd: 2, at: 3}", "at is no method of --method overhaul+kd"),
        ("method: overhaul+kd\ndistill_weight: 2", "overhaul+kd are several"),
        ("method: overhaul+kd\ndistill_weight: {kd: x}", "distill_weight.kd takes a number, not 'x'"),
        ("method: original\nmethod.temperature: 2", "--method.temperature is no setting of original"),
    ],
)
def test_wrong_entries_of_yaml_are_one_line(tmp_path, text, words):
    (tmp_path / "run.yaml").write_text(text)
    run = ["train", "--setup", "digits", "--teacher", tmp_path / "none", "--config", tmp_path / "run.yaml"]
    refused(command(*run, "--output_dir", tmp_path / "run"), words)


@pytest.mark.parametrize("row", ["imagenet_a", "own"])
def test_a_weight_that_nobody_knows_must_be_named(row):
    student = ["--student", "timm:resnet18", "--data_path", "d"] if row == "own" else []
    for method, flag in (("sp", "--distill_weight"), ("sp+kd", "--distill_weight.sp")):
        run = ["train", "--setup", row, *student, "--teacher", "x", "--method", method]
        refused(command(*run), "no weight of sp is known", f"name {flag}")
    refused(command(*run, "--distill_weight.kd", 2), "name --distill_weight.sp")


def test_every_method_has_usual_values_in_every_row():
    """Of its weight, its ramp, its labels' weight and each of its settings, of their types."""
    for row in SETUPS.values():
        for name in NAMES:
            usual, told = methods.usual(name, row.like, row.name, {}), catalogue.method(name)
            assert {*usual} - {"distill_weight"} == {"label_weight", "ramp_epochs", "teacher_norm", *told.settings}
            assert ("distill_weight" in usual) == (name != "overhaul")
            assert all(type(usual[key]) is kind for key, (kind, _) in told.settings.items())
            assert usual["teacher_norm"] == ("batch" if name == "overhaul" else "running")


def test_networks_decide_what_settings_are_possible(digits_teacher, few_digits, tmp_path):
    """Refused before the first step."""
    for stage in (3, -1):
        run = flags(digits_teacher, few_digits, "fitnets", "--method.stage", stage, "--output_dir", tmp_path / "run")
        refused(command(*run), f"--method.stage of FitNets is one of 0 to 2 in these networks, not {stage}")
    assert not (tmp_path / "run").exists()
