"""Hostile inputs: each ends with status 2 and one line, which shows nothing that would move a terminal's cursor."""

import pytest
from support import hostile_commands, hostile_data, hostile_hub, hostile_own, hostile_report, hostile_runs
from support.hostile import Case

TABLES = (hostile_commands, hostile_data, hostile_hub, hostile_own, hostile_report, hostile_runs)
CASES = [case for table in TABLES for case in table.CASES]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_input_is_one_line(case: Case, overhaul, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case.make(tmp_path)
    for name, value in case.environment.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    result = overhaul(*case.argv)
    assert (result.status, result.out) == (2, ""), result
    (line,) = result.err.split("\n")[:-1]
    assert line.startswith("overhaul: ") and case.says in line and line.isprintable() and len(line) < 1000


def test_names_of_cases_differ():
    assert len({case.name for case in CASES}) == len(CASES)
