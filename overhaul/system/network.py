"""The network: how long the Hub may take, and which of its answers are taken, whichever library asks it."""

import os
import queue
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from overhaul.system.messages import UserError

ANSWER = 30  # seconds for a connection, and for the next bytes of an answer
LONGEST_WAIT = 60  # seconds that the Hub may ask for before another try
PATIENCE = 120  # seconds for what is small, with all tries
SLOWEST = 100_000  # bytes a second of what is large
COMMIT = re.compile(r"[0-9a-f]{40,64}")
ETAG = re.compile(r'(W/)?"?[A-Za-z0-9][A-Za-z0-9._+=-]{0,127}"?')  # the library names files after it


class Refused(Exception):
    """An answer that is not taken."""


class TooLate(Exception):
    """There is no answer yet."""


def check_environment() -> None:
    """UserError for variables of the Hub that its library cannot even be imported with."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        told = urlsplit(endpoint)
        whole = told.scheme in ("http", "https") and told.hostname and told.port != 0 and endpoint.isascii()
    except ValueError:
        whole = False
    if not whole or not endpoint.isprintable():
        raise UserError(f"HF_ENDPOINT is no address of the web ({endpoint[:80]!r}); unset it")
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        if not re.fullmatch(r"\d{0,9}", said := os.environ.get(name, "")):
            raise UserError(f"{name} is a whole number of seconds, not {said[:80]!r}; unset it")
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        if (said := os.environ.get(name)) and Path(said).is_file():
            raise UserError(f"{name} is a folder, and {said} is a file; name another, or unset it")


@cache
def guard() -> None:
    """From now on huggingface_hub, and what asks through it, has time limits and takes no names that leave its cache.

    Whatever makes its connections (set_client_factory) still makes them.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    make = _http._GLOBAL_CLIENT_FACTORY

    def made():
        client = make()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], limit],
            "response": [refuse_long_waits, refuse_names, *hooks["response"]],
        }
        return client

    set_client_factory(made)


def limit(request) -> None:
    """No part of a request may take for ever, though the library asks for that: ANSWER, or what the user allows."""
    from huggingface_hub import constants

    most = max(ANSWER, constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    asked = request.extensions.get("timeout") or {}
    parts = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {part: min(asked.get(part) or most, most) for part in parts}


def refuse_long_waits(response) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code >= 400 and wait_of(response) > LONGEST_WAIT:
        hf_raise_for_status(response)


def wait_of(response) -> int:
    """Seconds that an answer asks for before another try, as the library reads it."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limits, said = parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "").strip()[:12]
    spent = limits is not None and limits.remaining == 0 and response.status_code == 429
    return max(limits.reset_in_seconds if spent else 0, int(said) if said.isdecimal() else 0)


def refuse_names(response) -> None:
    """A commit or an etag that is none: files of the cache are named after them, wherever they point."""
    commit = response.headers.get("X-Repo-Commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        raise Refused(f"the Hub names the commit {commit[:80]!r}, which is none")
    if response.request.method != "HEAD" or response.status_code >= 400:
        return
    for header in ("X-Linked-Etag", "ETag"):
        etag = response.headers.get(header)
        if etag is not None and not ETAG.fullmatch(etag):
            raise Refused(f"the Hub names the file's hash {etag[:80]!r}, which is none")


def within(call: Callable, size: int = 0):
    """What a call returns or raises; TooLate where it takes longer than it may, whatever it waits for.

    size: bytes that come or go. A call that is late is left behind, in a thread that ends no later than the process,
    without its connections.
    """
    seconds, answers = PATIENCE + size / SLOWEST, queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        result, error = answers.get(timeout=seconds)
    except BaseException as interrupted:
        abandon(thread)
        if isinstance(interrupted, queue.Empty):
            raise TooLate(f"there is no answer after {seconds:.0f} s") from None
        raise
    if error is not None:
        raise error
    return result


def abandon(thread: threading.Thread) -> None:
    """Close the connections under a call, which then clears away what it had begun to write."""
    from huggingface_hub import close_session

    close_session()
    thread.join(1)
