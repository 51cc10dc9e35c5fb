"""A report as text, Markdown, CSV and JSON: the same numbers, and nothing in them that their reader would carry out."""

import csv
import io
import json
import re

import pytest
from support.told_runs import write_run

from overhaul.report.groups import groups
from overhaul.report.runs import find, read
from overhaul.report.written import as_csv, as_json, as_markdown, as_text, cell, notes, summary, tables


def reported(folder) -> dict:
    return summary(groups([read(each) for each in find(folder)]))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """Three methods, one of them with a run more that is unfinished, and one run by itself."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        write_run(folder, method="original", seed=seed, top1=55.5 + 0.3 * seed)
        write_run(folder, method="overhaul", seed=seed, top1=60.5 + 0.5 * seed)
        write_run(folder, method="overhaul+kd", seed=seed, top1=58 - seed, done=4 if seed == 2 else None)
    write_run(folder, method="kd", epochs=9, mixed_precision="bf16", distill_weight=0.5, top1=[50.0] * 8 + [41.125])
    return reported(folder)


def test_the_terminals_lines_fit_120_columns(found):
    assert max(map(len, as_text(found).splitlines())) <= 120


def test_a_row_shows_mean_spread_median_interval_gain_and_the_published_number(found):
    errors, costs = tables(found)
    rows = {(row[0], row[2]): row for row in errors}
    expected = ("39.00", "0.50", "39.00", "37.75 to 40.25", "+5.20", "4.70 to 5.70", "24.08*")
    assert rows["cifar_c overhaul", "final"][3:] == expected
    assert {row[0]: row for row in costs}["cifar_c overhaul"][1:] == (
        *("703,284", "13 min 20 s", "500", "21.09", "paired, 3 seeds", "3 finished"),
    )


def test_a_group_of_one_says_that_it_has_no_interval(found):
    (row,) = [row for row in tables(found)[0] if row[0] == "cifar_c kd" and row[2] == "final"]
    assert row[3:7] == ("58.88", "-", "58.88", "none, n = 1")
    assert "one run has none" in as_text(found)


def test_what_is_unfinished_without_a_baseline_or_not_comparable_is_told_with_the_reason(found):
    told = "\n".join(notes(found))
    assert "cifar_c overhaul+kd is unfinished: seed 2 at 4 of 8 epochs" in told
    assert "cifar_c kd has no gain: no run of original with the same epochs, mixed_precision" in told
    assert "24.08 (distilled by overhaul, median of 5 final models) is not comparable: 8 epochs, not 200; n = 3" in told
    assert all(line in as_markdown(found).replace("\\", "") for line in notes(found))


def test_names_and_rules_are_explained_on_each_page(found):
    for page in (as_text(found), as_markdown(found).replace("\\", "")):
        words = " ".join(page.split())
        for name in ("n: ", "final: ", "best: ", "mean, sd", "95 % interval: ", "gain: ", "published: ", "time: "):
            assert f" {name}" in words, name
        assert "it is optimistic" in words and "halves are rounded against the methods" in words


def test_markdown_has_tables_of_as_many_cells_as_their_heads(found):
    blocks = [block.splitlines() for block in as_markdown(found).split("\n\n") if block.startswith("|")]
    bars = [{len(re.findall(r"(?<!\\)\|", line)) for line in block} for block in blocks]
    assert bars == [{11}, {8}, {7}] and [len(block) for block in blocks] == [10, 6, 12]


def test_json_has_the_numbers_unrounded_and_the_runs_behind_them(found):
    again = json.loads(as_json(found))
    (group,) = [each for each in again["groups"] if each["label"] == "cifar_c kd"]
    assert group["final"]["mean"] == 58.875 and group["best"]["mean"] == 50 and group["final"]["low"] is None
    assert [run["best_epoch"] for run in group["runs"]] == [1] and group["seconds"] == 900
    assert again == json.loads(json.dumps(found))


def test_csv_is_by_rfc_4180_and_has_a_line_a_group(found):
    text = as_csv(found)
    assert text.count("\r\n") == text.count("\n") == 1 + len(found["groups"])
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [row["label"] for row in rows] == [each["label"] for each in found["groups"]]
    by_label = {row["label"]: row for row in rows}
    assert float(by_label["cifar_c kd"]["final_mean"]) == 58.875 and by_label["cifar_c kd"]["final_low"] == ""
    assert by_label["cifar_c overhaul"]["seeds"] == "0 1 2"
    assert by_label["cifar_c overhaul"]["not_comparable"] == "8 epochs, not 200; n = 3 of 5"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=1", " =1", "＝1", "\u200b=1", "=cmd|' /C'!A0"]
)
def test_no_text_in_a_csv_is_a_formula(text):
    assert cell(text).startswith("'")


def test_a_number_in_a_csv_is_a_number(found):
    assert cell(-1.5) == -1.5 and cell(None) is None and cell("a, b\nc") == "a, b c"


def test_hostile_names_move_no_cursor_and_make_no_markup(tmp_path):
    evil = "=x|<script>alert(1)</script>[a](http://x)\x1b[2J\u202e`*_\n| y |"
    for number, name in enumerate((evil, "=b|c\r\n")):
        run = write_run(tmp_path, name=f"{number}<b>|`\u202e", record={"data": {"name": name, "class_names": [name]}})
        record = json.loads((run / "overhaul.json").read_text())
        record |= {"setup": f"={number}|<i>", "method": "@kd\n"}
        (run / "overhaul.json").write_text(json.dumps(record))
    found = reported(tmp_path)
    assert all(line.isprintable() for line in as_text(found).splitlines())
    markdown = as_markdown(found)
    assert all(line.isprintable() for line in markdown.splitlines())
    assert not re.search(r"(?<!\\)<|(?<!\\)`", markdown)
    rows = list(csv.reader(io.StringIO(as_csv(found), newline=""), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not [each for row in rows for each in row if each.startswith(("=", "@"))]
    assert as_json(found).isascii()


def test_two_hundred_runs_are_reported(tmp_path):
    for seed in range(50):
        for method in ("original", "overhaul", "kd", "at"):
            write_run(tmp_path, method=method, seed=seed, epochs=2, top1=50 + seed / 10)
    found = reported(tmp_path)
    assert [each["n"] for each in found["groups"]] == [50] * 4
    assert max(map(len, as_text(found).splitlines())) <= 120
