"""The listener's HTTP side: who may send, what is taken, and what it tells about itself."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from runbook.alerts import parse
from runbook.errors import BadInput, ExitCode
from runbook.listen.settings import Settings
from runbook.listen.work import Listener, Overloaded, say

BODY_SECONDS = 10.0  # a sender that takes longer for its body is cut off
RETRY_SECONDS = "10"
CONNECTIONS = 256  # more at once are told to come again
_KINDS = ("queued", "duplicate", "held_back", "resolved", "unrouted", "not_firing")
_STATES = ("waiting", "running", "done", "failed", "held_back", "over")


class Refused(Exception):
    """A request that gets an answer of its own. Alertmanager repeats what got 5xx, and drops what got 4xx."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class Intake:
    """The three addresses: POST /alerts, GET /health, GET /metrics."""

    def __init__(self, listener: Listener, settings: Settings, tokens: Iterable[str]) -> None:
        self.listener, self.settings = listener, settings
        self._digests = [_digest(token) for token in tokens]
        self.requests: Counter[int] = Counter()
        self.left_out = 0

    def app(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            await self.listener.begin()
            yield
            await self.listener.end(self.settings.stop_seconds)

        routes = [
            Route("/alerts", self.alerts, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        return Starlette(routes=routes, lifespan=lifespan)

    async def alerts(self, request: Request) -> Response:
        try:
            self._admit(request)
            payload = parse(await self._body(request))
            told = await self.listener.take(payload.alerts)
            self.left_out += payload.left_out
            answer: Response = JSONResponse(dict(told), 202)
        except BadInput as error:
            answer = JSONResponse({"error": str(error), "remedy": error.remedy}, 400)
        except Overloaded as error:
            answer = JSONResponse({"error": str(error)}, 503, {"Retry-After": RETRY_SECONDS})
        except Refused as error:
            answer = JSONResponse({"error": str(error)}, error.status, error.headers)
        self.requests[answer.status_code] += 1
        return answer

    def _admit(self, request: Request) -> None:
        """All tokens are compared, whole, so that the time it takes tells nothing."""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip())
        fits = [hmac.compare_digest(digest, known) for known in self._digests]
        if kind.lower() != "bearer" or not any(fits):
            raise Refused(401, "A bearer token is needed.", WWW_Authenticate="Bearer", Connection="close")

    async def _body(self, request: Request) -> bytes:
        most = self.settings.max_body_bytes
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told[:20]) > most:
            raise Refused(413, f"The body has {told[:20]} bytes; at most {most} are taken.", Connection="close")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise Refused(413, f"The body has more than {most} bytes.", Connection="close")
        except TimeoutError:
            raise Refused(408, f"The body did not come within {BODY_SECONDS:g} s.", Connection="close") from None
        except ClientDisconnect:
            raise Refused(400, "The sender went away.") from None
        return bytes(body)

    async def health(self, request: Request) -> Response:
        listener = self.listener
        states = listener.queue.states()
        data: dict[str, Any] = {"status": "ok" if listener.healthy else "stopping" if listener.stopping else "broken"}
        data |= {"waiting": states["waiting"], "running": states["running"]}
        if listener.keeper.broken:
            data["error"] = "the queue cannot be written"
        return JSONResponse(data, 200 if listener.healthy else 503)

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse("".join(self._metrics()), media_type="text/plain; version=0.0.4")

    def _metrics(self) -> Iterable[str]:
        listener, queue = self.listener, self.listener.queue
        waiting = [queue.clock.since(job.received) for job in queue.open.values() if job.state == "waiting"]
        states, counts = queue.states(), queue.counts
        yield _metric(
            "requests_total", "Requests to /alerts.", ("code",), {(str(c),): n for c, n in self.requests.items()}
        )
        yield _metric(
            "alerts_total", "Alerts, by what became of them.", ("outcome",), {(k,): counts[k] for k in _KINDS}
        )
        yield _metric("left_out_total", "Alerts that Alertmanager cut off.", (), {(): self.left_out})
        yield _metric("held_back_total", "Alerts that were held back.", ("route", "why"), queue.held)
        yield _metric("runs_total", "Runs that ended.", ("runbook", "exit_code"), listener.runs)
        yield _metric("tellings_total", "Calls of escalation.", ("event", "outcome"), listener.tellings)
        yield _metric("jobs", "Jobs that are remembered.", ("state",), {(s,): states[s] for s in _STATES})
        yield _metric("oldest_waiting_seconds", "Age of the oldest job that waits.", (), {(): max(waiting, default=0)})


def _metric(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> str:
    """Return a metric as Prometheus reads it; the values are by those of the labels."""
    full = f"runbook_listen_{name}"
    lines = [f"# HELP {full} {text}", f"# TYPE {full} {'counter' if name.endswith('_total') else 'gauge'}"]
    for key, value in sorted(values.items()):
        told = ",".join(f'{label}="{_escaped(item)}"' for label, item in zip(labels, key, strict=True))
        lines.append(f"{full}{{{told}}} {value}" if told else f"{full} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class _Server(uvicorn.Server):
    """Says when it listens: port 0 is any free one."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in getattr(self, "servers", []):
            for place in server.sockets:
                say(f"Listening on {place.getsockname()[0]}, port {place.getsockname()[1]}")


def serve(intake: Intake) -> int:
    """Serve until a signal ends it; return whether it could start as an exit code."""
    settings = intake.settings
    # uvicorn sends itself the signal again when it has stopped; to be asked to stop is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = _Server(uvicorn.Config(
        intake.app(), host=settings.address, port=settings.port, access_log=False, log_level="warning", server_header=False,
        ssl_certfile=settings.tls.certificate if settings.tls else None, ssl_keyfile=settings.tls.key if settings.tls else None,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=75, timeout_graceful_shutdown=10, ws="none", h11_max_incomplete_event_size=2**14,
    ))  # fmt: skip
    try:
        server.run()
    except SystemExit:
        return int(ExitCode.FAILED)  # uvicorn has said why, such as a port that is taken
    return int(ExitCode.OK if server.started else ExitCode.FAILED)
