-- 179 days of usage, up to the day before yesterday; yesterday is what wear.sql adds.
-- Deterministic: every value is a hash of the row's number, so two runs on one day give the same rows.
-- Volume by the setting sandbox.scale: 1 = 200,000 usage rows, 60,000 spans and as many metrics.

SET synchronous_commit = off;
SET max_parallel_workers_per_gather = 0;

-- In [0, 1), the same for the same row and purpose.
CREATE FUNCTION pg_temp.chance(row_number bigint, purpose bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE
RETURN (hashint8extended(row_number, purpose) & 4294967295) / 4294967296.0::double precision;

CREATE FUNCTION pg_temp.pick(choices text[], row_number bigint, purpose bigint) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN choices[1 + floor(pg_temp.chance(row_number, purpose) * cardinality(choices))::integer];

CREATE TEMPORARY TABLE seed AS
SELECT
    greatest(1000, round(200000 * scale))::bigint AS usage_rows,
    greatest(500, round(60000 * scale))::bigint AS spans,
    greatest(400, round(20000 * scale))::bigint AS sessions,
    greatest(50, round(1000 * sqrt(scale)))::bigint AS users,
    date_trunc('day', now(), 'UTC') - interval '180 days' AS first_moment,
    interval '179 days' AS duration,
    ARRAY['support-bot', 'doc-search', 'code-review', 'report-writer', 'translator', 'sales-mail'] AS applications,
    -- Repeated names are drawn more often: most traffic goes to the small models.
    ARRAY['gpt-4o', 'gpt-4o-mini', 'gpt-4o-mini', 'gpt-4o-mini', 'claude-3-5-sonnet', 'claude-3-5-sonnet', 'claude-3-haiku', 'claude-3-haiku', 'o1'] AS models
FROM (SELECT current_setting('sandbox.scale')::numeric AS scale) AS wanted;

CREATE TEMPORARY TABLE price (model_name, provider, per_input_token, per_output_token) AS
VALUES
    ('gpt-4o', 'openai', 0.0000025, 0.00001),
    ('gpt-4o-mini', 'openai', 0.00000015, 0.0000006),
    ('claude-3-5-sonnet', 'anthropic', 0.000003, 0.000015),
    ('claude-3-haiku', 'anthropic', 0.00000025, 0.00000125),
    ('o1', 'openai', 0.000015, 0.00006);

CREATE TEMPORARY TABLE phrase AS
SELECT
    ARRAY[
        'Summarise the attached contract in five points. ',
        'The customer says that the parcel has not arrived and asks for a refund. ',
        'Explain why this query is slow and propose an index. ',
        'Translate the following paragraph into German, keeping the tone. ',
        'Write a friendly reminder about the open invoice. ',
        'List the risks of moving the service to another region. ',
        'Review this change for mistakes and missing tests. ',
        'Answer in the language of the question and cite the page. ',
        'My name is Alex Example, customer number 4711-0815. ',
        'Keep it short and avoid technical terms. '
    ] AS prompts,
    ARRAY[
        'The contract runs for two years and renews itself unless it is cancelled three months before its end. ',
        'I am sorry to hear that. The carrier reports a delay at the depot; the parcel should arrive within two working days. ',
        'The planner reads the whole table because the condition wraps the column in a function. ',
        'Vielen Dank fuer Ihre Nachricht, wir melden uns so bald wie moeglich bei Ihnen. ',
        'This is a kind reminder that the invoice of last month is still open. ',
        'The main risks are latency for existing users, data residency and the cost of egress. ',
        'The change looks sound, yet the error path is not covered by a test. ',
        'According to page 12 the warranty covers parts but not labour. ',
        'Please let me know whether you would like me to go into more detail. ',
        'In short: yes, provided that the deadline is kept. '
    ] AS responses;

INSERT INTO llm_usage_logs (
    trace_id, span_id, timestamp, application_name, user_id, model_name, provider,
    input_tokens, output_tokens, total_cost_usd, latency_ms, prompt_text, response_text, metadata
)
SELECT
    md5('trace' || drawn.n),
    substr(md5('span' || drawn.n), 1, 16),
    drawn.moment,
    drawn.application_name,
    drawn.user_id,
    drawn.model_name,
    price.provider,
    drawn.input_tokens,
    drawn.output_tokens,
    drawn.input_tokens * price.per_input_token + drawn.output_tokens * price.per_output_token,
    200 + floor(4000 * pg_temp.chance(drawn.n, 8))::integer,
    pg_temp.pick(phrase.prompts, drawn.n, 9) || pg_temp.pick(phrase.prompts, drawn.n, 10),
    pg_temp.pick(phrase.responses, drawn.n, 11)
    || pg_temp.pick(phrase.responses, drawn.n, 12)
    || pg_temp.pick(phrase.responses, drawn.n, 13)
    -- Some answers are long enough to be stored out of line (TOAST).
    || CASE WHEN drawn.n % 200 = 0 THEN (SELECT string_agg(md5(drawn.n::text || part), ' ') FROM generate_series(1, 120) AS part) ELSE '' END,
    jsonb_build_object('temperature', round(pg_temp.chance(drawn.n, 14)::numeric, 1), 'stream', drawn.n % 3 = 0)
FROM (
    SELECT
        n,
        seed.first_moment + seed.duration * ((n - 1 + pg_temp.chance(n, 1)) / seed.usage_rows) AS moment,
        CASE WHEN n % 211 <> 0 THEN pg_temp.pick(seed.applications, n, 2) END AS application_name,
        CASE WHEN n % 97 <> 0 THEN 'user-' || lpad(floor(seed.users * pg_temp.chance(n, 3) ^ 2)::text, 5, '0') END AS user_id,
        pg_temp.pick(seed.models, n, 4) AS model_name,
        20 + floor(1500 * pg_temp.chance(n, 5))::integer AS input_tokens,
        10 + floor(800 * pg_temp.chance(n, 6))::integer AS output_tokens
    FROM seed, generate_series(1, seed.usage_rows) AS n
) AS drawn
INNER JOIN price ON price.model_name = drawn.model_name
CROSS JOIN phrase
ORDER BY drawn.n;

INSERT INTO spans (
    span_id, trace_id, parent_span_id, operation_name, start_time, end_time, duration_ms,
    status_code, status_message, attributes, created_at
)
SELECT
    substr(md5('span' || n), 1, 16),
    md5('trace' || n),
    CASE WHEN n % 4 = 0 THEN substr(md5('parent' || n), 1, 16) END,
    CASE n % 3 WHEN 0 THEN 'llm.embedding' ELSE 'llm.chat.completion' END,
    moment,
    moment + milliseconds * interval '1 millisecond',
    milliseconds,
    CASE WHEN n % 50 = 0 THEN 2 ELSE 1 END,
    CASE WHEN n % 50 = 0 THEN 'upstream timed out' END,
    jsonb_build_object('gen_ai.request.model', model_name, 'service.name', application_name, 'deployment.environment', 'production'),
    moment
FROM (
    SELECT
        n,
        seed.first_moment + seed.duration * ((n - 1 + pg_temp.chance(n, 21)) / seed.spans) AS moment,
        200 + floor(4000 * pg_temp.chance(n, 22))::integer AS milliseconds,
        pg_temp.pick(seed.models, n, 23) AS model_name,
        pg_temp.pick(seed.applications, n, 24) AS application_name
    FROM seed, generate_series(1, seed.spans) AS n
) AS drawn
ORDER BY n;

INSERT INTO llm_metrics (
    id, span_id, model_name, provider, input_tokens, output_tokens, total_tokens,
    prompt_cost_usd, completion_cost_usd, total_cost_usd, latency_ms, application_name, user_id, session_id, timestamp
)
SELECT
    md5('metric' || drawn.n)::uuid,
    substr(md5('span' || drawn.n), 1, 16),
    drawn.model_name,
    price.provider,
    drawn.input_tokens,
    drawn.output_tokens,
    drawn.input_tokens + drawn.output_tokens,
    drawn.input_tokens * price.per_input_token,
    drawn.output_tokens * price.per_output_token,
    round(drawn.input_tokens * price.per_input_token, 6) + round(drawn.output_tokens * price.per_output_token, 6),
    drawn.milliseconds,
    CASE WHEN drawn.n % 211 <> 0 THEN drawn.application_name END,
    drawn.user_id,
    'session-' || lpad((drawn.n % drawn.sessions)::text, 8, '0'),
    -- timestamp is the time of arrival: a few exporters deliver up to a day late, so that a span can be older than its metric.
    least(drawn.moment + CASE WHEN drawn.n % 100 = 0 THEN interval '1 day' ELSE interval '2 seconds' END, drawn.last_moment)
FROM (
    SELECT
        n,
        seed.sessions,
        seed.first_moment + seed.duration AS last_moment,
        seed.first_moment + seed.duration * ((n - 1 + pg_temp.chance(n, 21)) / seed.spans) AS moment,
        200 + floor(4000 * pg_temp.chance(n, 22))::integer AS milliseconds,
        pg_temp.pick(seed.models, n, 23) AS model_name,
        pg_temp.pick(seed.applications, n, 24) AS application_name,
        CASE WHEN n % 97 <> 0 THEN 'user-' || lpad(floor(seed.users * pg_temp.chance(n, 25) ^ 2)::text, 5, '0') END AS user_id,
        20 + floor(1500 * pg_temp.chance(n, 26))::integer AS input_tokens,
        10 + floor(800 * pg_temp.chance(n, 27))::integer AS output_tokens
    FROM seed, generate_series(1, seed.spans) AS n
) AS drawn
INNER JOIN price ON price.model_name = drawn.model_name
ORDER BY drawn.n;

INSERT INTO user_sessions
SELECT
    'session-' || lpad(n::text, 8, '0'),
    'user-' || lpad(floor(seed.users * pg_temp.chance(n, 31) ^ 2)::text, 5, '0'),
    pg_temp.pick(seed.applications, n, 32),
    moment.started,
    moment.started + interval '1 hour' * pg_temp.chance(n, 33),
    1 + floor(40 * pg_temp.chance(n, 34))::integer,
    round((2 * pg_temp.chance(n, 35))::numeric, 6),
    1000 + floor(50000 * pg_temp.chance(n, 36))::bigint,
    300 + 2000 * pg_temp.chance(n, 37),
    pg_temp.pick(seed.models, n, 38),
    '{"client": "web"}'
FROM seed
CROSS JOIN generate_series(0, seed.sessions - 1) AS n
CROSS JOIN LATERAL (SELECT seed.first_moment + seed.duration * (n::double precision / seed.sessions) AS started) AS moment;

INSERT INTO budget_rules (name, monthly_limit_usd, current_spend_usd, alert_threshold, auto_switch_enabled, fallback_model)
SELECT
    'Monthly budget of ' || application,
    500 * number,
    100 * number,
    0.80,
    number % 2 = 0,
    'gpt-4o-mini'
FROM seed, unnest(seed.applications) WITH ORDINALITY AS applications (application, number);

-- 18 months of budgets, so that the oldest half year is older than the 365 days they are kept.
INSERT INTO budget_usage (id, application_name, user_id, period_start, period_end, total_cost_usd, budget_limit_usd, created_at, updated_at)
SELECT
    md5(concat_ws('/', 'budget', application, month, user_number))::uuid,
    application,
    'user-' || lpad(user_number::text, 5, '0'),
    period.first_day,
    period.last_day,
    round((400 * pg_temp.chance(month * 1000 + user_number, 41))::numeric, 6),
    500,
    period.first_day,
    period.last_day
FROM seed
CROSS JOIN unnest(seed.applications) AS application
CROSS JOIN generate_series(0, 17) AS month
CROSS JOIN generate_series(0, least(seed.users, 100) - 1) AS user_number
CROSS JOIN LATERAL (
    SELECT
        (date_trunc('month', now(), 'UTC') - month * interval '1 month')::date AS first_day,
        (date_trunc('month', now(), 'UTC') - month * interval '1 month' + interval '1 month - 1 day')::date AS last_day
) AS period;
