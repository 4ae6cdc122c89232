"""The few endpoints of the Hugging Face hub that an upload uses, on 127.0.0.1, for tests."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

TOKEN = "hf_the_right_one"
READ_ONLY = "hf_may_only_read"


class Repository(NamedTuple):
    """A repository: whether it is private, and its files by name."""

    private: bool
    files: dict[str, bytes]


class Hub:
    """What the hub holds, by `models/USER/REPO` or `datasets/USER/REPO`, and the requests that it had."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.address = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of a request's answer."""
        self.requests.append(f"{method} {path}")
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if token not in (TOKEN, READ_ONLY):
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            key = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            if token == READ_ONLY:
                return 403, {"error": "You don't have the rights to create a model under this namespace"}
            if key in self.repositories:
                return 409, {"error": "You already created this repo", "url": f"{self.address}/{key}"}
            self.repositories[key] = Repository(asked["visibility"] == "private", {})
            return 200, {"url": f"{self.address}/{key.removeprefix('models/')}"}
        found = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(/preupload/main|/commit/main)?", path)
        if not found or found[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        if found[2] == "/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        if found[2] == "/commit/main":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.repositories[found[1]].files[entry["value"]["path"]] = content
            return 200, {"commitUrl": f"{self.address}/{found[1]}/commit/{'0' * 40}", "commitOid": "0" * 40}
        name = found[1].partition("/")[2]
        return 200, {"id": name, "private": self.repositories[found[1]].private, "siblings": [], "tags": []}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that runs in a thread of its own."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, value = hub.answer(self.command, self.path.partition("?")[0], token, body)
            answer = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join(10)
