"""A Hugging Face Hub on loopback, for the real client: standard library only.

It speaks the part of the Hub's HTTP interface that pushing and pulling models and Spaces needs:
repositories (the name of a Space begins with ``spaces/`` here), branches, commits (plain files and
LFS), resolve with resumable ranges, pull requests. Faults can be switched on, and every request is
recorded with its headers.

    server = hub_server.start()
    os.environ.update(server.environment)   # before huggingface_hub is imported
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from .new_space import SPACE_FILES

#: Files of these endings go through LFS, as on the Hub.
LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".jpg", ".webp", ".onnx", ".wasm")


@dataclass
class Repo:
    """Branches point at commits; a commit is a complete set of files."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: dict[str, bytes], message: str = "") -> str:
        parent = self.refs.get(ref, "")
        text = repr((parent, ref, message, sorted((n, sha256(b)) for n, b in files.items())))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class HubServer(ThreadingHTTPServer):
    """The Hub; ``repos`` is its whole state, the rest are switches for faults."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.reset()

    def reset(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        #: Tokens that may write and read private repositories; None: everybody may.
        self.tokens: set[str] | None = None
        #: Method and pattern of a path -> how many times the connection is cut in the middle.
        self.cut: dict[tuple[str, str], int] = {}
        #: Method and pattern of a path -> the status to answer with instead.
        self.refuse: dict[tuple[str, str], int] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"}

    def add(self, repo_id: str, files: dict[str, bytes], ref: str = "main") -> str:
        repo = self.repos.setdefault(repo_id, Repo())
        return repo.commit(ref, {**self.files(repo_id, ref), **files})

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return dict(repo.commits.get(repo.resolve(revision) or "", {}))

    def asked(self, method: str, pattern: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and re.search(pattern, r.path)]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is part of the tests."""


