"""Teacher and student side by side: by hand where the numbers are few, and over the digits."""

import json
import shutil

import numpy as np
import pytest
from support.runs import SIZE, command

from overhaul.report.runs import read
from overhaul.report.sides import Answers, agreement, calibration_error, changed_classes, compare
from overhaul.system.messages import UserError


def answers(labels, named, confidence=None, classes=("a", "b", "c")) -> Answers:
    return Answers(classes, *map(np.array, (labels, named, confidence or [1.0] * len(labels))))


def test_calibration_is_the_mean_distance_of_confidence_and_accuracy_over_fifteen_bins():
    sure = answers([0, 1, 2, 0], [0, 1, 2, 1])
    assert calibration_error(sure) == pytest.approx(25)  # 100 % sure, 75 % right
    of_two_bins = answers([0, 0, 0, 0], [0, 1, 0, 0], [0.61, 0.65, 0.95, 0.99])
    assert calibration_error(of_two_bins) == pytest.approx(100 * (0.5 * abs(0.5 - 0.63) + 0.5 * abs(1 - 0.97)))
    chance = np.random.default_rng(0)
    confidence = chance.uniform(0.2, 1, 20_000)
    honest = Answers(("a", "b"), np.zeros(20_000, int), (chance.random(20_000) > confidence).astype(int), confidence)
    assert calibration_error(honest) < 2


def test_agreement_counts_common_mistakes_and_classes_are_told_by_name():
    one, other = answers([0, 1, 2, 2], [0, 2, 2, 1]), answers([1, 2, 0, 0], [1, 0, 0, 0], classes=("c", "a", "b"))
    assert agreement(one, other.numbered_as(one.classes)) == 75
    assert other.numbered_as(one.classes).labels.tolist() == one.labels.tolist()
    with pytest.raises(UserError, match="other classes"):
        other.numbered_as(("a", "b", "d"))


def test_the_classes_that_change_most_are_named_and_those_without_images_are_not():
    labels = [0] * 4 + [1] * 2
    alone, distilled = answers(labels, [0, 1, 1, 1, 1, 1]), answers(labels, [0, 0, 0, 1, 1, 0])
    helped, hurt = changed_classes(alone, distilled)
    assert helped == [{"name": "a", "images": 4, "alone": 25.0, "distilled": 75.0, "gain": 50.0}]
    assert [(row["name"], row["gain"]) for row in hurt] == [("b", -50.0)]
    assert compare({"distilled": distilled}) | {"rows": 0} == {
        **{"images": 6, "classes": 3, "rows": 0, "helped": [], "hurt": [], "both": False}
    }


@pytest.fixture(scope="module")
def pair(finished, tmp_path_factory):
    """A distilled run of the digits, and one of its student alone, which the same recipe trained for its epochs."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(finished.folder, folder / "distilled")
    alone = ["--setup", "digits", "--image_size", SIZE, "--epochs", 2, "--method", "original"]
    assert command("train", *alone, "--output_dir", folder / "alone", "--quiet").status == 0
    return folder


def test_what_is_evaluated_agrees_with_what_the_runs_wrote_down(pair):
    result = command("report", pair, "--with_data", "digits", "--json")
    assert result.status == 0, result.err
    (side,) = json.loads(result.out)["sides"]
    distilled, alone = (read(pair / name) for name in ("distilled", "alone"))
    tops = {row["role"]: row["top1"] for row in side["rows"]}
    assert (side["run"], side["alone"], side["images"], side["notes"]) == ("distilled", "alone", 360, [])
    assert tops["distilled"] == pytest.approx(distilled.final["test_top1"], abs=0.3)
    assert tops["student alone"] == pytest.approx(alone.final["test_top1"], abs=0.3)
    assert tops["teacher"] == pytest.approx(distilled.record["teacher"]["test_top1"], abs=0.3)
    page = (pair / "report" / "report.html").read_text()
    assert "agrees with the teacher" in page and "helped most" in page and "Guo" in page


def test_what_is_missing_is_said_and_the_rest_told(pair, tmp_path):
    run = tmp_path / "distilled"
    shutil.copytree(pair / "distilled", run)
    config = run / "config.yaml"
    config.write_text("\n".join(each for each in config.read_text().splitlines() if "weights" not in each))
    result = command("report", run, "--with_data", "digits", "--json")
    assert result.status == 0 and "its config.yaml names no teacher" in result.out, result.err
    assert "there is no run of --method original" in result.out
    shutil.rmtree(run / "final")
    result = command("report", run, "--with_data", "digits")
    assert result.status == 0 and "no finished run with a final/ is here" in result.err
