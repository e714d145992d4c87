"""One page over HTTP for this machine alone; a request never reads a file."""

import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

LOOPBACK: Final = "127.0.0.1"
NAMES: Final = (LOOPBACK, "localhost")


class PageServer(ThreadingHTTPServer):
    """Serves a page at / on a free port of the loopback interface."""

    daemon_threads = True

    def __init__(self, page: bytes, port: int = 0) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.page = page

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        # A foreign site may let its own host name point at this machine (DNS rebinding): refuse such names.
        if self.headers.get("Host", "").rpartition(":")[0] not in NAMES:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(self.server.page)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if body:
                self.wfile.write(self.server.page)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


def serve(page: str, browser: bool, port: int, announce: Callable[[str], None]) -> None:
    """Serve a page until it is interrupted, and open it in the browser if asked."""
    with PageServer(page.encode(), port) as server:
        announce(server.address)
        if browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
