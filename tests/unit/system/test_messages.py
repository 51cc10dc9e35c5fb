"""What lies under everything says what it finds wrong in one line."""

import pytest

from overhaul.system.messages import UserError, duration, launched, text_table


def test_what_a_launcher_has_not_written_is_refused(monkeypatch):
    assert launched("RANK_OF_NOBODY", 3) == 3
    for value, number in (("7", 7), ("", 0)):
        monkeypatch.setenv("RANK", value)
        assert launched("RANK") == number
    monkeypatch.setenv("RANK", "first\x1b[2J")
    with pytest.raises(UserError, match=r"^RANK in the environment .*, not 'first \[2J'; unset it$"):
        launched("RANK")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_tables():
    assert text_table([("a", "long head"), ("1", "2")]) == "a  long head\n-  ---------\n1  2"


def test_a_rank_that_is_no_number_is_one_line(overhaul, monkeypatch):
    monkeypatch.setenv("RANK", "x")
    result = overhaul("evaluate", "x", "--data", "digits")
    assert result.status == 2 and len(result.err.splitlines()) == 1
