"""What is said to a person: choices, the gist of a library's error, and text that is safe to print."""

import difflib
import re
import sys

REPO = re.compile(r"\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
TOKEN = re.compile(r"\bhf_\w{8,}")  # a secret of the Hub


def choose(what: str, name: str, valid) -> str:
    """`name` if it is valid; else ValueError with the nearest valid name and all of them."""
    if name in valid:
        return name
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{what}: {name!r} is not known{hint}; it is one of {', '.join(valid)}")


def check_repo(what: str, repo: str) -> None:
    """ValueError for what cannot be the name of a repository on the Hub."""
    if not REPO.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise ValueError(f"{what} {repo}: a repository of the Hub is named USER/REPO, in letters, digits, -, _ and .")


def first_line(error: Exception) -> str:
    """The first line of a library's error, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """On one line, without what would move a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def without_tokens(text: str) -> str:
    """With *** in place of the Hub's tokens."""
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        if token := get_token():
            text = text.replace(token, "***")
    return TOKEN.sub("***", text)
