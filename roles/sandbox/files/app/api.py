"""The HTTP interface."""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Callable

from logs import AccessLog
from otlp import BadTrace, calls
from psycopg import DataError, Error
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from store import Store

VERSION = "sandbox"
# Error covers PoolTimeout as well: it is an OperationalError.
DATABASE_ERRORS = (Error, TimeoutError)

log = logging.getLogger("llm_cost_tracker")


class Api:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.started = time.monotonic()
        self.spans_received = 0
        self.requests_failed = 0

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "healthy", "version": VERSION})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        try:
            await self.store.ready()
        except DATABASE_ERRORS as error:
            return self._unavailable({"status": "not ready"}, error)
        return JSONResponse({"status": "ready"})

    async def detailed(self, request: Request) -> Response:
        started = time.monotonic()
        try:
            await self.store.ready()
            database = {"status": "healthy", "latency_ms": round((time.monotonic() - started) * 1000, 1)}
        except DATABASE_ERRORS as error:
            database = {"status": "unhealthy", "error": str(error)}
        return JSONResponse(
            {
                # 200 either way, as in production: whoever looks at the code alone learns nothing.
                "status": "healthy" if database["status"] == "healthy" else "degraded",
                "version": VERSION,
                "uptime_seconds": round(time.monotonic() - self.started),
                "components": {"database": database, "pool": self.store.pool.get_stats()},
            }
        )

    async def metrics(self, request: Request) -> Response:
        try:
            cost, tokens, requests = await self.store.totals()
            database_up = 1
        except DATABASE_ERRORS:
            cost, tokens, requests, database_up = 0, 0, 0, 0
        pool = self.store.pool.get_stats()
        lines = [
            "# TYPE llm_cost_tracker_database_up gauge",
            f"llm_cost_tracker_database_up {database_up}",
            "# TYPE llm_cost_tracker_spans_received_total counter",
            f"llm_cost_tracker_spans_received_total {self.spans_received}",
            "# TYPE llm_cost_tracker_requests_failed_total counter",
            f"llm_cost_tracker_requests_failed_total {self.requests_failed}",
            "# TYPE llm_cost_tracker_pool_connections gauge",
            f"llm_cost_tracker_pool_connections {pool.get('pool_size', 0)}",
            "# TYPE llm_cost_tracker_pool_waiting gauge",
            f"llm_cost_tracker_pool_waiting {pool.get('requests_waiting', 0)}",
        ]
        if database_up:
            lines += [
                f"# TYPE llm_cost_usd_1d gauge\nllm_cost_usd_1d {cost}",
                f"# TYPE llm_tokens_1d gauge\nllm_tokens_1d {tokens}",
                f"# TYPE llm_requests_1d gauge\nllm_requests_1d {requests}",
            ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def traces(self, request: Request) -> Response:
        try:
            received = calls(json.loads(await request.body()))
            await self.store.add(received)
        except (BadTrace, DataError, UnicodeDecodeError, json.JSONDecodeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except DATABASE_ERRORS as error:
            return self._unavailable({"error": "the database is not available"}, error)
        self.spans_received += len(received)
        log.info("Stored %d spans", len(received))
        return JSONResponse({"partialSuccess": {}})

    async def traces_health(self, request: Request) -> Response:
        return JSONResponse({"status": "healthy", "endpoint": "/v1/traces"})

    def _unavailable(self, body: dict[str, Any], error: BaseException) -> Response:
        self.requests_failed += 1
        log.error("Database: %s", error)
        return JSONResponse({**body, "reason": str(error)}, status_code=503)


def build(conninfo: str, when_started: Callable[[], None]) -> AccessLog:
    store = Store(conninfo)
    api = Api(store)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await store.open()
        try:
            await store.ready()
        except DATABASE_ERRORS as error:
            log.warning("Starting without a database: %s", error)
        when_started()
        log.info("Started")
        yield
        await store.close()

    routes = [
        Route("/health", api.health),
        Route("/health/live", api.live),
        Route("/health/ready", api.ready),
        Route("/health/detailed", api.detailed),
        Route("/metrics", api.metrics),
        Route("/v1/traces", api.traces, methods=["POST"]),
        Route("/v1/traces/health", api.traces_health),
    ]
    return AccessLog(Starlette(routes=routes, lifespan=lifespan))
