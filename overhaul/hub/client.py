"""The Hub: a repository's files at one commit, folders pushed there, and what to do where that fails."""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overhaul.system.messages import UserError, first_line, printable, without_tokens

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
ATTEMPTS = 3  # at a commit that another one came before
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class Missing(UserError):
    """A repository that is there lacks a file."""


class Unreachable(UserError):
    """A file is not in the cache, and the Hub does not answer."""


def download(repo: str, file: str, revision: str | None = None, largest: float = float("inf")) -> Path:
    """The cached copy of a repository's file, at a revision; the name of its folder is the commit.

    largest: bytes that it may have at most. Raises UserError where it cannot be had: Missing where the repository is
    there and lacks it, Unreachable where nobody can tell.
    """
    from huggingface_hub import hf_hub_download

    what = f"{repo} cannot be loaded"
    with explained(what, revision):
        size = hf_hub_download(repo, file, revision=revision, dry_run=True).file_size
    if size > largest:
        raise UserError(f"{what}: its {file} has {size:,} bytes, and {largest:,} are the most that its net could need")
    with explained(what, revision):
        return Path(hf_hub_download(repo, file, revision=revision))


def files(repo: str, commit: str) -> list[str]:
    """The names of a repository's files, as far as they can be learned."""
    from huggingface_hub import HfApi

    with explained(f"{repo} cannot be loaded", commit):
        return HfApi().list_repo_files(repo, revision=commit)


def upload(folder: Path, repo: str, private: bool, message: str, tag: str | None = None) -> str:
    """Send a folder's files to a repository in one commit, made if it is missing, and return the commit's address.

    Files that are there already are not sent again. tag: of the commit. Raises UserError where it fails.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    with explained(f"{repo} could not be pushed to"):
        api.create_repo(repo, private=private or None, exist_ok=True)
        public = private and not api.repo_info(repo).private
    if public:
        raise UserError(f"{repo} is there and public; make it private in its settings, or leave out --private")
    with explained(f"{repo} could not be pushed to"):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
                break
            except errors.HfHubHTTPError as error:
                if status(error) != 412 or attempt == ATTEMPTS:
                    raise
        if tag:
            move_tag(api, repo, tag, commit.oid)
    return commit.commit_url


def move_tag(api, repo: str, tag: str, commit: str) -> None:
    tags = {each.name: each.target_commit for each in api.list_repo_refs(repo).tags}
    if tags.get(tag) == commit:
        return
    if tag in tags:
        api.delete_tag(repo, tag=tag)
    api.create_tag(repo, tag=tag, revision=commit)


def whoami() -> str | None:
    """Whose the token is, or None where the Hub cannot be asked; UserError without a token that it knows."""
    from huggingface_hub import HfApi, errors, get_token

    if not get_token():
        raise UserError(f"pushing to the Hub needs a token: {LOGIN}")
    quieten()
    try:
        return HfApi().whoami()["name"]
    except errors.HfHubHTTPError as error:
        if status(error) == 401:
            raise UserError(f"the Hub does not know the token: {LOGIN}") from None
    except Exception:  # a network may raise anything
        pass
    return None


@contextmanager
def explained(what: str, revision: str | None = None) -> Iterator[None]:
    """What a library raises for a failure of the Hub or of the network, as a UserError of one line."""
    from huggingface_hub import errors

    quieten()
    try:
        yield
    except Exception as error:  # a network may raise anything
        kinds = ((errors.RemoteEntryNotFoundError, Missing), (errors.LocalEntryNotFoundError, Unreachable))
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
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        return f"{cause.strerror}: {cause.filename or 'the cache'}; HF_HOME says where the cache is"
    return f"the Hub cannot be reached, or the connection broke ({first_line([*causes(error)][-1])}); try again"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def reason_of_status(code: int, error) -> str:
    wait = error.response.headers.get("Retry-After")
    said = error.response.headers.get("X-Error-Message") or getattr(error, "server_message", None) or ""
    said = f" ({first_line(Exception(said))})" if said else ""
    if code == 401:
        return f"the Hub does not know the token: {LOGIN}"
    if code == 403:
        return f"the token does not allow it{said}; take one that may write, or another name"
    if code == 412:
        return "others are pushing to it; try again"
    if code == 429:
        return f"the Hub has had too many requests; try again{f' in {wait} s' if wait else ' later'}"
    if code >= 500:
        return f"the Hub is in trouble ({code}); try again later"
    return f"the Hub answered {code}{said or f' ({first_line(error)})'}"


def status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def quieten() -> None:
    """Keep the library's own lines off the screen, but for the one that says how long it waits."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("huggingface_hub.utils._http").addFilter(is_wait)
    logging.getLogger("huggingface_hub.file_download").addFilter(is_wait)


def is_wait(record: logging.LogRecord) -> bool:
    return record.getMessage().startswith("Rate limited")
