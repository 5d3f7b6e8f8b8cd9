# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A Hub on the loopback interface: the few requests by which huggingface_hub creates, fills, lists and reads repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


COMMIT = "c" * 40  # the name of every revision: repositories have no history


@dataclass
class Repository:
    """What was uploaded: whether privately, the messages of the commits, the number of pull requests, and the files by path."""

    private: bool
    messages: list[str] = field(default_factory=list)
    pull_requests: int = 0
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class LocalHub:
    """The address of the server and its repositories by id; the user is "me"."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Runs a Hub while the block lasts."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *args) -> None:
        """Keeps the requests out of the report."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"  # huggingface_hub 1 or 2
            self.hub.repositories.setdefault(name, Repository(private))
            return self._answer({"url": f"{self.hub.endpoint}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/discussions", path):
            self.hub.repositories[match[1]].pull_requests += 1
            return self._answer({"num": 1})
        match = re.fullmatch(r"/api/models/(\w+/[\w-]+)/(preupload|commit)/[\w%]+", path)
        if match and match[2] == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self._answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        if match:
            repository = self.hub.repositories[match[1]]
            repository.pull_requests += "create_pr=1" in self.path  # huggingface_hub 1
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    repository.messages.append(line["value"]["summary"])
                else:
                    repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(
                {
                    "commitUrl": f"{self.hub.endpoint}/{match[1]}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "pullRequestUrl": f"{self.hub.endpoint}/{match[1]}/discussions/1",
                }
            )
        return self._refuse("RepoNotFound")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/revision/\w+)?", path):
            files = self.hub.repositories[match[1]].files
            return self._answer({"id": match[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/tree/\w+", path):
            files = self.hub.repositories[match[1]].files
            rows = [{"type": "file", "path": name, "size": len(files[name]), "oid": COMMIT} for name in files]
            return self._answer(rows)
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/discussions/1", path):
            request = {"num": 1, "title": "", "status": "draft", "author": {"name": "me"}, "isPullRequest": True}
            request |= {
                "repo": {"name": match[1], "type": "model"},
                "changes": {"base": "main"},
                "filesWithConflicts": [],
            }
            return self._answer({**request, "createdAt": "2026-01-01T00:00:00.000Z", "events": []})
        if match := re.fullmatch(r"/(\w+/[\w-]+)/resolve/\w+/(.+)", path):
            content = self.hub.repositories[match[1]].files.get(match[2])
            return (
                self._refuse("EntryNotFound") if content is None else self._send(content, "application/octet-stream")
            )
        return self._refuse("RepoNotFound")

    do_HEAD = do_GET

    def _answer(self, content: object) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _refuse(self, reason: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": len(content), "X-Repo-Commit": COMMIT}
        for name, value in {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
