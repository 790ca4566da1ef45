"""A hub for tests: serves folders as models with revisions and takes commits, as far as huggingface_hub asks for it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

_MODEL = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/.*)?")
_AUTH = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/auth-check/write")
_COMMIT = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<step>preupload|commit)/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class TinyHub:
    """Models by id, each a list of commits, and which files were asked for.

    Attributes:
        fetched: names of the files whose content was sent, in order.
        forbidden: users in whose name nothing may be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._branches: dict[tuple[str, str], str] = {}
        self.fetched: list[str] = []
        self.forbidden: set[str] = set()

    def push(self, model: str, content: Path, branch: str = "main") -> str:
        """Make a folder's present content a branch's new commit, and return it."""
        told = b"".join(name.encode() + hashlib.sha1(octets).digest() for name, octets in _read(content).items())
        commit = hashlib.sha1(told).hexdigest()
        shutil.copytree(content, self._folder / model / commit, dirs_exist_ok=True)
        self._branches[model, branch] = commit
        return commit

    def create(self, model: str) -> None:
        """Make a model without files, unless there is one."""
        if (model, "main") not in self._branches:
            empty = self._folder / "empty"
            empty.mkdir(parents=True, exist_ok=True)
            self.push(model, empty)

    def commit(self, model: str, files: dict[str, bytes]) -> str:
        """Make files a model's new content."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            for file, octets in files.items():
                path = Path(name) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(octets)
            return self.push(model, Path(name))

    def commit_of(self, model: str, revision: str) -> str | None:
        commit = self._branches.get((model, revision), revision)
        return commit if (self._folder / model / commit).is_dir() else None

    def files_of(self, model: str, commit: str) -> dict[str, bytes]:
        return _read(self._folder / model / commit)


@contextmanager
def tiny_hub(folder: Path) -> Iterator[tuple[TinyHub, str]]:
    """Serve a hub that keeps its files in a folder; the value is the hub and its endpoint."""
    hub = TinyHub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self._body()
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            found = _COMMIT.fullmatch(path)
            asked = [json.loads(line) for line in body.splitlines()]
            model = found["id"] if found else f"{asked[0].get('organization', 'someone')}/{asked[0]['name']}"
            if model.partition("/")[0] in hub.forbidden:
                return self._send(403, b"{}", {})
            if found is None:
                hub.create(model)
                return self._json({"url": f"/{model}"})
            if found["step"] == "preupload":
                told = [{"path": file["path"], "uploadMode": "regular"} for file in asked[0]["files"]]
                return self._json({"files": [{**one, "shouldIgnore": False, "oid": None} for one in told]})
            files = [line["value"] for line in asked if line["key"] == "file"]
            commit = hub.commit(model, {file["path"]: base64.b64decode(file["content"]) for file in files})
            return self._json({"commitUrl": f"/{model}/commit/{commit}", "commitOid": commit})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while count := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(count))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := _AUTH.fullmatch(path):
                return self._send(403 if found["id"].partition("/")[0] in hub.forbidden else 200, b"{}", {})
            for pattern, respond in ((_TREE, self._tree), (_MODEL, self._model), (_FILE, self._file)):
                if found := pattern.fullmatch(path):
                    commit = hub.commit_of(found["id"], found["revision"] or "main")
                    if commit is None:
                        return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                    return respond(found, commit)
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _model(self, found: re.Match[str], commit: str) -> None:
            siblings = [{"rfilename": name} for name in hub.files_of(found["id"], commit)]
            self._json({"id": found["id"], "sha": commit, "siblings": siblings, "private": False, "tags": []})

        def _tree(self, found: re.Match[str], commit: str) -> None:
            files = hub.files_of(found["id"], commit).items()
            self._json([{"type": "file", "path": name, "size": len(told), "oid": _etag(told)} for name, told in files])

        def _file(self, found: re.Match[str], commit: str) -> None:
            octets = hub.files_of(found["id"], commit).get(found["file"])
            if octets is None:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            if self.command == "GET":
                hub.fetched.append(found["file"])
            return self._send(200, octets, {"ETag": f'"{_etag(octets)}"', "X-Repo-Commit": commit})

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, octets: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(octets)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(octets)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _etag(octets: bytes) -> str:
    return hashlib.sha1(octets).hexdigest()
