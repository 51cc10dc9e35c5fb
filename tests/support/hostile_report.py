"""Hostile inputs by way of what a report is asked to show."""

from support.hostile import Case
from support.told_runs import write_run

CASES: list[Case] = [
    Case(
        "watching what is on the Hub",
        ("report", "me/student", "--watch"),
        "--watch looks at folders on this machine",
    ),
    Case("watching nothing", ("report", "nothing", "--watch"), "nothing"),
    Case(
        "a place of data without data",
        ("report", "run", "--data_path", "images"),
        "go with --with_data DATA",
        lambda folder: write_run(folder, name="run"),
    ),
    Case(
        "a report where a file lies",
        ("report", "run", "--out", "run/config.yaml"),
        "name another folder with --out",
        lambda folder: write_run(folder, name="run"),
    ),
]
