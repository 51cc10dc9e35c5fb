"""The page of a report: whole in itself, safe from what it tells of, and readable on a phone."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from PIL import Image
from support.told_runs import write_run

from overhaul.report import charts
from overhaul.report.groups import groups
from overhaul.report.page import page
from overhaul.report.runs import find, read
from overhaul.report.written import summary

HOSTILE = "<script>alert(1)<img src=x onerror=alert(2)>&\"' \u202e $x^$ {{ 7*7 }} a:b%2F?#"
SIDE = {
    "run": HOSTILE,
    "alone": HOSTILE,
    "method": "kd",
    "images": 1000,
    "classes": 10,
    "rows": [{"role": "distilled", "top1": 60.0, "calibration": 4.0, "agreement": None}],
    "helped": [{"name": HOSTILE, "images": 3, "alone": 0.0, "distilled": 33.3, "gain": 33.3}],
    "hurt": [],
    "both": True,
    "notes": [HOSTILE],
}
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CALLED = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=390,1600"]


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def told_of(runs: Path, **how) -> str:
    found = groups([read(each) for each in find(runs)])
    return page(summary(found), found, **how)


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> tuple[Path, str]:
    """Two seeds of a baseline, of a method, and of a sum, a run that has not finished, and the page beside them."""
    folder = tmp_path_factory.mktemp("four")
    for method, top1 in (("original", 60), ("kd", 62), ("overhaul+kd", 63)):
        for seed in (0, 1):
            write_run(folder, method=method, seed=seed, top1=top1 + seed)
    write_run(folder, method="overhaul", done=3)
    return folder, told_of(folder, refresh=5, folder=folder.parent)


def test_a_page_needs_nothing_from_outside_and_its_ids_are_its_own(four):
    text = four[1]
    found = Tags(text)
    assert not {"script", "link", "iframe", "object", "img", "base"} & {tag for tag, _ in found.tags}
    assert not found.values("src") and "http:" not in text and "https:" not in text and "@import" not in text
    ids = found.values("id")
    assert len(ids) == len({*ids}) > 20
    inner = [link[1:] for link in found.values("href") if link.startswith("#")]
    inner += re.findall(r"url\(#([^)]*)\)", text)
    assert inner and {*inner} <= {*ids}


def test_each_number_each_loss_and_each_run_is_on_the_page(four):
    folder, found = four[0], Tags(four[1])
    titles = ("Test error", "Training error", "Loss: cross-entropy", "Loss: kd", "Loss: overhaul", "Error against time")
    said = ("overhaul+kd", "3 of 8", "label_weight", "teacher", "axis of errors does not begin at 0", "95 % interval")
    for words in (*titles, *said):
        assert words in found.text, words
    links = [link for link in found.values("href") if not link.startswith("#")]
    assert sorted(links) == sorted(f"{folder.name}/{run.name.replace('+', '%2B')}/" for run in folder.iterdir())


def test_one_run_has_no_interval_and_says_so_and_its_page_is_not_read_again(four, tmp_path):
    write_run(tmp_path, epochs=1)
    text = told_of(tmp_path)
    assert "none, n = 1" in text and "1 run in 1 group" in text and "second half" not in text
    assert "refresh" not in text and 'http-equiv="refresh" content="5"' in four[1]


def test_what_comes_from_files_is_text(tmp_path):
    told = read(write_run(tmp_path, name=HOSTILE, record={"student": {"family": HOSTILE}, "data": {"name": HOSTILE}}))
    other = read(write_run(tmp_path, method="original", record={"run": {"hardware": HOSTILE}}))
    told.warnings.append(HOSTILE)
    found = groups([replace(told, record={**told.record, "method": HOSTILE, "setup": HOSTILE}), told, other])
    text = page(summary(found, [HOSTILE]), found, [SIDE], folder=tmp_path / "report")
    seen = Tags(text)
    assert not {"script", "img"} & {tag for tag, _ in seen.tags} and "\u202e" not in text
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert seen.text.count("<script>alert(1)<img src=x onerror=alert(2)>&\"' $x^$ {{ 7*7 }} a:b%2F?#") > 5
    (link,) = {link for link in seen.values("href") if "script" in link}
    target = urlsplit(urljoin(f"{tmp_path.as_uri()}/report/report.html", link))
    assert (target.scheme, target.query, target.fragment) == ("file", "", "")
    assert os.path.samefile(unquote(target.path), told.folder)
    assert charts.curves(found).startswith(b"\x89PNG")


def many(folder: Path, epochs: int, recipes: int, seeds: int) -> list:
    """Runs of as many recipes, made of one that is read."""
    told = read(write_run(folder, epochs=epochs))
    runs = []
    for number in range(recipes * seeds):
        seed, rate = number % seeds, 0.1 + number // seeds
        record = {**told.record, "recipe": {**told.record["recipe"], "lr": rate}}
        record["run"] = {**told.record["run"], "seed": seed}
        metrics = [{**line, "test_top1": line["test_top1"] * (0.9 + number % 7 / 100)} for line in told.metrics]
        runs.append(replace(told, record=record, metrics=metrics, name=f"run {number}"))
    return groups(runs)


def test_a_page_of_two_hundred_runs_is_small(tmp_path):
    found = many(tmp_path, 120, 100, 2)
    text = page(summary(found), found)
    assert "200 runs in 100 groups" in text and "the other 93 groups" in text
    assert len(text.encode()) < 2 * 2**20


@pytest.mark.skipif(CHROME is None, reason="no browser is here")
@pytest.mark.parametrize("count", [1, 24])
def test_a_browser_shows_the_page_within_the_width_of_a_phone(tmp_path, count):
    found = many(tmp_path / "runs", 8, -(-count // 3), min(count, 3))
    text = page(summary(found), found, [SIDE, SIDE])
    measure = "<script>document.body.dataset.widths = document.documentElement.scrollWidth + ' ' + innerWidth</script>"
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{measure}</body>"))
    address = (tmp_path / "page.html").as_uri()
    own = [CHROME, *CALLED, f"--user-data-dir={tmp_path / 'browser'}"]
    how = {"capture_output": True, "timeout": 60, "text": True, "check": True}
    shown = subprocess.run([*own, "--dump-dom", address], **how).stdout
    content, window = map(int, re.search(r'data-widths="(\d+) (\d+)"', shown).groups())
    assert content <= window <= 500
    subprocess.run([*own, f"--screenshot={tmp_path / 'page.png'}", address], **how)
    with Image.open(tmp_path / "page.png") as picture:
        parts = [picture.convert("L").crop((0, top, 390, top + 400)) for top in (0, 400, 800, 1200)]
    assert all(len(part.getcolors(256)) > 20 for part in parts)
