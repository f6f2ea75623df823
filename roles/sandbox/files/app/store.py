"""The database side: a pool that outlives restarts of the server, and keeps time when it hangs."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from otlp import Call
from psycopg import AsyncConnection, OperationalError
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

T = TypeVar("T")

POOL_MAX = 5

ADD_SPAN = """
    INSERT INTO spans (span_id, trace_id, parent_span_id, operation_name, start_time, end_time, duration_ms,
                       status_code, status_message, attributes)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (span_id) DO NOTHING
"""
ADD_METRIC = """
    INSERT INTO llm_metrics (span_id, model_name, provider, input_tokens, output_tokens, total_tokens,
                             prompt_cost_usd, completion_cost_usd, total_cost_usd, latency_ms,
                             application_name, user_id, session_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (span_id) DO NOTHING
"""
TOTALS = """
    SELECT coalesce(sum(total_cost_usd), 0), coalesce(sum(total_tokens), 0), count(*)
    FROM llm_metrics WHERE timestamp >= now() - interval '1 day'
"""


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Return what `work` returns, or raise TimeoutError after `seconds`.

    Work that is late is left alone instead of cancelled: to cancel a query psycopg asks the server, and a
    frozen server is just what the time limit is there for.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise TimeoutError(f"no answer from the database within {seconds:g} s")
    return task.result()


class Store:
    def __init__(self, conninfo: str) -> None:
        self.pool = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=POOL_MAX,
            timeout=2,
            # Short, so that the first request after an outage finds a fresh attempt and no long back-off.
            reconnect_timeout=5,
            open=False,
            kwargs={"autocommit": True, "application_name": "llm-cost-tracker", "connect_timeout": 3},
        )

    async def open(self) -> None:
        await self.pool.open(wait=False)

    async def close(self) -> None:
        await self.pool.close(timeout=2)

    async def _run(self, work: Any) -> Any:
        """Give `work` a connection, and a fresh one when a restart of the server cut that off."""
        try:
            async with self.pool.connection() as connection:
                return await work(connection)
        except PoolTimeout:
            raise
        except OperationalError:
            await self.pool.check()
            async with self.pool.connection() as connection:
                return await work(connection)

    async def read(self, query: str) -> tuple[Any, ...]:
        async def work(connection: AsyncConnection) -> tuple[Any, ...]:
            cursor = await connection.execute(query)
            return await cursor.fetchone() or ()

        return await within(3, self._run(work))

    async def ready(self) -> None:
        """Raise unless the tracker's own tables can be read."""
        await self.read("SELECT (SELECT 1 FROM spans LIMIT 1), (SELECT 1 FROM llm_metrics LIMIT 1)")

    async def totals(self) -> tuple[Any, ...]:
        return await self.read(TOTALS)

    async def add(self, calls: list[Call]) -> None:
        spans = [(*call.span, Jsonb(call.attributes)) for call in calls]
        metrics = [call.metric for call in calls if call.metric]

        async def work(connection: AsyncConnection) -> None:
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(ADD_SPAN, spans)
                if metrics:
                    await cursor.executemany(ADD_METRIC, metrics)

        await within(10, self._run(work))
