-- The end of a load: packed keys and fresh statistics, so that whatever maintenance finds later was put there by wear.sql.
REINDEX TABLE spans;
REINDEX TABLE llm_metrics;
REINDEX TABLE budget_usage;
VACUUM (FREEZE, ANALYZE);
CHECKPOINT;
