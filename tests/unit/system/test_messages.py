"""What lies under everything says what it finds wrong in one line."""

import os
import sys

import pytest

from overhaul.system.messages import UserError, duration, innermost, launched, say, some, text_table


def test_what_a_launcher_has_not_written_is_refused(monkeypatch):
    assert launched("RANK_OF_NOBODY", 3) == 3
    for value, number in (("7", 7), ("", 0)):
        monkeypatch.setenv("RANK", value)
        assert launched("RANK") == number
    monkeypatch.setenv("RANK", "first\x1b[2J")
    with pytest.raises(UserError, match=r"^RANK in the environment .*, not 'first \[2J'; unset it$"):
        launched("RANK")


def test_what_cannot_be_written_stops_nothing(capfd):
    """Whoever reads it is gone, or the disk of the log is full; what is said to others arrives."""
    reads, writes = os.pipe()
    os.close(reads)
    for file, words in ((writes, "Broken pipe"), ("/dev/full", "No space left")):
        said = False
        with pytest.raises(OSError, match=words), open(file, "w") as stream:
            say("one", stream)
            said = True  # what Python still holds is tried once more as the file is closed
        assert said
    say("four", sys.stdout)
    assert capfd.readouterr().out == "four\n"


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


def caused(error: Exception, cause: Exception | None, hide: bool = False) -> Exception:
    """As it is caught, raised while that cause was handled."""
    try:
        try:
            raise cause
        except type(cause):
            raise error from (None if hide else cause)
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (caused(RuntimeError("the work failed"), OSError("no space left on it")), "no space left on it"),
        (caused(RuntimeError("the work failed"), KeyError("0")), "the work failed (KeyError: '0')"),
        (caused(RuntimeError("the work failed"), OSError("no space left"), hide=True), "the work failed"),
        (OSError("two\nlines of text"), "two lines of text"),
        (KeyError("0"), "KeyError: '0'"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_library_s_error_is_told_by_what_it_goes_back_to(error, words):
    assert innermost(error) == words


def test_a_few_names_stand_for_many():
    assert some(["a", "b"]) == "a, b" and some(list("abcdefg")) == "a, b, c, d, e and 2 more"
