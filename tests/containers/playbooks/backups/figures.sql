-- What a restored database must show, a line each: rows of every table, cost per day, sequences, and what views make of it.
SET timezone = 'UTC';
SELECT format('SELECT %L, count(*) FROM %s', relname, oid::regclass) FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname \gexec
SELECT 'metrics', timestamp::date, count(*), sum(total_cost_usd) FROM llm_metrics GROUP BY 2 ORDER BY 2;
SELECT 'usage', timestamp::date, count(*), sum(total_cost_usd) FROM llm_usage_logs GROUP BY 2 ORDER BY 2;
SELECT 'summary', count(*), sum(total_cost_usd) FROM daily_cost_summary;
SELECT 'index', indexrelid::regclass FROM pg_index WHERE indrelid::regclass::text NOT LIKE 'pg_%' ORDER BY 2;
SELECT 'sequence', sequencename, last_value FROM pg_sequences ORDER BY sequencename;
