-- One line for each kind of wear that is not there (any more); nothing on a database that is as worn as wear.sql leaves it.
WITH wear (kind, present) AS (
    VALUES
    (
        'expired rows',
        EXISTS (SELECT FROM llm_usage_logs WHERE timestamp < now() - interval '91 days')
        AND EXISTS (SELECT FROM llm_metrics WHERE timestamp < now() - interval '91 days')
        AND EXISTS (SELECT FROM spans WHERE start_time < now() - interval '91 days')
        AND EXISTS (SELECT FROM budget_usage WHERE period_end < now() - interval '366 days')
        AND EXISTS (SELECT FROM llm_usage_logs WHERE timestamp < now() - interval '31 days' AND prompt_text <> '')
    ),
    (
        'dead rows',
        (
            SELECT bool_and(stat.n_dead_tup > 50 + 0.2 * greatest(class.reltuples, 0))
            FROM pg_stat_user_tables AS stat
            INNER JOIN pg_class AS class ON class.oid = stat.relid
            WHERE stat.relname IN ('spans', 'user_sessions')
        )
    ),
    (
        'stale statistics',
        (
            SELECT bool_and(stat.n_mod_since_analyze > 50 + 0.1 * greatest(class.reltuples, 0))
            FROM pg_stat_user_tables AS stat
            INNER JOIN pg_class AS class ON class.oid = stat.relid
            WHERE stat.relname IN ('spans', 'llm_metrics')
        )
    ),
    (
        'stale views',
        (SELECT max(date) FROM daily_usage_summary) < (SELECT (max(timestamp) AT TIME ZONE 'UTC')::date FROM llm_usage_logs)
        AND (SELECT max(date) FROM daily_cost_summary) < (SELECT (max(timestamp) AT TIME ZONE 'UTC')::date FROM llm_metrics)
    ),
    (
        'bloated index',
        -- 72 bytes an entry and 90 % full is what a fresh one takes; the worn one takes more than three times as much.
        (
            SELECT pg_relation_size(index.oid) > 2 * 72 / 0.9 * index.reltuples
            FROM pg_class AS index
            WHERE index.relname = 'ix_llm_usage_logs_trace_span'
        )
    ),
    (
        'invalid index',
        EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('ix_llm_usage_logs_user_id_ccnew') AND NOT indisvalid)
    ),
    ('duplicate index', to_regclass('ix_usage_by_model') IS NOT NULL),
    (
        'foreign key without index',
        EXISTS (
            SELECT FROM pg_constraint
            WHERE
                conrelid = 'budget_usage'::regclass
                AND contype = 'f'
                AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1])
        )
    ),
    ('sequence near its end', (SELECT last_value >= 1975684955 FROM llm_usage_logs_id_seq))
)

SELECT kind FROM wear WHERE present IS NOT TRUE;
