-- The tables of an LLM Cost Tracker. Secondary indexes and views follow in indexes.sql: made after the load, they are packed.

CREATE TABLE spans (
    span_id varchar(32) PRIMARY KEY,
    trace_id varchar(32) NOT NULL,
    parent_span_id varchar(32),
    operation_name varchar(255) NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    duration_ms integer,
    status_code integer DEFAULT 0,
    status_message text,
    attributes jsonb,
    created_at timestamptz DEFAULT now()
);

-- No ON DELETE action, as in production: whoever deletes spans has to delete their metrics first.
CREATE TABLE llm_metrics (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    span_id varchar(32) NOT NULL UNIQUE REFERENCES spans (span_id),
    model_name varchar(100) NOT NULL,
    provider varchar(50) NOT NULL,
    input_tokens integer DEFAULT 0,
    output_tokens integer DEFAULT 0,
    total_tokens integer DEFAULT 0,
    prompt_cost_usd numeric(10, 6) DEFAULT 0,
    completion_cost_usd numeric(10, 6) DEFAULT 0,
    total_cost_usd numeric(10, 6) DEFAULT 0,
    latency_ms integer,
    application_name varchar(100),
    user_id varchar(100),
    session_id varchar(100),
    timestamp timestamptz DEFAULT now()
);

CREATE TABLE llm_usage_logs (
    id serial PRIMARY KEY,
    trace_id varchar(32),
    span_id varchar(32),
    timestamp timestamptz DEFAULT now(),
    application_name varchar(100),
    user_id varchar(100),
    model_name varchar(100) NOT NULL,
    provider varchar(50),
    input_tokens integer DEFAULT 0,
    output_tokens integer DEFAULT 0,
    total_cost_usd numeric(10, 6) DEFAULT 0,
    latency_ms integer,
    prompt_text text,
    response_text text,
    metadata jsonb
);

CREATE TABLE budget_usage (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    application_name varchar(100),
    user_id varchar(100),
    period_start date NOT NULL,
    period_end date NOT NULL,
    total_cost_usd numeric(12, 6) DEFAULT 0,
    budget_limit_usd numeric(12, 6),
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(),
    UNIQUE (application_name, user_id, period_start, period_end)
);

CREATE TABLE budget_rules (
    id serial PRIMARY KEY,
    name varchar(255) NOT NULL,
    monthly_limit_usd numeric(12, 2) NOT NULL,
    current_spend_usd numeric(12, 6) DEFAULT 0,
    alert_threshold numeric(4, 2) DEFAULT 0.80,
    auto_switch_enabled boolean DEFAULT false,
    fallback_model varchar(100),
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

CREATE TABLE user_sessions (
    session_id varchar(100) PRIMARY KEY,
    user_id varchar(100),
    application_name varchar(100),
    start_time timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    total_requests integer DEFAULT 0,
    total_cost_usd numeric(12, 6) DEFAULT 0,
    total_tokens bigint DEFAULT 0,
    avg_latency_ms double precision,
    models_used text,
    session_metadata text
);
