"""A small Hub on loopback, for tests: repositories that can be made, pushed to, tagged and downloaded, and faults."""

import json
import re
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from support.hub_repository import COMMIT, Repositories, Repository, git_sha

__all__ = ["COMMIT", "TOKEN", "Fault", "LocalHub"]
TOKEN = "hf_ofthetestsalone"  # whose user is "me"
BAD_CREDENTIALS = "Invalid credentials in Authorization header"
LFS_FILES = (".safetensors", ".png")


class Refusal(Exception):
    """An error answer: status, the Hub's code, its message, further headers."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message or code, **headers}


class Handler(BaseHTTPRequestHandler):
    """One request: faults first, then the first of ROUTES that fits."""

    def handle_request(self) -> None:
        path, hub = unquote(self.path.split("?")[0]), self.server.hub
        hub.requests.append((self.command, path))
        self.cut, self.body = None, self.read_body()
        try:
            hub.meet_faults(self, path)
            for methods, pattern, name in ROUTES:
                if self.command in methods.split() and (match := re.fullmatch(pattern, path)):
                    getattr(self, name)(**match.groupdict())
                    return
            raise Refusal(404, "EntryNotFound")
        except Refusal as refusal:
            self.send(b"", refusal.status, refusal.headers)

    do_HEAD = do_GET = do_POST = do_PUT = do_DELETE = handle_request

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    @property
    def user(self) -> str | None:
        """Whose token it is; a token like the Hub's that it does not know is refused."""
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token.startswith("hf_") and token not in self.server.hub.tokens:
            raise Refusal(401, "", BAD_CREDENTIALS)
        return self.server.hub.tokens.get(token)

    def repository(self, kind: str | None, repo: str, write: bool = False) -> Repository:
        found, user = self.server.hub.repositories.find(f"{kind or ''}{repo}"), self.user
        owned = user == repo.partition("/")[0]
        if found is None or (found.private and not owned):
            raise Refusal(401, "RepoNotFound")
        if write and not owned:
            raise Refusal(403 if user else 401, "", "You don't have the rights to write here")
        return found

    def pass_gate(self, repo: str, file: str) -> None:
        """401 without a token and 403 with another, for the files of a gated repository."""
        hub, token = self.server.hub, (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if file != hub.open_file and repo in hub.gated and token != hub.gated[repo]:
            raise Refusal(403 if token else 401, "GatedRepo")

    def whoami(self) -> None:
        if self.user is None:
            raise Refusal(401, "", BAD_CREDENTIALS)
        token = {"role": "write", "displayName": "tests"}
        self.send_json({"name": self.user, "type": "user", "auth": {"accessToken": token}, "orgs": []})

    def create(self) -> None:
        asked, user = json.loads(self.body), self.user
        repo = f"{asked.get('organization') or user}/{asked['name']}"
        if user is None or not repo.startswith(f"{user}/"):
            raise Refusal(403 if user else 401, "", "You don't have the rights to create a model under this namespace")
        there = self.server.hub.repositories.find(repo) is not None
        if not there:
            self.server.hub.repositories.create(repo, private=asked.get("visibility") == "private")
        self.send_json({"url": f"{self.server.hub.endpoint}/{repo}"}, 409 if there else 200)

    def info(self, kind: str, repo: str, revision: str | None) -> None:
        found = self.repository(kind, repo)
        sha = self.revision(found, revision or "main")
        files = [{"rfilename": name} for name in sorted(found.files(sha))]
        self.send_json({"id": repo, "sha": sha, "private": found.private, "siblings": files, "tags": []})

    def revision(self, found: Repository, revision: str) -> str:
        sha = found.resolve(revision)
        if sha is None:
            raise Refusal(404, "RevisionNotFound")
        return sha

    def refs(self, kind: str, repo: str) -> None:
        found = self.repository(kind, repo)
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.resolve("main")}
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in found.tags.items()]
        self.send_json({"branches": [branch], "converts": [], "tags": tags})

    def tree(self, kind: str, repo: str, revision: str, part: str | None = None) -> None:
        found, part = self.repository(kind, repo), (part or "").strip("/")
        entries = found.tree(self.revision(found, revision), part, "recursive=true" in self.path.lower())
        if part and not entries:
            raise Refusal(404, "EntryNotFound")
        self.send_json(entries)

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        found, answers = self.repository(kind, repo, write=True), []
        there = found.files(found.resolve(revision))
        for path in (each["path"] for each in json.loads(self.body)["files"]):
            lfs, old = path.endswith(LFS_FILES), there.get(path)
            oid = old if old is None else sha256(old).hexdigest() if lfs else git_sha(old)
            mode = "lfs" if lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": answers})

    def lfs_batch(self, kind: str, repo: str) -> None:
        self.repository(kind, repo, write=True)
        hub, objects = self.server.hub, []
        for each in json.loads(self.body)["objects"]:
            answer = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in hub.blobs:
                href = f"{hub.endpoint}/lfs/{each['oid']}"
                answer["actions"] = {"upload": {"href": href}, "verify": {"href": href}}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if self.command == "PUT":
            self.server.hub.uploads.append(oid)
            self.server.hub.blobs[oid] = self.body
        self.send(b"")

    def commit(self, kind: str, repo: str, revision: str) -> None:
        found = self.repository(kind, repo, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, found.resolve("main")):
            raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        changes = {}
        for value, key in ((line["value"], line["key"]) for line in lines):
            if key == "file":
                changes[value["path"]] = b64decode(value["content"])
            elif key == "lfsFile":
                changes[value["path"]] = self.server.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                changes[value["path"]] = None
        sha = found.commit(changes, header["summary"])
        url = f"{self.server.hub.endpoint}/{repo}/commit/{sha}"
        self.send_json({"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})

    def tag(self, kind: str, repo: str, revision: str) -> None:
        found = self.repository(kind, repo, write=True)
        if self.command == "DELETE":
            if found.tags.pop(revision, None) is None:
                raise Refusal(404, "RevisionNotFound")
        else:
            name = json.loads(self.body)["tag"]
            if name in found.tags:
                raise Refusal(409, "", "Tag reference exists already")
            found.tags[name] = self.revision(found, revision)
        self.send(b"")

    def validate(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> None:
        found = self.repository(kind, repo)
        self.pass_gate(repo, path)
        sha = self.revision(found, revision)
        content = found.files(sha, path).get(path)
        if content is None:
            raise Refusal(404, "EntryNotFound", X_Repo_Commit=sha)
        oid = sha256(content).hexdigest()
        if oid not in self.server.hub.blobs:
            self.send(content, headers={"ETag": f'"{git_sha(content)}"', "X-Repo-Commit": sha})
            return
        elsewhere = self.server.hub.endpoint.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": sha}
        self.send(b"", 302, {"Location": f"{elsewhere}/lfs/{oid}", **linked})

    def blob(self, oid: str) -> None:
        self.send(self.server.hub.blobs[oid], headers={"ETag": f'"{oid}"'})

    def send_json(self, answer, status: int = 200) -> None:
        self.send(json.dumps(answer).encode(), status, {"Content-Type": "application/json"})

    def send(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        total, ranged = len(content), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged and status == 200 and self.command == "GET":
            start, end = int(ranged[1]), int(ranged[2] or total - 1)
            status, content = 206, content[start : end + 1]
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{end}/{total}"}
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: self.cut])

    def log_message(self, *_) -> None:
        pass


API, REPO = r"/api/(?:models/|(?P<kind>datasets/))", r"(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", API + REPO + r"/refs", "refs"),
    ("GET", API + REPO + r"(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("GET", API + REPO + r"/tree/(?P<revision>[^/]+)(?P<part>/.*)?", "tree"),
    ("POST", API + REPO + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", API + REPO + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST DELETE", API + REPO + r"/tag/(?P<revision>[^/]+)", "tag"),
    ("POST", r"/(?P<kind>datasets/)?" + r"(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT POST", r"/lfs/(?P<oid>\w+)", "upload"),
    ("GET HEAD", r"/lfs/(?P<oid>\w+)", "blob"),
    ("GET HEAD", r"/(?P<kind>datasets/)?" + REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


@dataclass
class Fault:
    """What goes wrong with requests whose method and path, "GET /me/x/...", match a pattern.

    status: the answer's; cut: the bytes after which a body breaks off; before: called before the answer; times: how
    often, for ever unless named.
    """

    pattern: str
    status: int = 0
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    before: Callable[[], None] | None = None
    times: float = float("inf")


class LocalHub:
    """`with LocalHub(root) as hub`: the folders root/USER/REPO are models, root/datasets/USER/REPO are data sets.

    gated: the token that opens a repository, by its name; open_file: a file that is not gated; tokens: users by token.
    hub.endpoint is the address, hub.requests what was asked for, hub.uploads the large files that were really sent;
    hub.faults may be changed at any time.
    """

    def __init__(self, root: Path, gated: Mapping[str, str] | None = None, open_file: str = "", tokens=None) -> None:
        self.gated, self.open_file = gated or {"me/gated": "a token"}, open_file
        self.tokens = tokens or {TOKEN: "me"}
        self.repositories, self.blobs = Repositories(root), {}
        self.requests, self.uploads, self.faults = [], [], []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def meet_faults(self, request: Handler, path: str) -> None:
        for fault in [each for each in self.faults if each.times > 0]:
            if not re.match(fault.pattern, f"{request.command} {path}"):
                continue
            fault.times -= 1
            if fault.before:
                fault.before()
            request.cut = fault.cut
            if fault.status:
                raise Refusal(fault.status, fault.code, fault.message, **fault.headers)

    def messages(self, repo: str) -> list[str]:
        """Of the commits, oldest first."""
        return [message for _, message, _ in self.repositories.find(repo).commits]

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repositories.find(repo)
        return found.files(found.resolve(revision))

    def tags(self, repo: str) -> dict[str, str]:
        return self.repositories.find(repo).tags
