"""An S3 on loopback that fails: moto's, behind a layer that refuses requests, drops, delays or
holds them."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

BUCKET = "bucket"
FAULTS = ("500", "503", "403", "reset", "cut", "slow", "unsaid")
STATUS = {
    "500": "500 Internal Server Error",
    "503": "503 Service Unavailable",
    "403": "403 Forbidden",
}


@dataclass
class FailingS3:
    """A WSGI application. Of its requests the share `failing` fails in one of the ways of `faults`:

    500, 503, 403: refused, before the store has heard of it.
    reset: the connection breaks, likewise.
    unsaid: the store does what is asked, then the connection breaks.
    cut: the connection breaks in the middle of the answer.
    slow: it takes up to `slow_seconds`.

    Of writes the share `held` reaches the store only after `hold_seconds`.
    """

    store: Any
    failing: float
    faults: Sequence[str] = FAULTS
    slow_seconds: float = 2.0
    held: float = 0.0
    hold_seconds: float = 10.0
    requests: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    lock: Any = field(default_factory=threading.Lock)  # moto looks and writes in two steps

    @property
    def failed(self) -> int:
        return self.counts.total()

    def __call__(self, environ, start_response):
        self.requests += 1
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if environ["REQUEST_METHOD"] == "PUT" and self.chance.random() < self.held:
            self.counts["held"] += 1
            environ["wsgi.input"] = Body(environ["wsgi.input"].read(length))
            time.sleep(self.hold_seconds)
            return self._ask(environ, start_response)
        if self.chance.random() >= self.failing:
            return self._ask(environ, start_response)
        fault = self.chance.choice(self.faults)
        self.counts[fault] += 1
        if fault == "slow":
            time.sleep(self.chance.uniform(0, self.slow_seconds))
            return self._ask(environ, start_response)
        if fault == "unsaid":
            self._ask(environ, lambda *answer: None)
            return self._break(environ)
        if fault == "cut":
            return self._cut(environ, self._ask(environ, start_response))
        environ["wsgi.input"].read(length)
        if fault == "reset":
            return self._break(environ)
        start_response(STATUS[fault], [("Content-Length", "0")])
        return []

    def _ask(self, environ, start_response) -> list[bytes]:
        with self.lock:
            return [b"".join(self.store(environ, start_response))]

    def _break(self, environ) -> list[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def _cut(self, environ, answer: list[bytes]) -> Iterator[bytes]:
        yield answer[0][: len(answer[0]) // 2]
        self._break(environ)


class Body:
    """What a request sends, read before."""

    def __init__(self, data: bytes):
        self._data = data

    def read(self, size: int = -1) -> bytes:
        size = len(self._data) if size is None or size < 0 else size
        part, self._data = self._data[:size], self._data[size:]
        return part


@contextlib.contextmanager
def failing_s3(failing: float = 0.05, **how: Any) -> Iterator[FailingS3]:
    """Serves one with an empty bucket; the environment says where, as users say it."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *arguments: Any) -> None:
            pass

    application = FailingS3(DomainDispatcherApplication(create_backend_app), failing=0.0)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "geheim",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        # What moto holds belongs to the process and outlives its servers.
        address = environment["AWS_ENDPOINT_URL_S3"]
        reset = urllib.request.Request(f"{address}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        application.failing = failing
        for name, value in how.items():
            setattr(application, name, value)
        yield application
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.shutdown()
        server.server_close()
