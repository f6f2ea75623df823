"""PagerDuty's Events API v2, Slack's incoming webhook, a mail server and Alertmanager's silences, on loopback.

Each is strict where the real one is, and keeps what it was sent. `answers` holds the statuses of the next answers;
None is its own, "hang" keeps the caller waiting until the stand-in is released or closed, and is its own then.
"""

from __future__ import annotations

import email
import json
import re
import socketserver
import threading
import time
import urllib.parse
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Http:
    """A server on a free port; a subclass answers in `take`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.clock_ahead = 0.0  # seconds
        self.location = "file:///etc/passwd"
        self.answers: list[int | str | None] = []
        self._closed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                try:
                    body = json.loads(raw) if raw else None
                except ValueError:
                    body = raw
                outer.headers.append(dict(self.headers))
                outer.requests.append((self.command, self.path, body))
                told = outer.answers.pop(0) if outer.answers else None
                if told == "hang":
                    outer._closed.wait(60)
                status, answer = (told, {}) if isinstance(told, int) else outer.take(self.command, self.path, body)
                text = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = _any

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + outer.clock_ahead)

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                return  # a caller that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def take(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def release(self) -> None:
        """Answer those who were kept waiting."""
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PagerDuty(Http):
    @property
    def events(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.requests]

    def take(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        good = (method, path) == ("POST", "/v2/enqueue") and isinstance(body, dict) and body.get("routing_key")
        action = body.get("event_action") if good else None
        if action == "trigger":
            payload = body.get("payload") or {}
            good = all(payload.get(name) for name in ("summary", "source")) and len(payload["summary"]) <= 1024
            good = good and payload.get("severity") in ("critical", "error", "warning", "info")
        elif action not in ("acknowledge", "resolve") or not body.get("dedup_key"):
            good = False
        if not good or len(body.get("dedup_key", "")) > 255:
            return 400, {"status": "invalid event"}
        return 202, {"status": "success", "message": "Event processed", "dedup_key": body["dedup_key"]}

    def url(self, key: str = "pagerdutycanary0001") -> str:
        return f"pagerdutyevents://{key}@127.0.0.1:{self.port}/?tls=no&cto=2&rto=2"


class Slack(Http):
    @property
    def texts(self) -> list[str]:
        return [body["text"] for _, _, body in self.requests]

    def take(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method != "POST" or not path.startswith("/services/"):
            return 404, "no_service"
        return (200, "ok") if isinstance(body, dict) and body.get("text") else (400, "no_text")

    def url(self, path: str = "slackcanary0002") -> str:
        return f"slackwebhook://127.0.0.1:{self.port}/services/T0001/B0001/{path}?tls=no&cto=2&rto=2"


class Mail:
    """A mail server that takes everything."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 stand-in ESMTP")
                while line := self.rfile.readline().decode().strip():
                    word = line.split(maxsplit=1)[0].upper()
                    if word == "DATA":
                        self._say("354 go on")
                        lines = []
                        while (part := self.rfile.readline()) not in (b".\r\n", b""):
                            lines.append(part[1:] if part.startswith(b"..") else part)
                        outer.messages.append(email.message_from_bytes(b"".join(lines)))
                    self._say("221 bye" if word == "QUIT" else "250 ok")
                    if word == "QUIT":
                        return

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def url(self, to: str = "security@example.com") -> str:
        return f"mailto://127.0.0.1:{self.port}?from=runbook@example.com&to={to}&mode=insecure"

    def __enter__(self) -> Mail:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Alertmanager(Http):
    """API v2: alerts with filters, and silences that end when they are deleted."""

    def __init__(self, alerts: list[dict[str, str]] | None = None) -> None:
        self.alerts = alerts or []
        self.silences: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        super().__init__()

    def take(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        place = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(place.query)
        if (method, place.path) == ("GET", "/api/v2/alerts"):
            return 200, [self._alert(one) for one in self.alerts if self._fits(one, query.get("filter", []))]
        if (method, place.path) == ("POST", "/api/v2/silences"):
            wanted = {"matchers", "startsAt", "endsAt", "createdBy", "comment"}
            if not isinstance(body, dict) or not wanted <= set(body) or not body["matchers"]:
                return 400, "bad silence"
            name = f"00000000-0000-4000-8000-{len(self.silences):012d}"
            self.silences[name] = body
            return 200, {"silenceID": name}
        name = place.path.removeprefix("/api/v2/silence/")
        return self._one(method, name) if name in self.silences else (404, "not found")

    def _one(self, method: str, name: str) -> tuple[int, Any]:
        ended = name in self.deleted
        if method == "GET":
            return 200, self.silences[name] | {"status": {"state": "expired" if ended else "active"}}
        if method != "DELETE" or ended:
            return 500, f"silence {name} already expired"
        self.deleted.append(name)
        return 200, ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def _alert(labels: dict[str, str]) -> dict[str, Any]:
        return {
            "labels": labels, "annotations": {}, "startsAt": "2026-03-01T10:00:00Z", "endsAt": "2026-03-01T12:00:00Z",
            "fingerprint": "0123456789abcdef", "status": {"state": "active", "silencedBy": [], "inhibitedBy": []},
        }  # fmt: skip

    @staticmethod
    def _fits(labels: dict[str, str], filters: list[str]) -> bool:
        for text in filters:
            name, operator, value = re.fullmatch(r'(\w+)(=~|=)"(.*)"', text, re.S).groups()  # type: ignore[union-attr]
            value = json.loads(f'"{value}"')
            found = labels.get(name, "")
            if not (re.fullmatch(value, found) if operator == "=~" else value == found):
                return False
        return True
