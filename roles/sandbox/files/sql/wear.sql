-- Half a year without maintenance. Needs a superuser, and a database that was seeded and settled just before: it is not repeatable.
-- Every kind of wear is looked for by missing-wear.sql; a new one belongs there too.

SET synchronous_commit = off;
SET max_parallel_workers_per_gather = 0;

-- A bloated index: built one quarter full. The storage parameter goes again, so that a rebuild packs it.
ALTER INDEX ix_llm_usage_logs_trace_span SET (fillfactor = 25);
REINDEX INDEX ix_llm_usage_logs_trace_span;
ALTER INDEX ix_llm_usage_logs_trace_span RESET (fillfactor);

-- Stale views: yesterday's traffic came after their last refresh.
INSERT INTO llm_usage_logs (
    trace_id, span_id, timestamp, application_name, user_id, model_name, provider,
    input_tokens, output_tokens, total_cost_usd, latency_ms, prompt_text, response_text, metadata
)
SELECT
    md5(trace_id), substr(md5(span_id), 1, 16), timestamp + interval '1 day', application_name, user_id, model_name, provider,
    input_tokens, output_tokens, total_cost_usd, latency_ms, prompt_text, response_text, metadata
FROM llm_usage_logs
WHERE timestamp >= date_trunc('day', now(), 'UTC') - interval '2 days'
ORDER BY id;

INSERT INTO spans
SELECT
    substr(md5(span_id), 1, 16), md5(trace_id), parent_span_id, operation_name, start_time + interval '1 day', end_time + interval '1 day',
    duration_ms, status_code, status_message, attributes, created_at + interval '1 day'
FROM spans
WHERE start_time >= date_trunc('day', now(), 'UTC') - interval '2 days'
ORDER BY start_time;

INSERT INTO llm_metrics
SELECT
    md5(metrics.id::text)::uuid, substr(md5(metrics.span_id), 1, 16), metrics.model_name, metrics.provider, metrics.input_tokens, metrics.output_tokens,
    metrics.total_tokens, metrics.prompt_cost_usd, metrics.completion_cost_usd, metrics.total_cost_usd, metrics.latency_ms, metrics.application_name,
    metrics.user_id, metrics.session_id, metrics.timestamp + interval '1 day'
FROM llm_metrics AS metrics
INNER JOIN spans ON spans.span_id = metrics.span_id
WHERE
    spans.start_time >= date_trunc('day', now(), 'UTC') - interval '2 days'
    AND spans.start_time < date_trunc('day', now(), 'UTC') - interval '1 day'
ORDER BY metrics.timestamp;

-- Dead rows well past 50 + 20 %. The update changes an indexed column: reading never prunes such rows away.
UPDATE spans SET start_time = start_time + interval '1 millisecond' WHERE hashtext(span_id) & 1 = 0;
INSERT INTO user_sessions SELECT 'expired-' || session_id, user_id, application_name FROM user_sessions;
DELETE FROM user_sessions WHERE session_id LIKE 'expired-%';
-- Stale statistics without enough dead rows for a vacuum: the costs of one row in seven were corrected.
UPDATE llm_metrics SET application_name = coalesce(application_name, 'unknown') WHERE hashtext(span_id) % 7 = 0;

-- What an interrupted REINDEX INDEX CONCURRENTLY leaves behind. The flags are set by hand, since interrupting a real one
-- at the right moment is a matter of luck.
CREATE INDEX ix_llm_usage_logs_user_id_ccnew ON llm_usage_logs (user_id);
UPDATE pg_index SET indisvalid = false, indisready = false WHERE indexrelid = 'ix_llm_usage_logs_user_id_ccnew'::regclass;

-- Somebody was not aware of ix_llm_usage_logs_model_name.
CREATE INDEX ix_usage_by_model ON llm_usage_logs (model_name);

-- A foreign key whose column has no index: deleting a rule reads all of budget_usage.
ALTER TABLE budget_usage ADD COLUMN rule_id integer REFERENCES budget_rules (id);

-- The int4 key of the busiest table, at 92 % of its range.
SELECT setval('llm_usage_logs_id_seq', 1975684955);
