"""A writer like the app: 50 transactions a second until its standard input ends; then it prints each one's seconds."""

from __future__ import annotations

import json
import select
import sys
import time

import psycopg

INSERT = """
INSERT INTO llm_usage_logs (trace_id, span_id, timestamp, application_name, user_id, model_name, provider, input_tokens,
                            output_tokens, total_cost_usd, latency_ms, prompt_text, response_text)
VALUES (md5(random()::text), 'bench', now(), 'bench', 'u', 'gpt-4o', 'openai', 10, 10, 0.01, 5, repeat('p', 300), repeat('r', 300))
"""
INTERVAL_SECONDS = 0.02


def main() -> None:
    latencies = []
    with psycopg.connect(sys.argv[1]) as connection:
        print("ready", flush=True)
        due = time.perf_counter()
        while not select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]:
            started = time.perf_counter()
            connection.execute(INSERT)
            connection.commit()
            latencies.append(time.perf_counter() - started)
            due = max(due + INTERVAL_SECONDS, time.perf_counter())
    print(json.dumps(latencies))


if __name__ == "__main__":
    main()
