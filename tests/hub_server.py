"""A small Hub on loopback, for tests: it serves repositories from folders by the Hub's download protocol."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Handler(BaseHTTPRequestHandler):
    """HEAD and GET of /USER/REPO/resolve/REVISION/FILE."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.requests.append((self.command, self.path))
        user, name, verb, revision, *rest = self.path.split("?")[0].strip("/").split("/")
        folder, file = self.server.root / user / name, self.server.root / user / name / "/".join(rest)
        assert verb == "resolve"
        if not folder.is_dir():
            self.refuse(401, "RepoNotFound")
        elif name == "gated":
            self.refuse(403, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif not file.is_file():
            self.refuse(404, "EntryNotFound")
        else:
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
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
    """`with LocalHub(root) as hub`: repositories are the folders root/USER/REPO; hub.endpoint, hub.requests."""

    def __init__(self, root: Path) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.root, self.server.requests = root, []
        self.requests = self.server.requests
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
