"""The Hub's API over HTTP, as far as an upload uses it: a server in a thread, which can be told to fail.

It knows repositories and their commits, says which files are large (`LARGE_BYTES`), takes them by the basic and the
multipart transfer, and puts a file into a commit only when all of it has arrived. Its refusals have the shape of the
Hub's. Xet is not spoken: tests switch it off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

TOKEN = "hf_" + "Abcdefghij" * 3

LARGE_BYTES = 4096


@dataclass
class Repository:
    """What there is under a name: `files` as the last commit shows them."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[list[str]] = field(default_factory=list)  # the paths that each of them touched

    @property
    def head(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Failure:
    """How to answer the next `times` requests whose "METHOD /path" the pattern finds.

    `status` None cuts the connection: half-way through the request, or, when it is `late`, after it was done.
    """

    pattern: str
    status: int | None
    times: int = 1
    late: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


class HubServer(ThreadingHTTPServer):
    """Listens on a port of this machine until `stop`.

    Attributes:
        repositories: by type and name: ("models", "ORG/NAME").
        blobs: large files that have arrived, by their sha256.
        failures: what is to go wrong, the first that fits.
        requests: of all requests, "METHOD /path", the authorization and the body.
        token: that is accepted.
        part_bytes: size of the parts of a multipart transfer; None takes each file in one piece.
    """

    daemon_threads = True

    def __init__(self, token: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str | None, bytes]] = []
        self.token = token
        self.part_bytes: int | None = None
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def lines(self, pattern: str) -> list[str]:
        """The requests that the pattern finds, in their order."""
        return [line for line, _, _ in self.requests if re.search(pattern, line)]

    def model(self, name: str = "ORG/concise-tiny") -> Repository:
        return self.repositories["models", name]

    def handle_error(self, request, client_address) -> None:
        """Connections are cut on purpose."""


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = self.path.split("?")[0]
        line = f"{method} {path}"
        failure = self._failure(line)
        size = int(self.headers.get("Content-Length") or 0)
        if failure and failure.status is None and not failure.late:
            self.rfile.read(size // 2)
            self._cut()
            return
        body = self.rfile.read(size)
        self.server.requests.append((line, self.headers.get("Authorization"), body))
        if failure and failure.status is not None:
            said = failure.body or json.dumps({"error": f"refused for {self.headers.get('Authorization')}"}).encode()
            self._send(failure.status, said, failure.headers)
            return
        try:
            with self.server.lock:
                value, headers = self._do(method, path, body)
        except _Refused as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, json.dumps({"error": str(error)} | self._address_of(error)).encode(), headers)
            return
        if failure:
            self._cut()
        else:
            self._send(200, json.dumps(value).encode(), headers)

    def _failure(self, line: str) -> Failure | None:
        with self.server.lock:
            for failure in self.server.failures:
                if failure.times and re.search(failure.pattern, line):
                    failure.times -= 1
                    return failure
        return None

    def _address_of(self, error: _Refused) -> dict:
        return {"url": self._created} if error.status == 409 and hasattr(self, "_created") else {}

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Quiet."""

    # ---- what the Hub does ----

    def _do(self, method: str, path: str, body: bytes) -> tuple[object, dict[str, str]]:
        if found := re.fullmatch(r"/storage/(\w+)(?:/(\d+))?", path):
            return self._store(*found.groups(), method, body)
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)), {}
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            raise _Refused(401, "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self._create(json.loads(body)), {}
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repository(found[1] or "models", found[2])
            return self._batch(json.loads(body)), {}
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(preupload|commit|revision)/main)?", path):
            kind, name, action = found.groups()
            repository = self._repository(kind, name)
            if action == "preupload":
                return self._preupload(repository, json.loads(body)), {}
            if action == "commit":
                return self._commit(repository, name, [json.loads(line) for line in body.splitlines()]), {}
            siblings = [{"rfilename": path} for path in repository.files]
            return {"id": name, "sha": repository.head, "private": repository.private, "siblings": siblings}, {}
        raise _Refused(404, f"unexpected {method} {path}")

    def _repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self.server.repositories:
            raise _Refused(404, "Repository not found", "RepoNotFound")
        return self.server.repositories[kind, name]

    def _create(self, request: dict) -> dict:
        kind = f"{request.get('type') or 'model'}s"
        name = f"{request['organization'] or 'me'}/{request['name']}"
        self._created = f"{self.server.address}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.server.repositories:
            raise _Refused(409, "You already created this repo")
        self.server.repositories[kind, name] = Repository(private=request["visibility"] == "private")
        return {"url": self._created}

    def _validate(self, request: dict) -> dict:
        """The rules of the Hub's model-index, as its documentation has them."""
        header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", request["content"], re.DOTALL)[1])
        try:
            for model in header.get("model-index", []):
                assert isinstance(model["name"], str)
                for result in model["results"]:
                    assert isinstance(result["task"]["type"], str)
                    assert all(isinstance(result["dataset"][key], str) for key in ("type", "name"))
                    for metric in result["metrics"]:
                        assert isinstance(metric["type"], str) and isinstance(metric["value"], (int, float))
        except (AssertionError, KeyError, TypeError) as error:
            raise _Refused(400, f"model-index: {error!r}") from None
        return {"errors": [], "warnings": []}

    def _preupload(self, repository: Repository, request: dict) -> dict:
        files = []
        for file in request["files"]:
            mode = "lfs" if file["size"] >= LARGE_BYTES else "regular"
            known = repository.files.get(file["path"])
            entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            files.append(entry if known is None else entry | {"oid": _oid(known, mode)})
        return {"files": files}

    def _batch(self, request: dict) -> dict:
        objects = []
        for entry in request["objects"]:
            oid, size = entry["oid"], entry["size"]
            if oid in self.server.blobs:  # is there: nothing to do
                objects.append({"oid": oid, "size": size})
                continue
            href, header = f"{self.server.address}/storage/{oid}", {}
            if self.server.part_bytes is not None:
                count = -(-size // self.server.part_bytes)
                header = {str(part): f"{href}/{part}" for part in range(1, count + 1)}
                header["chunk_size"] = str(self.server.part_bytes)
            objects.append({"oid": oid, "size": size, "actions": {"upload": {"href": href, "header": header}}})
        return {"objects": objects}

    def _store(self, oid: str, part: str | None, method: str, body: bytes) -> tuple[object, dict[str, str]]:
        if part is not None:
            self.server.parts.setdefault(oid, {})[int(part)] = body
            return {}, {"ETag": f"etag-{part}"}
        if method == "POST":  # all parts have been sent
            parts = self.server.parts.pop(oid)
            body = b"".join(parts[number] for number in sorted(parts))
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the content has another hash")
        self.server.blobs[oid] = body
        return {}, {}

    def _commit(self, repository: Repository, name: str, lines: list[dict]) -> dict:
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repository.head:
            raise _Refused(412, "a commit has happened since")
        files = dict(repository.files)
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.server.blobs[line["value"]["oid"]]
            else:
                del files[path]
        repository.files = files
        repository.commits.append([line["value"]["path"] for line in lines[1:]])
        url = f"{self.server.address}/{name}/commit/{repository.head}"
        return {"success": True, "commitOid": repository.head, "commitUrl": url}


def _oid(content: bytes, mode: str) -> str:
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
