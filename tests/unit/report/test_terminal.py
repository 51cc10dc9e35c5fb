"""Runs shown in a terminal, once and again while they train."""

import itertools
import json
import os
import re
from pathlib import Path

import pytest
from support.runs import command
from support.told_runs import line, write_run

from overhaul.report import terminal, watch
from overhaul.report.groups import groups
from overhaul.report.runs import find, read
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError


def of(folder: Path) -> list:
    return groups([read(each) for each in find(folder)])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_text_curves_fit_the_terminal(tmp_path, width):
    for method in ("original", "kd", "overhaul+kd"):
        write_run(tmp_path, method=method)
    for height, shown in ((24, 3), (4, 1)):
        lines = terminal.curves(of(tmp_path), width, height).splitlines()
        assert max(map(len, lines)) <= width and len(lines) <= height
        assert sum("█" in each for each in lines) == shown
    assert "and 2 more groups" in lines[-1]


def test_the_chart_of_a_run_falls_with_its_error_and_leaves_room_for_what_is_to_come(tmp_path):
    write_run(tmp_path, top1=[20, 60, 80, 90, 90, 90, 90, 90], done=4)
    head, told, *rows = terminal.curves(of(tmp_path), 90).splitlines()
    assert "epoch 4/8" in head and "10.00 %" in told and rows[0].startswith(" 80.00 % |")
    heights = [sum(row.ljust(90)[10 + place] != " " for row in rows) for place in range(80)]
    assert heights == sorted(heights, reverse=True) and (heights[0], heights[39], heights[-1]) == (8, 1, 0)
    assert heights[32] > 0 == heights[45]
    assert terminal.curves(of(tmp_path), 90, encoding="ascii").isascii()


def test_watching_ends_with_the_runs_and_outlives_a_look_that_fails():
    asked, answers = [], iter([3, UserError("begins anew"), 5, 8])

    class Told:
        finished = property(lambda self: len(self.metrics) == 8)

    def look(refresh):
        asked.append(refresh)
        answer = next(answers, 8)
        if isinstance(answer, UserError):
            raise answer
        told = Told()
        told.name, told.metrics = "run", [{}] * answer
        return [type("Group", (), {"runs": [told]})]

    watch.watch(look, every=0.001)
    assert asked == [1, 1, 1, 1, None]
    answers = iter([UserError("no run")])
    with pytest.raises(UserError):
        watch.watch(look, every=0.001)


def test_ctrl_c_ends_watching_with_a_last_look():
    asked = []

    def look(refresh):
        asked.append(refresh)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [type("Group", (), {"runs": [type("Told", (), {"name": "run", "metrics": [], "finished": False})]})]

    watch.watch(look, every=0.001)
    assert asked == [1, 1, None]


def test_a_watched_run_is_drawn_at_each_epoch_and_its_page_is_read_again_until_it_ends(tmp_path, monkeypatch):
    folder = write_run(tmp_path, done=1)
    seen, epochs = [], itertools.count(2)
    page = tmp_path / "report" / "report.html"

    def train(_):
        seen.append(re.findall('http-equiv="refresh" content="([0-9]+)"', page.read_text()))
        with (folder / "metrics.jsonl").open("a") as file:
            for epoch in itertools.islice(epochs, 7 if len(seen) > 1 else 1):
                file.write(json.dumps(line(min(epoch, 8), 50.0, SETUPS["cifar_c"])) + "\n" if epoch <= 8 else "")

    monkeypatch.setattr(watch.time, "sleep", train)
    result = command("report", tmp_path, "--watch")
    assert result.status == 0, result.err
    assert seen == [["5"], ["5"]] and "refresh" not in page.read_text()
    for words in ("epoch 1/8", "epoch 2/8", "epoch 8/8"):
        assert result.err.count(words) == 1, result.err
    files = {"curves.png", "report.csv", "report.html", "report.json", "report.md"}
    assert {*os.listdir(page.parent)} == files and "\033" not in result.err
