"""An S3 on loopback that fails: moto's, behind a layer that refuses requests or drops them."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BUCKET = "bucket"


@dataclass
class FailingS3:
    """A WSGI application. Of its requests the share `failing` fails, before the store has heard
    of them or after it has done what they ask: status 500, 503, or a connection that breaks."""

    store: Any
    failing: float
    requests: int = 0
    failed: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def __call__(self, environ, start_response):
        self.requests += 1
        if self.chance.random() >= self.failing:
            return self.store(environ, start_response)
        self.failed += 1
        if self.chance.random() < 0.5:  # it is done, but nobody is told
            b"".join(self.store(environ, lambda *answer: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        how = self.chance.choice(["500 Internal Server Error", "503 Service Unavailable", "reset"])
        if how == "reset":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        start_response(how, [("Content-Length", "0")])
        return []


@contextlib.contextmanager
def failing_s3(failing: float = 0.05) -> Iterator[FailingS3]:
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
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        application.failing = failing
        yield application
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.shutdown()
        server.server_close()
