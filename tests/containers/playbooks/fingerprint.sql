-- One line that changes when any table, index, view, row count or planner statistic of the database does.
SELECT md5(concat_ws('|',
    (SELECT string_agg(concat_ws(',', oid, relname, relfilenode, reltuples, relpages, relfrozenxid), ';' ORDER BY oid)
       FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT string_agg(concat_ws(',', indexrelid, indisvalid, indisready), ';' ORDER BY indexrelid) FROM pg_index),
    (SELECT count(*) FROM llm_usage_logs), (SELECT count(prompt_text) FROM llm_usage_logs), (SELECT count(*) FROM spans),
    (SELECT count(*) FROM llm_metrics), (SELECT sum(total_cost_usd) FROM daily_cost_summary)));
