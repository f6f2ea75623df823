"""OTLP traces as JSON, turned into rows."""

from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Optional

# US dollars for one token: prompt, completion. An unknown model costs nothing rather than something made up.
PRICES = {
    "gpt-4o": (Decimal("0.0000025"), Decimal("0.00001")),
    "gpt-4o-mini": (Decimal("0.00000015"), Decimal("0.0000006")),
    "claude-3-5-sonnet": (Decimal("0.000003"), Decimal("0.000015")),
    "claude-3-haiku": (Decimal("0.00000025"), Decimal("0.00000125")),
    "o1": (Decimal("0.000015"), Decimal("0.00006")),
}
FREE = (Decimal(0), Decimal(0))


class BadTrace(ValueError):
    """The body is no OTLP trace."""


@dataclass
class Call:
    span: tuple[Any, ...]
    attributes: dict[str, Any]
    metric: Optional[tuple[Any, ...]]


def _attributes(pairs: Any) -> dict[str, Any]:
    values = {}
    for pair in pairs or []:
        kind, value = next(iter(pair["value"].items()))
        values[pair["key"]] = int(value) if kind == "intValue" else value
    return values


def _moment(nanoseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(nanoseconds) / 1e9, timezone.utc)


def _metric(span_id: str, attributes: dict[str, Any], milliseconds: int) -> Optional[tuple[Any, ...]]:
    model = attributes.get("gen_ai.response.model") or attributes.get("gen_ai.request.model")
    if not model:
        return None
    tokens_in = int(attributes.get("gen_ai.usage.input_tokens", 0))
    tokens_out = int(attributes.get("gen_ai.usage.output_tokens", 0))
    price_in, price_out = PRICES.get(model, FREE)
    cost_in, cost_out = tokens_in * price_in, tokens_out * price_out
    return (
        span_id,
        model,
        attributes.get("gen_ai.system", "unknown"),
        tokens_in,
        tokens_out,
        tokens_in + tokens_out,
        cost_in,
        cost_out,
        cost_in + cost_out,
        milliseconds,
        attributes.get("service.name"),
        attributes.get("user.id"),
        attributes.get("session.id"),
    )


def _call(span: dict[str, Any], resource: dict[str, Any]) -> Call:
    attributes = {**resource, **_attributes(span.get("attributes"))}
    start, end = _moment(span["startTimeUnixNano"]), _moment(span["endTimeUnixNano"])
    milliseconds = round((end - start).total_seconds() * 1000)
    status = span.get("status") or {}
    row = (
        span["spanId"],
        span["traceId"],
        span.get("parentSpanId") or None,
        span["name"],
        start,
        end,
        milliseconds,
        int(status.get("code", 0)),
        status.get("message"),
    )
    return Call(row, attributes, _metric(span["spanId"], attributes, milliseconds))


def calls(body: Any) -> list[Call]:
    """Given an ExportTraceServiceRequest, return its spans. Raise BadTrace if it is none."""
    try:
        return [
            _call(span, _attributes(resource_spans.get("resource", {}).get("attributes")))
            for resource_spans in body["resourceSpans"]
            for scope_spans in resource_spans["scopeSpans"]
            for span in scope_spans["spans"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise BadTrace(f"not an OTLP trace: {type(error).__name__} {error}") from error
