# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A Hub on the loopback interface: the few requests by which huggingface_hub creates, fills, lists and reads repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

import lzn_hf


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
    """The address of the server and its repositories by id; the user is "me".

    Whose token is in `refused_tokens` may create nothing, and to `read_only` repositories nobody may write. With `can_check=False` the
    server does not know the question whether one may. `refused_commits` are the repositories that break every upload.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refused_tokens: set[str] = field(default_factory=set)
    read_only: set[str] = field(default_factory=set)
    refused_commits: set[str] = field(default_factory=set)
    can_check: bool = True


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


def run_with_hub(code: str | Path, hub: LocalHub, folder: Path, *arguments: str | Path, **settings: str) -> str:
    """Runs a script with a Hub, in a process of its own because huggingface_hub reads the address when it is imported."""
    defaults = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_default", "NO_PROXY": "127.0.0.1"}
    source = str(Path(lzn_hf.__file__).parents[1])
    env = {**os.environ, **defaults, "HF_HOME": str(folder / "cache"), "PYTHONPATH": source, **settings}
    script = ["-c", code] if isinstance(code, str) else [code]
    command = [sys.executable, *map(str, [*script, *arguments])]
    run = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return run.stdout


def described(files: dict[str, bytes]) -> dict[str, object]:
    """What the Hub tells of a model: its files, the metadata of its card, and the results in its `.eval_results`."""
    facts: dict[str, object] = {"siblings": [{"rfilename": name} for name in files]}
    if "README.md" in files:
        card = ModelCard(files["README.md"].decode()).data.to_dict()
        facts |= {name: card.get(name) for name in ("pipeline_tag", "library_name", "tags")} | {"cardData": card}
    results = [
        {"filename": name, "data": entry}
        for name in files
        if name.startswith(".eval_results/")
        for entry in yaml.safe_load(files[name])
    ]
    return facts | ({"evalResults": results} if results else {})


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *args) -> None:
        """Keeps the requests out of the report."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.tokens.add(token)
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            if token in self.hub.refused_tokens:
                return self._refuse("Unauthorized", 401)
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
        if match and match[1] in self.hub.refused_commits:
            return self._refuse("TooLarge", 413)
        if match:
            repository = self.hub.repositories[match[1]]
            repository.pull_requests += "create_pr=1" in self.path  # huggingface_hub 1
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    repository.messages.append(line["value"]["summary"])
                elif line["key"] == "deletedFile":
                    del repository.files[line["value"]["path"]]
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
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/auth-check/write", path):
            if not self.hub.can_check:
                return self._refuse("RepoNotFound")
            return self._refuse("Forbidden", 403) if match[1] in self.hub.read_only else self._answer({})
        match = re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/revision/\w+)?", path)
        if match and match[1] in self.hub.repositories:
            return self._answer({"id": match[1], "sha": COMMIT, **described(self.hub.repositories[match[1]].files)})
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/tree/\w+", path):
            files = self.hub.repositories[match[1]].files
            rows = [{"type": "file", "path": name, "size": len(files[name]), "oid": COMMIT} for name in files]
            return self._answer(rows)
        if re.fullmatch(
            r"/api/models/(\w+/[\w-]+)/tree/\w+/.+", path
        ):  # of a folder in the repository: none is asked for that is there
            return self._refuse("EntryNotFound")
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

    def _refuse(self, reason: str, status: int = 404) -> None:
        self.send_response(status)
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
