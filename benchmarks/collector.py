"""A collector of traces that throws away what it gets: what a version that is traced sends its spans to."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """Answers OTLP over HTTP on loopback, and counts the bytes of spans that came."""

    def __init__(self) -> None:
        self.received_bytes = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.received_bytes += len(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self, kept: float) -> dict[str, str]:
        """Return the variables that make a toril send its spans here, and keep this part of the traces."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_address[1]}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(kept),
        }

    def stop(self) -> None:
        """End it.

        Raises:
            RuntimeError: no span has come, so nothing was measured.
        """
        self._server.shutdown()
        self._server.server_close()
        if not self.received_bytes:
            raise RuntimeError("no spans came to the collector: is the extra otel installed?")
