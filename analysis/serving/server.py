"""The page's server: a few answers, all made of documents in memory.

    /                                the page
    /sweep/<number>?version=<v>      a sweep's document, if it isn't the version that is known
    /cell/<number>/<cell_id>         the accuracies by position of one of its cells

It reads no file that a request names, writes nothing, and answers GET and HEAD alone. A request
must name this server in its Host header, which a page of another site that resolves its own name to
this machine can't do (DNS rebinding), and carry the token, if there is one. Browsers let no other
site read the answers.
"""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from metaphase.analysis.serving.page import compress

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::")
REQUEST_SECONDS = 30.0  # that a client may take to say what it wants
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Sweeps(Protocol):
    """What is served; called from several threads."""

    def document(self, number: int, version: int) -> Mapping[str, Any] | None:
        """What /sweep/<number> answers; None: nothing is newer than this version.

        Raises:
            LookupError: there is no such sweep.
        """

    def curves(self, number: int, cell_id: str) -> Mapping[str, Any]:
        """What /cell/<number>/<cell_id> answers.

        Raises:
            LookupError: there is no such sweep or cell.
            OSError: the storage fails.
        """


class Server(ThreadingHTTPServer):
    """Answers at an address until `shutdown`.

    Args:
        host: name or address of this machine's that it listens on.
        port: 0: any that is free.
        page: the page.
        sweeps: what it shows.
        token: that each request must carry as `?token=`; empty: none.

    Raises:
        OSError: the address can't be had.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, page: str, sweeps: Sweeps, token: str = ""):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self.address_family = found[0][0]
        self.page = page.encode()
        self.sweeps, self.token, self.host = sweeps, token, host
        address: Any = found[0][4]
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        host = socket.gethostname() if self.host in _EVERYWHERE else self.host
        host = f"[{host}]" if ":" in host else host
        token = f"?token={self.token}" if self.token else ""
        return f"http://{host}:{self.server_port}/{token}"

    def names(self, host: str) -> bool:
        """Whether a Host header is this server's. One that listens to other machines too has any
        number of names, and a token."""
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "80")
        known = {self.host, *LOOPBACK} if is_loopback(self.host) else {self.host}
        if port != str(self.server_port):
            return False
        return name.strip("[]").lower() in known or bool(self.token)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client has gone, or doesn't speak HTTP."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this host."""
    return host in LOOPBACK or host.startswith("127.")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = REQUEST_SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "metaphase", ""

    def do_GET(self) -> None:
        hosts: Sequence[str] = self.headers.get_all("Host") or ()
        if len(hosts) != 1 or not self.server.names(hosts[0]):
            return self._answer(421, b"this server has another name", "text/plain")
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        token = asked.get("token", [""])[-1]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._answer(403, b"the address lacks its token", "text/plain")
        try:
            self._route(url.path, asked)
        except (LookupError, ValueError):
            self._answer(404, b"there is no such thing", "text/plain")
        except OSError:
            self._answer(503, b"the storage fails", "text/plain")

    do_HEAD = do_GET

    def _route(self, path: str, asked: Mapping[str, Sequence[str]]) -> None:
        match path.split("/")[1:]:
            case [""]:
                self._answer(200, self.server.page, "text/html; charset=utf-8")
            case ["sweep", number]:
                version = asked.get("version", ["-1"])[-1]
                found = self.server.sweeps.document(int(number), int(version))
                if found is None:
                    self._answer(204, b"", "")
                else:
                    self._json(found)
            case ["cell", number, cell_id]:
                self._json(self.server.sweeps.curves(int(number), cell_id))
            case _:
                raise LookupError(path)

    def _json(self, value: Mapping[str, Any]) -> None:
        if self.server.token and "gzip" in self.headers.get("Accept-Encoding", ""):  # not loopback
            self._answer(200, compress(value), "application/json", {"Content-Encoding": "gzip"})
        else:
            self._answer(200, json.dumps(value, allow_nan=False).encode(), "application/json")

    def _answer(
        self, status: int, data: bytes, kind: str, more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request may carry a token."""
