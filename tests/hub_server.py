"""A small Hub on loopback, for tests: it serves repositories from folders by the Hub's download protocol."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Handler(BaseHTTPRequestHandler):
    """HEAD and GET of files, and of what the Hub says of a repository and its folders, for models and data sets."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.requests.append((self.command, self.path))
        path = self.path.split("?")[0].strip("/")
        api, path = path.startswith("api/"), path.removeprefix("api/").removeprefix("models/")
        kind = "datasets/" if path.startswith("datasets/") else ""
        user, name, *rest = path.removeprefix(kind).split("/")
        verb, revision, *rest = rest if len(rest) > 1 else ("revision", "main")
        folder = self.server.root / kind / user / name
        refusal = 0 if api else self.gate(f"{user}/{name}", "/".join(rest))
        if not folder.is_dir():
            self.refuse(401, "RepoNotFound")
        elif refusal:
            self.refuse(refusal, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif verb == "resolve":
            self.send_file(folder / "/".join(rest), body)
        elif verb == "revision":
            self.send(json.dumps({"id": f"{user}/{name}", "sha": COMMIT, "siblings": []}).encode(), body)
        elif verb == "tree":
            self.send_tree(folder, folder / "/".join(rest), body)
        else:
            self.refuse(404, "EntryNotFound")

    def gate(self, repository: str, file: str) -> int:
        """The status that a gated repository refuses a file with: 401 without a token, 403 with a wrong one; else 0."""
        gated, token = self.server.gated, (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if file == self.server.open_file or repository not in gated or token == gated[repository]:
            return 0
        return 403 if token else 401

    def send_file(self, file: Path, body: bool) -> None:
        if not file.is_file():
            self.refuse(404, "EntryNotFound")
            return
        content = file.read_bytes()
        self.send(content, body, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def send_tree(self, folder: Path, part: Path, body: bool) -> None:
        if not part.is_dir():
            self.refuse(404, "EntryNotFound")
            return
        entries = []
        for path in sorted(part.rglob("*") if "recursive=true" in self.path.lower() else part.iterdir()):
            kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
            oid = hashlib.sha1(str(path).encode()).hexdigest()
            entries.append({"type": kind, "oid": oid, "size": size, "path": str(path.relative_to(folder))})
        self.send(json.dumps(entries).encode(), body)

    def send(self, content: bytes, body: bool, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


class LocalHub:
    """`with LocalHub(root) as hub`: the folders root/USER/REPO are models, root/datasets/USER/REPO are data sets.

    gated: the token that opens a repository, by its name; open_file: a file that is not gated. hub.endpoint is the
    address, hub.requests what was asked for.
    """

    def __init__(self, root: Path, gated: Mapping[str, str] | None = None, open_file: str = "") -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.root, self.server.requests = root, []
        self.server.gated, self.server.open_file = gated or {"me/gated": "a token"}, open_file
        self.requests = self.server.requests
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
