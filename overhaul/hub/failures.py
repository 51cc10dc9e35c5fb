"""What the Hub is asked for, within limits, and why that failed: one line, and what to do."""

import errno
import logging
import sys
from collections.abc import Callable, Iterator

from overhaul.system.messages import UserError, first_line, printable, without_tokens
from overhaul.system.network import Refused, TooLate, guard, within

OF_CACHE = {  # errors of the cache's folder
    *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.EISDIR, errno.ENOENT, errno.ELOOP, errno.EPERM),
}
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class Missing(UserError):
    """A repository that is there lacks a file."""


class Unreachable(UserError):
    """A file is not in the cache, and the Hub does not answer."""


def ask(what: str, call: Callable, revision: str | None = None, size: int = 0):
    """What a call of the library gives; its failure, the Hub's or the network's, as a UserError of one line.

    size: bytes that come or go.
    """
    from huggingface_hub import errors

    prepare()
    try:
        return within(call, size)
    except Exception as error:  # a network may raise anything
        kinds = (
            (errors.RemoteEntryNotFoundError, Missing),
            ((errors.LocalEntryNotFoundError, TooLate), Unreachable),
        )
        kind = next((ours for theirs, ours in kinds if isinstance(error, theirs)), UserError)
        raise kind(f"{what}: {printable(without_tokens(reason(error, revision)))}") from None


def reason(error: Exception, revision: str | None = None) -> str:
    """Why the Hub failed and what to do."""
    from huggingface_hub import constants, errors

    cause = next((each for each in causes(error) if status(each)), error)
    if isinstance(cause, errors.GatedRepoError):
        return f"it is gated: ask for access on its page, then {LOGIN}"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private: check the name, or {LOGIN}"
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"it has no revision {revision}"
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        return f"it lacks {cause.response.url.path.rpartition('/')[2]}"
    if code := status(cause):
        return reason_of_status(code, cause)
    if constants.HF_HUB_OFFLINE and isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return "it is not in the cache, and HF_HUB_OFFLINE keeps from the Hub"
    if isinstance(error, errors.HFValidationError):
        return first_line(error)
    if isinstance(cause, errors.LocalTokenNotFoundError):
        return f"it needs a token: {LOGIN}"
    if isinstance(cause, UnicodeEncodeError) or "Illegal header" in str(cause):
        return f"the token holds letters that no token has: {LOGIN}"
    if isinstance(cause, OSError) and cause.errno in OF_CACHE:
        return f"{cause.strerror}: {cause.filename or 'the cache'}; HF_HOME says where the cache is"
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, TooLate):
        return f"{error} from {constants.ENDPOINT}; try again"
    why = first_line([*causes(error)][-1])[:300]
    return f"the Hub cannot be reached, or the connection broke ({asked(error)}{why}); try again"


def asked(error: Exception) -> str:
    """For a message: the request that an error is of, where it says so."""
    for each in causes(error):
        try:
            return f"{each.request.method} {str(each.request.url).partition('?')[0][:200]}: "
        except (AttributeError, RuntimeError):  # which is httpx's for none
            continue
    return ""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def reason_of_status(code: int, error) -> str:
    wait = error.response.headers.get("Retry-After")
    said = error.response.headers.get("X-Error-Message") or getattr(error, "server_message", None) or ""
    said = f" ({first_line(Exception(said))[:300]})" if said else ""
    if code == 401:
        return f"the Hub does not know the token: {LOGIN}"
    if code == 403:
        return f"the token does not allow it{said}; take one that may write, or another name"
    if code == 412:
        return "others are pushing to it; try again"
    if code == 429:
        return f"the Hub has had too many requests; try again{f' in {wait[:20]} s' if wait else ' later'}"
    if code >= 500:
        return f"the Hub is in trouble ({code}); try again later"
    return f"the Hub answered {code}{said or f' ({first_line(error)[:300]})'}"


def status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def prepare() -> None:
    """Keep the library to its limits, and its own lines off the screen, but for the one that says how long it waits."""
    from huggingface_hub.utils import disable_progress_bars

    guard()
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("huggingface_hub.utils._http").addFilter(is_wait)
    logging.getLogger("huggingface_hub.file_download").addFilter(is_wait)


def is_wait(record: logging.LogRecord) -> bool:
    return record.getMessage().startswith("Rate limited")
