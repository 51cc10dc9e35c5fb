"""The Hub: a repository's files at one commit, which are what it says, and folders pushed there."""

import hashlib
import os
import re
from functools import partial
from pathlib import Path

from overhaul.hub.failures import LOGIN, Missing, Unreachable, ask, prepare, status
from overhaul.system.files import sha256
from overhaul.system.messages import UserError, check_repo, first_line
from overhaul.system.network import within

__all__ = ["Missing", "Unreachable", "download", "files", "parts", "upload", "whoami"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
ATTEMPTS = 3  # at a commit that another one came before
LARGEST = 16 * 2**20  # bytes of a file that holds no weights
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]{0,199}", re.ASCII)


def parts(source: str) -> tuple[str, str | None]:
    """The repository and the revision that USER/REPO[@REVISION] names; UserError for what cannot be such names."""
    repo, _, revision = source.partition("@")
    check_repo("the Hub id", repo)
    if revision and not REVISION.fullmatch(revision):
        raise UserError(f"{source[:200]}: a revision is a branch, a tag or a commit, in letters, digits, -, _, . and /")
    return repo, revision or None


def download(repo: str, file: str, revision: str | None = None, largest: int = LARGEST) -> Path:
    """The cached copy of a repository's file, at a revision; the name of its folder is the commit.

    Its hash is compared with the one that the Hub named, and a copy in the cache that has another is fetched anew.
    largest: bytes that it may have at most. Raises UserError where it cannot be had: Missing where the repository is
    there and lacks it, Unreachable where nobody can tell.
    """
    from huggingface_hub import hf_hub_download

    what = f"{repo} cannot be loaded"
    told = ask(what, lambda: hf_hub_download(repo, file, revision=revision, dry_run=True), revision)
    size = told.file_size
    if size is None:
        raise UserError(f"{what}: the Hub does not say how large its {file} is")
    if size > largest:
        raise UserError(f"{what}: its {file} has {size:,} bytes, and {largest:,} are the most that it could need")

    def fetch(anew: bool = False) -> Path:
        call = partial(hf_hub_download, repo, file, revision=revision, force_download=anew)
        return Path(ask(what, call, revision, size))

    path = fetch()
    if wrong := difference(path):
        try:
            path = fetch(anew=True)
        except UserError as error:
            raise UserError(
                f"{what}: its {file} in the cache is not what the Hub named, {wrong}, and cannot be fetched anew "
                f"({error}); delete {path.resolve()}"
            ) from None
        if wrong := difference(path):
            raise UserError(f"{what}: the Hub sends another {file} than it names, {wrong}")
    return path


def difference(path: Path) -> str:
    """What a file of the cache is in place of what the Hub named; "" where it is that, or where no hash was named.

    The cache calls a file by its etag: its SHA-256 if it is large, else the SHA-1 that git gives it.
    """
    named = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", named):
        kind, found = "SHA-256", sha256(path)
    elif re.fullmatch(r"[0-9a-f]{40}", named):
        content = path.read_bytes()
        kind, found = "git's SHA-1", hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return ""
    return "" if found == named else f"{kind} {found} in place of {named}"


def files(repo: str, commit: str) -> list[str]:
    """The names of a repository's files, as far as they can be learned."""
    from huggingface_hub import HfApi

    return ask(f"{repo} cannot be loaded", lambda: HfApi().list_repo_files(repo, revision=commit), commit)


def upload(folder: Path, repo: str, private: bool, message: str, tag: str | None = None) -> str:
    """Send a folder's files to a repository in one commit, made if it is missing, and return the commit's address.

    Files that are there already are not sent again. tag: of the commit. Raises UserError where it fails.
    """
    from huggingface_hub import HfApi

    api, what = HfApi(), f"{repo} could not be pushed to"
    ask(what, lambda: api.create_repo(repo, private=private or None, exist_ok=True))
    if private and not ask(what, lambda: api.repo_info(repo).private):
        raise UserError(f"{repo} is there and public; make it private in its settings, or leave out --private")
    size = sum(file.stat().st_size for file in folder.iterdir())
    commit = ask(what, lambda: committed(api, repo, folder, message), size=size)
    if tag:
        there = f"{repo} has the commit {commit.commit_url}, but not its tag {tag}"
        ask(there, lambda: move_tag(api, repo, tag, commit.oid))
    return commit.commit_url


def committed(api, repo: str, folder: Path, message: str):
    """The commit of a folder's files; another one that comes in between is no reason to give up."""
    from huggingface_hub import errors

    for _ in range(ATTEMPTS - 1):
        try:
            return api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except errors.HfHubHTTPError as error:
            if status(error) != 412:
                raise
    return api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)


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

    try:
        token = get_token()
    except (OSError, ValueError) as error:
        raise UserError(f"the Hub's token cannot be read ({first_line(error)}): {LOGIN}") from None
    if not token:
        raise UserError(f"pushing to the Hub needs a token: {LOGIN}")
    prepare()
    try:
        return within(HfApi().whoami)["name"]
    except errors.HfHubHTTPError as error:
        if status(error) == 401:
            raise UserError(f"the Hub does not know the token: {LOGIN}") from None
    except Exception:  # a network may raise anything
        pass
    return None
