"""One JSON object a line, and plain text on stderr where the log folder cannot be written."""

import json
import logging
import os
import time
import uuid
from contextvars import ContextVar
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from typing import Any, Optional

MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 5
ACCESS_FIELDS = ("method", "path", "status_code", "duration_ms", "client_ip")

request_id: ContextVar[Optional[str]] = ContextVar("request_id", default=None)
user_id: ContextVar[Optional[str]] = ContextVar("user_id", default=None)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, Any] = {
            "timestamp": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "module": record.module,
            "function": record.funcName,
            "line": record.lineno,
            "request_id": request_id.get(),
            "user_id": user_id.get(),
        }
        entry.update({field: getattr(record, field) for field in ACCESS_FIELDS if hasattr(record, field)})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _file(path: str, level: int) -> logging.Handler:
    handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
    handler.setLevel(level)
    handler.setFormatter(JsonFormatter())
    return handler


def configure(folder: str, level: str) -> None:
    handlers: list[logging.Handler] = []
    try:
        os.makedirs(folder, exist_ok=True)
        handlers.append(_file(os.path.join(folder, "llm-cost-tracker.log"), logging.NOTSET))
        handlers.append(_file(os.path.join(folder, "llm-cost-tracker-error.log"), logging.ERROR))
    except OSError as error:
        text = logging.StreamHandler()
        text.setFormatter(logging.Formatter("%(levelname)s:     %(message)s"))
        handlers = [text]
        text.handle(logging.makeLogRecord({"levelname": "WARNING", "msg": f"Logging to stderr: {error}"}))
    logging.basicConfig(level=level, handlers=handlers, force=True)


def hand_over(uid: int, gid: int) -> None:
    """Make the log files opened so far belong to the user who goes on writing them."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            os.chown(handler.baseFilename, uid, gid)


class AccessLog:
    """ASGI middleware: a request id for every line, and one line for every request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id.set(headers.get(b"x-request-id", b"").decode("latin-1")[:64] or str(uuid.uuid4()))
        user_id.set(headers.get(b"x-user-id", b"").decode("latin-1")[:100] or None)
        started = time.monotonic()
        status = 500

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            logging.getLogger("access").info(
                "%s %s %s",
                scope["method"],
                scope["path"],
                status,
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status_code": status,
                    "duration_ms": round((time.monotonic() - started) * 1000, 1),
                    "client_ip": scope["client"][0] if scope.get("client") else None,
                },
            )
