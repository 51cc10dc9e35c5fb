"""Groups: runs that differ only in the seed, their labels, and whose baseline is whose."""

import itertools
import json

import pytest
from support.told_runs import write_run

from overhaul.report.groups import groups
from overhaul.report.published import beside
from overhaul.report.runs import find, read


def grouped(folder, warnings=None):
    return groups([read(each) for each in find(folder)], warnings)


def test_seeds_make_a_group_in_their_order(tmp_path):
    for seed in (10, 2, 0):
        write_run(tmp_path, seed=seed, top1=60 + seed)
    (group,) = grouped(tmp_path)
    assert [told.seed for told in group.runs] == [0, 2, 10] and group.label == "cifar_c kd"
    assert group.errors("final") == {0: 40, 2: 38, 10: 30} and group.differences == {}


CHANGES = {  # runs that differ in one of these are not of one group
    "lr": {"lr": 0.05},
    "epochs": {"epochs": 9},
    "method": {"method": "at"},
    "setup": {"setup": "cifar_a"},
    "weight of the loss": {"distill_weight": 0.5},
    "setting of the method": {"method_settings": {"temperature": 2.0}},
    "precision": {"mixed_precision": "bf16"},
    "accumulation": {"gradient_accumulation_steps": 2},
    "image size": {"image_size": 16},
    "teacher's weights": {"record": {"teacher": {"sha256": "0" * 64}}},
    "student's weights": {"record": {"student": {"started_from": {"sha256": "1" * 64}}}},
    "number of images": {"record": {"data": {"training_images": "4,999 images of 10 classes, labels 0123abcd"}}},
    "name of the data": {"record": {"data": {"name": "mine"}}},
    "classes": {"record": {"data": {"class_names": ["cat", "dog"]}}},
    "test images": {"record": {"data": {"test_images": 7}}},
    "length changed on the way": {"record": {"changes_of_length": [[4, 8]]}},
    "maps": {"record": {"positions": [{"student": {"module": "a"}, "teacher": {"module": "b"}}]}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_runs_that_differ_in_more_than_the_seed_are_groups_of_their_own(name, tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, name="other", **CHANGES[name])
    first, second = grouped(tmp_path)
    assert first.label != second.label and (len(first.runs), len(second.runs)) == (1, 1)


ALIKE = {  # and these are
    "hardware": {"record": {"run": {"hardware": "8 x NVIDIA H100"}}},
    "versions": {"record": {"versions": {"torch": "9.9"}}},
    "place": {"output_dir": "elsewhere", "name": "elsewhere"},
    "broken images left out": {"record": {"run": {"skip_broken": 5}}},
    "where the teacher's file was": {"record": {"teacher": {"source": "copy.pt"}}},
    "checkpoints": {"checkpoint_minutes": 1.0, "workers": 3},
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_does_not_move_a_number_by_itself_parts_no_group(name, tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, **ALIKE[name])
    assert [len(group.runs) for group in grouped(tmp_path)] == [2]


def test_labels_say_as_much_as_tells_groups_apart(tmp_path):
    for weight, lr in itertools.product((0.5, 2.0), (0.1, 0.05)):
        write_run(tmp_path, distill_weight=weight, lr=lr, weight_decay=lr / 100, name=f"{weight} {lr}")
    write_run(tmp_path, method="original")
    labels = [group.label for group in grouped(tmp_path)]
    assert labels[0] == "cifar_c original" and sorted(labels) == [
        *(f"cifar_c kd lr={lr} distill_weight={weight}" for lr in (0.05, 0.1) for weight in (0.5, 2)),
        "cifar_c original",
    ]


def test_labels_of_hostile_names_are_short_and_on_one_line(tmp_path):
    for number in range(2):
        name = "x\x1b[2J\n\u202e" * 1000 + str(number)
        write_run(tmp_path, seed=0, name=f"run{number}", record={"setup": "s\n" * 100, "data": {"name": name}})
    labels = [group.label for group in grouped(tmp_path)]
    assert len({*labels}) == 2
    assert all(label.isprintable() and len(label) < 200 for label in labels)


def test_of_two_runs_of_one_seed_the_longer_counts_and_a_line_says_so(tmp_path):
    write_run(tmp_path, seed=0, done=3, name="a")
    write_run(tmp_path, seed=0, top1=70, name="b")
    write_run(tmp_path, seed=0, top1=71, name="c")
    warnings = []
    (group,) = grouped(tmp_path, warnings)
    assert [told.name for told in group.runs] == ["b"]
    assert [line.split(" is left out: ")[0] for line in warnings] == ["a", "c"] and "seed 0" in warnings[0]


def test_unfinished_runs_are_in_the_group_and_in_no_number(tmp_path):
    write_run(tmp_path, seed=0, top1=60)
    write_run(tmp_path, seed=1, top1=90, done=7)
    (group,) = grouped(tmp_path)
    assert [told.seed for told in group.runs] == [0, 1] and [told.seed for told in group.finished] == [0]
    assert (group.final.n, group.final.mean) == (1, 40)


def test_best_is_the_lowest_error_and_final_the_last(tmp_path):
    write_run(tmp_path, epochs=3, top1=[50.0, 61.0, 58.0])
    (group,) = grouped(tmp_path)
    assert (group.final.mean, group.best.mean) == (42, 39)


def test_a_gain_is_over_original_of_the_same_recipe(tmp_path):
    for seed in range(3):
        write_run(tmp_path, method="original", seed=seed, top1=60 + seed)
        write_run(tmp_path, method="overhaul", seed=seed, top1=62 + seed)
        write_run(tmp_path, method="overhaul+kd", seed=seed, top1=63 + seed, distill_weight={"kd": 0.2})
    write_run(tmp_path, method="original", lr=0.05, top1=10, name="another recipe")
    found = {group.label: group for group in grouped(tmp_path)}
    alone = found["cifar_c original lr=0.1"]
    assert found["cifar_c overhaul"].baseline is alone and alone.baseline is None
    assert found["cifar_c overhaul"].gain("final").gain == pytest.approx(2)
    assert found["cifar_c overhaul+kd"].gain("best").gain == pytest.approx(3)


@pytest.mark.parametrize(
    "others, why",
    [
        ([], "no run of original"),
        ([{"lr": 0.05}], "no run of original with the same lr"),
        ([{"done": 3}], "has not finished"),
        ([{"record": {"data": {"training_images": "others"}}}], "with the same data.training_images"),
        ([{"record": {"setup": name}, "name": name} for name in ("mine", "yours")], "2 groups of original"),
    ],
)
def test_a_word_says_why_there_is_no_gain(others, why, tmp_path):
    write_run(tmp_path, method="overhaul")
    for changes in others:
        write_run(tmp_path, method="original", **changes)
    group = grouped(tmp_path)[-1] if len(others) < 2 else grouped(tmp_path)[0]
    assert group.method == "overhaul" and group.gain("final") is None and why in group.without


def write_as_published(folder, method="overhaul", seeds=range(5), **changes):
    for seed in seeds:
        write_run(folder, method=method, seed=seed, epochs=200, top1=75.0 + seed / 10, **changes)


def test_a_published_number_is_comparable_where_all_is_as_in_the_paper(tmp_path):
    write_as_published(tmp_path)
    write_as_published(tmp_path, "original")
    alone, distilled = (beside(group) for group in grouped(tmp_path))
    assert (distilled["error"], distilled["ours"], distilled["why_not"]) == (24.08, pytest.approx(24.8), [])
    assert (alone["error"], alone["of"], alone["why_not"]) == (27.32, "student alone", [])


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"method": "kd"}, "the paper has no kd"),
        ({"seeds": range(4)}, "n = 4 of 5"),
        ({"seeds": [0], "done": 3}, "no run has finished"),
        ({"lr": 0.05}, "lr 0.05, not 0.1"),
        ({"distill_weight": 0.5}, "distill_weight 0.5, not 0.001"),
        ({"mixed_precision": "bf16"}, "mixed_precision bf16"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps 2"),
        ({"record": {"published": None}}, "own data or networks"),
        ({"record": {"changes_of_length": [[4, 200]]}}, "the length was changed on the way"),
        ({"record": {"teacher": {"test_top1": 73.15}}}, "the teacher's error is 26.85 %, not 21.09 %"),
        ({"record": {"teacher": {"test_top1": "good"}}}, "the teacher's error is not known, not 21.09 %"),
    ],
)
def test_a_word_says_why_a_published_number_is_not_comparable(changes, why, tmp_path):
    write_as_published(tmp_path, **changes)
    (group,) = grouped(tmp_path)
    assert beside(group)["why_not"] == [why]


def test_imagenets_published_errors_are_of_the_best_epoch(tmp_path):
    write_run(tmp_path, "imagenet_b", "overhaul", epochs=100, top1=[71.0] * 99 + [70.0])
    (found,) = map(beside, grouped(tmp_path))
    assert (found["rule"], found["ours"], found["why_not"]) == ("best", 29, [])


def test_a_setup_of_ones_own_has_no_published_number(tmp_path):
    write_run(tmp_path, "digits", "overhaul")
    write_run(tmp_path, record={"setup": "of another version"}, name="other")
    assert [beside(group) for group in grouped(tmp_path)] == [None, None]


def test_a_record_that_says_nonsense_within_its_parts_is_grouped_all_the_same(tmp_path):
    run = write_run(tmp_path)
    record = json.loads((run / "overhaul.json").read_text())
    record |= {"method_settings": "none", "positions": "?", "published": {"teacher": []}, "versions": 3}
    record["student"] |= {"parameters": "many", "started_from": "x", "kwargs": [1]}
    record["data"] |= {"class_names": 7}
    (run / "overhaul.json").write_text(json.dumps(record))
    (group,) = grouped(tmp_path)
    assert beside(group)["error"] == 24.08 and group.label == "cifar_c kd"