def start() -> HubServer:
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with hub.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.requests.append(Request(self.command, path, headers))
            self.cutting = self.take(hub.cut, path)
            status = next((s for key, s in hub.refuse.items() if self.fits(key, path)), None)
        if status is not None:
            self.reply(status, {"error": "refused by the test"})
        elif self.cutting and self.command in ("PUT", "POST"):
            self.drop()
        else:
            self.route(path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def route(self, path: str) -> None:
        for pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                with self.server.lock:
                    getattr(self, name)(*found.groups())
                return
        self.reply(404, {"error": f"no route {path}"})

    def fits(self, key: tuple[str, str], path: str) -> bool:
        return key[0] == self.command and re.search(key[1], path) is not None

    def take(self, faults: dict[tuple[str, str], int], path: str) -> bool:
        for key, left in faults.items():
            if left > 0 and self.fits(key, path):
                faults[key] = left - 1
                return True
        return False

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def reply(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send(status, data, {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cutting:
            self.wfile.write(data[: len(data) * 9 // 10])
            self.wfile.flush()
            self.drop()
        else:
            self.wfile.write(data)

    def fail(self, status: int, code: str) -> None:
        self.reply(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def allowed(self) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.server.tokens is None or token in self.server.tokens

    def repo(self, repo_id: str) -> Repo | None:
        repo = self.server.repos.get(repo_id)
        if repo is None or (repo.private and not self.allowed()):
            self.fail(404 if self.allowed() else 401, "RepoNotFound")
            return None
        return repo

    def create(self) -> None:
        if not self.allowed():
            return self.fail(403, "Forbidden")
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        if kind == "space":
            if not wanted.get("sdk"):
                return self.fail(400, "a Space needs an sdk")
            repo_id = f"spaces/{repo_id}"
        answer = {"url": f"{self.server.url}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.server.repos:
            return self.reply(409, {**answer, "error": f"You already created this {kind} repo"})
        repo = self.server.repos[repo_id] = Repo()
        repo.private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        files = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if kind == "space":  # which begins with something to look at
            files |= SPACE_FILES
        repo.commit("main", files, "initial commit")
        return self.reply(200, answer)

    def delete(self) -> None:
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        if wanted.get("type") == "space":
            repo_id = f"spaces/{repo_id}"
        if self.repo(repo_id) is None:
            return None
        if not self.allowed():
            return self.fail(403, "Forbidden")
        del self.server.repos[repo_id]
        return self.reply(200, {})

    def commits(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        if repo is not None:
            date = "2026-01-01T00:00:00.000Z"
            self.reply(
                200,
                [
                    {"id": sha, "authors": [], "date": date, "title": "", "message": ""}
                    for sha in repo.commits
                ],
            )

    def branch(self, repo_id: str, name: str) -> None:
        repo = self.repo(repo_id)
        if repo is None:
            return None
        if self.command == "DELETE":
            del repo.refs[name]
            return self.reply(200, {})
        if name in repo.refs:
            return self.reply(409, {"error": "Reference already exists"})
        repo.refs[name] = repo.refs["main"]
        return self.reply(200, {})

    def validate_yaml(self) -> None:
        self.reply(200, {"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        if repo is None:
            return None
        if repo.resolve(revision) is None:
            return self.fail(404, "RevisionNotFound")
        files = [
            {
                "path": entry["path"],
                "uploadMode": "lfs" if entry["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for entry in json.loads(self.body)["files"]
        ]
        return self.reply(200, {"files": files})

    def lfs_batch(self, repo_id: str) -> None:
        if self.repo(repo_id) is None:
            return
        objects = []
        for entry in json.loads(self.body)["objects"]:
            item = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.server.lfs:
                href = f"{self.server.url}/lfs-upload/{entry['oid']}"
                item["actions"] = {"upload": {"href": href}}
            objects.append(item)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if sha256(self.body) != oid:
            return self.reply(400, {"error": "wrong checksum"})
        self.server.lfs[oid] = self.body
        return self.reply(200, {})

    def commit(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        if repo is None:
            return None
        if not self.allowed():
            return self.fail(403, "Forbidden")
        if repo.resolve(revision) is None:
            return self.fail(404, "RevisionNotFound")
        files, message = self.server.files(repo_id, revision), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        answer = {}
        if "create_pr=1" in self.path:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
            revision = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.server.url}/{repo_id}/discussions/{number}"
        sha = repo.commit(revision, files, message)
        url = f"{self.server.url}/{repo_id}/commit/{sha}"
        return self.reply(200, {"success": True, "commitOid": sha, "commitUrl": url, **answer})

    def info(self, repo_id: str, revision: str = "main") -> None:
        repo = self.repo(repo_id)
        if repo is None:
            return None
        sha = repo.resolve(revision)
        if sha is None:
            return self.fail(404, "RevisionNotFound")
        siblings = [{"rfilename": name} for name in repo.commits[sha]]
        answer = {"_id": sha, "id": repo_id, "sha": sha, "private": repo.private}
        return self.reply(200, {**answer, "tags": [], "downloads": 0, "siblings": siblings})

    def tree(self, repo_id: str, revision: str) -> None:
        if self.repo(repo_id) is not None:
            files = self.server.files(repo_id, revision).items()
            self.reply(
                200,
                [{"type": "file", "path": n, "size": len(b), "oid": sha256(b)} for n, b in files],
            )

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self.repo(repo_id)
        if repo is None:
            return None
        sha = repo.resolve(revision)
        if sha is None:
            return self.fail(404, "RevisionNotFound")
        data = repo.commits[sha].get(name)
        if data is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
            return self.reply(404, {"error": "EntryNotFound"}, headers)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{sha256(data)}"', "Accept-Ranges": "bytes"}
        if name.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and self.command == "GET":
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self.send(206, data[first : last + 1], headers)
        return self.send(200, data, headers)


#: A repository in addresses of the Hub's interface, and in those of its files.
_API = r"/api/(?:models/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+)"
_REPO = r"/((?:spaces/)?[^/]+/[^/]+)"
ROUTES = (
    (r"/api/repos/create", "create"),
    (r"/api/repos/delete", "delete"),
    (r"/api/validate-yaml", "validate_yaml"),
    (rf"{_API}/commits/(.+)", "commits"),
    (rf"{_API}/branch/(.+)", "branch"),
    (rf"{_API}/preupload/(.+)", "preupload"),
    (rf"{_API}/commit/(.+)", "commit"),
    (rf"{_API}/revision/(.+)", "info"),
    (rf"{_API}/tree/([^/]+)", "tree"),
    (_API, "info"),
    (rf"{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"/lfs-upload/([0-9a-f]+)", "lfs_upload"),
    (rf"{_REPO}/resolve/(refs/pr/[^/]+|[^/]+)/(.+)", "resolve"),
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
