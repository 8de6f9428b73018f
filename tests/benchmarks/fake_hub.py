"""A server on this machine that answers as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest


class FakeHub:
    """The repositories of the server.

    Attributes:
        files: The content of each file, by ``OWNER/NAME`` and the name of the file.
        commit: The commit of every repository.
        refusals: Repositories that are gated or do not exist, with the status and the code of the Hub's error.
        downloads: The names of the files that were downloaded.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.commit = "1" * 40
        self.refusals: dict[str, tuple[int, str]] = {}
        self.downloads: list[str] = []

    def publish(self, repository: str, folder: Path) -> None:
        """Serves the files of a folder."""
        self.files |= {(repository, file.name): file.read_bytes() for file in folder.iterdir()}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """The status, the headers and the content for a request."""
        owner, name, _, revision, file = path.strip("/").split("/")
        repository = f"{owner}/{name}"
        if repository in self.refusals:
            status, code = self.refusals[repository]
            return status, {"X-Error-Code": code}, b""
        if not any(repository == known for known, _ in self.files):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in {"main", self.commit}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if (repository, file) not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}, b""
        content = self.files[repository, file]
        return 200, {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


@contextmanager
def served_hub(cache: Path) -> Iterator[FakeHub]:
    """Starts the server, and points the Hub's library to it.

    Args:
        cache: The folder of the library's cache.
    """
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, headers, content = fake.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(fake.answer(self.path)[2])
            fake.downloads.append(self.path.rpartition("/")[2])

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        constants = huggingface_hub.constants
        patch.setattr(constants, "ENDPOINT", endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield fake
        server.shutdown()
        thread.join()
    huggingface_hub.close_session()
