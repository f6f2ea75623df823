-- Secondary indexes and materialized views; run after the load, or at once on empty tables.

CREATE INDEX ix_spans_trace_id ON spans (trace_id);
CREATE INDEX ix_spans_start_time ON spans (start_time);

CREATE INDEX ix_llm_metrics_timestamp ON llm_metrics (timestamp);
CREATE INDEX ix_llm_metrics_model_name ON llm_metrics (model_name);
CREATE INDEX ix_llm_metrics_application_name ON llm_metrics (application_name);

CREATE INDEX ix_llm_usage_logs_timestamp ON llm_usage_logs (timestamp);
CREATE INDEX ix_llm_usage_logs_user_id ON llm_usage_logs (user_id);
CREATE INDEX ix_llm_usage_logs_model_name ON llm_usage_logs (model_name);
CREATE INDEX ix_llm_usage_logs_application_name ON llm_usage_logs (application_name);
CREATE INDEX ix_llm_usage_logs_trace_span ON llm_usage_logs (trace_id, span_id);

CREATE MATERIALIZED VIEW daily_cost_summary AS
SELECT
    application_name,
    user_id,
    model_name,
    provider,
    (timestamp AT TIME ZONE 'UTC')::date AS date,
    count(*) AS request_count,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(total_cost_usd) AS total_cost_usd,
    avg(latency_ms) AS avg_latency_ms
FROM llm_metrics
GROUP BY 1, 2, 3, 4, 5;

CREATE UNIQUE INDEX ux_daily_cost_summary ON daily_cost_summary (application_name, user_id, model_name, provider, date);

CREATE MATERIALIZED VIEW daily_usage_summary AS
SELECT
    application_name,
    user_id,
    model_name,
    provider,
    (timestamp AT TIME ZONE 'UTC')::date AS date,
    count(*) AS request_count,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(total_cost_usd) AS total_cost_usd,
    avg(latency_ms) AS avg_latency_ms
FROM llm_usage_logs
GROUP BY 1, 2, 3, 4, 5;

CREATE UNIQUE INDEX ux_daily_usage_summary ON daily_usage_summary (application_name, user_id, model_name, provider, date);
