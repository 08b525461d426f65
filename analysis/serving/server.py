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
import ipaddress
import json
import re
import socket
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from metaphase.analysis.serving.page import compress

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::")
REQUEST_SECONDS = 30.0  # that a client may take to say what it wants, and to take `AT_ONCE` bytes
AT_ONCE = 65536
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
    request_queue_size = 128  # connections that wait to be accepted; further ones may wait seconds

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
        found = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?|([^:]*)(?::(\d+))?", host)
        if found is None or (found[2] or found[4] or "80") != str(self.server_port):
            return False
        name = (found[1] or found[3] or "").lower()
        return bool(self.token) or name in (self.host.lower(), *LOOPBACK)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client has gone, or doesn't speak HTTP."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this host, by the addresses that it has.

    Raises:
        OSError: it has none.
    """
    if host in LOOPBACK:
        return True
    found = {str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address).is_loopback for address in found)


class _Answer(NamedTuple):
    status: int
    data: bytes
    kind: str = "text/plain"
    encoding: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = REQUEST_SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "metaphase", ""

    def do_GET(self) -> None:
        try:
            answer = self._find()
        except (LookupError, ValueError):
            answer = _Answer(404, b"there is no such thing")
        except OSError:
            answer = _Answer(503, b"the storage fails")
        self._send(answer)

    do_HEAD = do_GET

    def _find(self) -> _Answer:
        hosts: Sequence[str] = self.headers.get_all("Host") or ()
        if len(hosts) != 1 or not self.server.names(hosts[0]):
            return _Answer(421, b"this server has another name")
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        token = asked.get("token", [""])[-1]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return _Answer(403, b"the address lacks its token")
        match url.path.split("/")[1:]:
            case [""]:
                return _Answer(200, self.server.page, "text/html; charset=utf-8")
            case ["sweep", number]:
                version = asked.get("version", ["-1"])[-1]
                found = self.server.sweeps.document(int(number), int(version))
                return _Answer(204, b"", "") if found is None else self._json(found)
            case ["cell", number, cell_id]:
                return self._json(self.server.sweeps.curves(int(number), cell_id))
        raise LookupError(url.path)

    def _json(self, value: Mapping[str, Any]) -> _Answer:
        if self.server.token and "gzip" in self.headers.get("Accept-Encoding", ""):  # not loopback
            return _Answer(200, compress(value), "application/json", "gzip")
        return _Answer(200, json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if answer.encoding:
            self.send_header("Content-Encoding", answer.encoding)
        if answer.kind:
            self.send_header("Content-Type", answer.kind)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(answer.data), AT_ONCE):  # a time limit for each, not for all
                self.wfile.write(answer.data[start : start + AT_ONCE])

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request may carry a token."""
