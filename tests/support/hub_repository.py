"""The repositories of the local Hub: their commits, from the first one, which is a folder as it lies there."""

import hashlib
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34  # of a repository that is a folder, at main and v1


def git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    """commits: (sha, message, files), oldest first; the first is of the folder, if there is one."""

    def __init__(self, name: str, folder: Path | None = None, private: bool = False) -> None:
        self.name, self.folder, self.private, self.tags, self.commits = name, folder, private, {}, []
        if folder is None:
            self.commit({".gitattributes": b""}, "initial commit")
        else:
            self.tags["v1"] = COMMIT

    def resolve(self, revision: str) -> str | None:
        """The commit of a revision: main, a tag, or a commit itself."""
        shas = [COMMIT] * (self.folder is not None) + [sha for sha, _, _ in self.commits]
        if revision == "main":
            return shas[-1]
        return revision if revision in shas else self.tags.get(revision)

    def files(self, sha: str, *only: str) -> dict[str, bytes]:
        """Contents by path at a commit; of a folder, those named if any are."""
        for commit, _, files in self.commits:
            if commit == sha:
                return files
        paths = [self.folder / name for name in only] or self.folder.rglob("*")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths if path.is_file()}

    def commit(self, changes: dict[str, bytes | None], message: str) -> str:
        """Add a commit in which files have changed; None: they are deleted."""
        before = self.files(self.resolve("main")) if self.commits or self.folder else {}
        files = {path: content for path, content in (before | changes).items() if content is not None}
        sha = hashlib.sha1(f"{self.name} {len(self.commits)} {message}".encode()).hexdigest()
        self.commits.append((sha, message, files))
        return sha

    def tree(self, sha: str, part: str, recursive: bool) -> list[dict]:
        """What the Hub says of the files and folders under a folder."""
        entries = {}
        for path, content in self.files(sha).items():
            if part and not path.startswith(f"{part}/"):
                continue
            inner = path.removeprefix(f"{part}/" if part else "").split("/")
            for depth in range(1, len(inner) + 1 if recursive else 2):
                name = "/".join([*([part] if part else []), *inner[:depth]])
                folder = depth < len(inner)
                oid = hashlib.sha1(name.encode()).hexdigest() if folder else git_sha(content)
                kind, size = ("directory", 0) if folder else ("file", len(content))
                entries[name] = {"type": kind, "oid": oid, "size": size, "path": name}
        return [entries[name] for name in sorted(entries)]


class Repositories:
    """root/USER/REPO are models, root/datasets/USER/REPO are data sets; more are made by request."""

    def __init__(self, root: Path) -> None:
        self.root, self.known = root, {}

    def find(self, name: str) -> Repository | None:
        folder = self.root / name
        if name not in self.known and folder.is_dir():
            self.known[name] = Repository(name, folder)
        return self.known.get(name)

    def create(self, name: str, private: bool) -> None:
        self.known[name] = Repository(name, private=private)
