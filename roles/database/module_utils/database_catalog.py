# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What maintenance needs to know of a PostgreSQL server, read from its catalogs and counters.

Every function takes a session and returns plain rows (dicts); deciding is the planner's (`database_planner`).
All statements only read. Catalog reference: https://www.postgresql.org/docs/15/catalogs.html
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from ansible.module_utils.runbook_psql import Session, literal

Row = dict[str, Any]

# User tables: pg_toast is reached through its table, temporary tables belong to their session.
_USER_SCHEMA = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"

# 2 = ShareUpdateExclusive and stronger conflict with maintenance (VACUUM, ANALYZE, REINDEX CONCURRENTLY).
_MAINTENANCE_CONFLICTS = (
    "'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'"
)


def server(session: Session) -> Row:
    """Return version, role and rights of the session, settings and limits of the server."""
    return session.rows(
        """
        SELECT current_setting('server_version_num')::int AS version_num,
               current_setting('server_version') AS version,
               current_database() AS database, current_user AS "user", quote_ident(current_user) AS user_ident,
               (SELECT rolinherit FROM pg_roles WHERE rolname = current_user) AS inherits,
               (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database_oid,
               pg_is_in_recovery() AS in_recovery,
               current_setting('default_transaction_read_only')::bool AS read_only,
               (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
               pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitor,
               (SELECT pg_has_role(current_user, datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
                 AS database_owner,
               pg_database_size(current_database()) AS database_bytes,
               extract(epoch FROM now())::bigint AS now,
               (SELECT coalesce(stats_reset, pg_postmaster_start_time()) FROM pg_stat_database
                 WHERE datname = current_database()) AS stats_since,
               (SELECT extract(epoch FROM now() - coalesce(stats_reset, pg_postmaster_start_time()))::bigint
                  FROM pg_stat_database WHERE datname = current_database()) AS stats_seconds,
               (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
               current_setting('autovacuum_vacuum_threshold')::float AS vacuum_threshold,
               current_setting('autovacuum_vacuum_scale_factor')::float AS vacuum_scale_factor,
               current_setting('autovacuum_vacuum_insert_threshold')::float AS insert_threshold,
               current_setting('autovacuum_vacuum_insert_scale_factor')::float AS insert_scale_factor,
               current_setting('autovacuum_analyze_threshold')::float AS analyze_threshold,
               current_setting('autovacuum_analyze_scale_factor')::float AS analyze_scale_factor,
               current_setting('autovacuum_freeze_max_age')::bigint AS freeze_max_age,
               current_setting('autovacuum_multixact_freeze_max_age')::bigint AS multixact_freeze_max_age,
               current_setting('block_size')::int AS block_size
        """
    )[0]


def data_directory(session: Session) -> str | None:
    """Return the server's data directory as the server sees it, None where the role may not know."""
    path = session.value("SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory')")
    return path if isinstance(path, str) else None


def free_bytes(path: str | None, prefix: Sequence[str] = ()) -> int | None:
    """Return the bytes that are free for unprivileged users on the file system of `path`, None if that cannot be told.

    `prefix` is the command that leads to where the path is, such as docker exec NAME; without it, that is this host.
    """
    if not path:
        return None
    if not prefix:
        try:
            stat = os.statvfs(path)
        except OSError:
            return None
        return stat.f_bavail * stat.f_frsize
    try:
        told = subprocess.run([*prefix, "df", "-Pk", path], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Device, blocks, used, free, percent, folder; a device's name may have spaces, so they are counted from the percent.
    found = re.search(r"(\d+) +\d+% ", told.stdout) if told.returncode == 0 else None
    return int(found.group(1)) * 1024 if found else None


def horizon_holders(session: Session) -> list[Row]:
    """Return what holds the xmin horizon of this database: sessions, prepared transactions, slots, standbys.

    Columns: holder (words for a report), kind, age_seconds (None where the server keeps no time), age_xids,
    blocks_vacuum (else it only blocks work that waits for transactions).
    """
    return session.rows(
        """
        SELECT format('session %s of %s (%s, %s)', pid, coalesce(usename, '?'), coalesce(state, 'hidden'),
                      coalesce(nullif(application_name, ''), 'no application name')) AS holder,
               'session' AS kind, pid,
               extract(epoch FROM clock_timestamp() - xact_start)::float AS age_seconds,
               greatest(age(backend_xmin), age(backend_xid)) AS age_xids, true AS blocks_vacuum
          FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
           AND backend_type NOT IN ('autovacuum worker', 'walsender')
           AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
           AND query !~* '^\\s*vacuum'
        UNION ALL
        SELECT format('prepared transaction %s of %s', gid, owner), 'prepared', NULL,
               extract(epoch FROM clock_timestamp() - prepared)::float, age(transaction), true
          FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT format('replication slot %s (%s, %s)', slot_name, slot_type, CASE WHEN active THEN 'active' ELSE 'inactive' END),
               'slot', NULL, NULL, age(xmin), true
          FROM pg_replication_slots WHERE xmin IS NOT NULL
        UNION ALL
        SELECT format('standby %s', coalesce(nullif(application_name, ''), client_addr::text, 'unnamed')),
               'standby', pid, NULL, age(backend_xmin), true
          FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
        """
    )


def tables(session: Session) -> list[Row]:
    """Return one row per user table, partitioned table and materialized view, with counters, ages and sizes in bytes.

    `missing_statistics` lists columns the planner has no statistics for; `held_by` tells who holds a lock that
    conflicts with maintenance.
    """
    return session.rows(
        f"""
        WITH locked AS (
          SELECT l.relation, string_agg(DISTINCT format('session %s (%s)', l.pid, coalesce(a.backend_type, '?')), ', ') AS held_by
            FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
           WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND l.mode IN ({_MAINTENANCE_CONFLICTS})
           GROUP BY l.relation
        ), missing AS (
          SELECT a.attrelid, array_agg(a.attname ORDER BY a.attnum) AS columns
            FROM pg_attribute a
            JOIN pg_class c ON c.oid = a.attrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget IS DISTINCT FROM 0
             AND c.relkind IN ('r', 'm', 'p') AND {_USER_SCHEMA} AND NOT c.relrowsecurity
             AND has_column_privilege(c.oid, a.attnum, 'SELECT')
             AND NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname
                                                     AND s.attname = a.attname)
           GROUP BY a.attrelid
        )
        SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS ident,
               c.relkind AS kind, c.reltuples::float AS reltuples, c.relispartition AS is_partition,
               EXISTS (SELECT FROM pg_inherits i JOIN pg_class k ON k.oid = i.inhrelid
                        WHERE i.inhparent = c.oid AND k.relkind IN ('r', 'p')) AS has_children,
               CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_relation_size(c.oid) END AS heap_bytes,
               CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_total_relation_size(c.oid) END AS total_bytes,
               coalesce(s.n_dead_tup, 0) AS dead_rows, coalesce(s.n_live_tup, 0) AS live_rows,
               coalesce(s.n_mod_since_analyze, 0) AS changed_rows, coalesce(s.n_ins_since_vacuum, 0) AS inserted_rows,
               coalesce(s.n_tup_ins + s.n_tup_upd + s.n_tup_del, 0) AS writes,
               s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL AS analyzed,
               CASE WHEN c.relkind = 'p' THEN 0 ELSE greatest(age(c.relfrozenxid), coalesce(age(t.relfrozenxid), 0)) END AS xid_age,
               CASE WHEN c.relkind = 'p' THEN 0 ELSE greatest(mxid_age(c.relminmxid), coalesce(mxid_age(t.relminmxid), 0)) END AS mxid_age,
               coalesce((SELECT json_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(c.reloptions) o), '{{}}') AS options,
               CASE WHEN c.relkind <> 'm' OR c.relispopulated THEN m.columns END AS missing_statistics,
               k.held_by, pg_has_role(c.relowner, 'USAGE') AS owner, quote_ident(pg_get_userbyid(c.relowner)) AS owner_ident,
               {_may("DELETE")} AS may_delete, {_may("UPDATE")} AS may_update, {_may("SELECT")} AS may_select,
               {_maintain(session)} AS may_maintain
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
          LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
          LEFT JOIN missing m ON m.attrelid = c.oid
          LEFT JOIN locked k ON k.relation = c.oid
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND {_USER_SCHEMA}
         ORDER BY pg_total_relation_size(c.oid) DESC, c.oid
        """
    )


def _may(privilege: str) -> str:
    return f"has_table_privilege(c.oid, '{privilege}')"


def _maintain(session: Session) -> str:
    # MAINTAIN, and the role pg_maintain with it, came with PostgreSQL 17.
    if session.server_version_num >= 170000:
        return "has_table_privilege(c.oid, 'MAINTAIN')"
    return "pg_has_role(c.relowner, 'USAGE')"


def indexes(session: Session) -> list[Row]:
    """Return one row per index of a user table (and per invalid TOAST index) with what judging it needs.

    `columns` has, per key column, name (None for an expression), average width in bytes, fraction of NULLs, number
    of distinct values (negative: a fraction of the rows) and whether its type can be deduplicated; None where the
    statistics are missing. `build` says whether a backend is building it or its table's indexes now.
    """
    return session.rows(
        f"""
        WITH building AS (
          SELECT DISTINCT p.relid, p.index_relid, p.pid FROM pg_stat_progress_create_index p
           WHERE p.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ), locked AS (
          SELECT DISTINCT l.relation FROM pg_locks l
           WHERE l.locktype = 'relation' AND l.pid <> pg_backend_pid() AND l.granted
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND l.mode IN ({_MAINTENANCE_CONFLICTS})
        )
        SELECT i.oid::bigint AS oid, n.nspname AS schema, i.relname AS name, format('%I.%I', n.nspname, i.relname) AS ident,
               t.oid::bigint AS table_oid, format('%I.%I', tn.nspname, t.relname) AS table_ident, t.relname AS table_name,
               t.relkind AS table_kind, am.amname AS method, i.relkind AS kind,
               pg_relation_size(i.oid) AS bytes, i.reltuples::float AS reltuples, i.relpages AS pages,
               t.reltuples::float AS table_reltuples,
               x.indisvalid AND x.indisready AS valid, x.indisunique AS is_unique, x.indisprimary AS is_primary,
               x.indpred IS NOT NULL AS partial, x.indexprs IS NOT NULL AS has_expressions, x.indisexclusion AS is_exclusion,
               EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid) AS backs_constraint,
               coalesce(s.idx_scan, 0) AS scans,
               concat_ws('|', x.indrelid, x.indkey::text, x.indclass::text, x.indcollation::text, x.indoption::text,
                         pg_get_expr(x.indexprs, x.indrelid), pg_get_expr(x.indpred, x.indrelid), i.relam, x.indnkeyatts)
                 AS definition,
               (i.oid IN (SELECT index_relid FROM building) OR t.oid IN (SELECT relid FROM building)) AS building,
               (i.oid IN (SELECT relation FROM locked) OR t.oid IN (SELECT relation FROM locked)) AS locked,
               coalesce((SELECT option_value::int FROM pg_options_to_table(i.reloptions) WHERE option_name = 'fillfactor'), 90) AS fillfactor,
               coalesce((SELECT option_value::bool FROM pg_options_to_table(i.reloptions) WHERE option_name = 'deduplicate_items'), true)
                 AND x.indnatts = x.indnkeyatts AS may_deduplicate,
               pg_has_role(i.relowner, 'USAGE') AS owner, quote_ident(pg_get_userbyid(i.relowner)) AS owner_ident,
               (SELECT json_agg(json_build_object(
                         'name', a.attname, 'width', ps.avg_width, 'nulls', ps.null_frac, 'distinct', ps.n_distinct,
                         'length', a.attlen, 'align', a.attalign,
                         'deduplicates', a.atttypid::regtype::text NOT IN ('numeric', 'real', 'double precision', 'jsonb')
                                         AND ty.typtype NOT IN ('c', 'r', 'm') AND ty.typcategory <> 'A') ORDER BY a.attnum)
                  FROM pg_attribute a
                  JOIN pg_type ty ON ty.oid = a.atttypid
                  LEFT JOIN pg_attribute ta ON ta.attrelid = t.oid AND ta.attnum = x.indkey[a.attnum - 1] AND ta.attnum > 0
                  LEFT JOIN pg_stats ps ON ps.schemaname = tn.nspname
                       AND ps.tablename = CASE WHEN ta.attname IS NULL THEN i.relname ELSE t.relname END
                       AND ps.attname = coalesce(ta.attname, a.attname)
                       AND ps.inherited = (t.relkind = 'p')
                 WHERE a.attrelid = i.oid AND a.attnum > 0) AS columns
          FROM pg_index x
          JOIN pg_class i ON i.oid = x.indexrelid
          JOIN pg_namespace n ON n.oid = i.relnamespace
          JOIN pg_class t ON t.oid = x.indrelid
          JOIN pg_namespace tn ON tn.oid = t.relnamespace
          JOIN pg_am am ON am.oid = i.relam
          LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = i.oid
         WHERE i.relkind = 'i' AND t.relpersistence <> 't'
           AND ((n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)')
                OR (n.nspname = 'pg_toast' AND NOT x.indisvalid))
         ORDER BY pg_relation_size(i.oid) DESC, i.oid
        """
    )


def foreign_keys(session: Session) -> list[Row]:
    """Return one row per foreign key: child, parent, their key columns, and whether an index serves the child's."""
    return session.rows(
        f"""
        SELECT k.conname AS name, c.oid::bigint AS child_oid, format('%I.%I', n.nspname, c.relname) AS child_ident,
               p.oid::bigint AS parent_oid, format('%I.%I', pn.nspname, p.relname) AS parent_ident,
               k.confdeltype AS on_delete,
               (SELECT array_agg(quote_ident(a.attname) ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY u(num, place)
                  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num) AS child_columns,
               (SELECT array_agg(quote_ident(a.attname) ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY u(num, place)
                  JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num) AS parent_columns,
               EXISTS (SELECT FROM pg_index x WHERE x.indrelid = k.conrelid AND x.indisvalid AND x.indpred IS NULL
                          AND (x.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                          AND k.conkey @> (x.indkey::int2[])[0:cardinality(k.conkey) - 1]) AS indexed,
               pg_relation_size(c.oid) AS child_bytes, {_may("SELECT")} AS child_may_select,
               row_security_active(c.oid) AS child_hides_rows
          FROM pg_constraint k
          JOIN pg_class c ON c.oid = k.conrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class p ON p.oid = k.confrelid
          JOIN pg_namespace pn ON pn.oid = p.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0 AND {_USER_SCHEMA}
         ORDER BY pg_relation_size(c.oid) DESC, k.conname
        """
    )


def views(session: Session) -> list[Row]:
    """Return one row per materialized view: size, how it can be refreshed, and the tables it is made from.

    `writes` is the sum of the write counters of all tables below it (also through other views): it moves when a
    source changed; nothing counts the writes of a `foreign_source`. `unique_index` says whether one fit for
    CONCURRENTLY exists, `nullable_keys` which of its columns hold NULLs, `views_below` the materialized views it reads.
    """
    return session.rows(
        f"""
        WITH RECURSIVE reads AS (
          SELECT c.oid AS view, d.refobjid AS source FROM pg_class c
            JOIN pg_rewrite r ON r.ev_class = c.oid
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                            AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
           WHERE c.relkind IN ('m', 'v')
        ), edges AS (
          SELECT view, source FROM reads
          UNION SELECT inhparent, inhrelid FROM pg_inherits
        ), below AS (
          SELECT view, source FROM reads
          UNION
          SELECT b.view, e.source FROM below b JOIN edges e ON e.view = b.source
        ), fit AS (
          SELECT DISTINCT ON (x.indrelid) x.indrelid, x.indkey FROM pg_index x
           WHERE x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indimmediate
           ORDER BY x.indrelid, x.indexrelid
        )
        SELECT c.oid::bigint AS oid, format('%I.%I', n.nspname, c.relname) AS ident, c.relispopulated AS populated,
               pg_total_relation_size(c.oid) AS bytes, pg_has_role(c.relowner, 'USAGE') AS owner,
               quote_ident(pg_get_userbyid(c.relowner)) AS owner_ident, {_maintain(session)} AS may_maintain,
               f.indrelid IS NOT NULL AS unique_index,
               (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                  JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
                 WHERE a.attrelid = c.oid AND a.attnum = ANY (f.indkey) AND s.null_frac > 0) AS nullable_keys,
               (SELECT array_agg(DISTINCT b.source::bigint) FROM below b JOIN pg_class k ON k.oid = b.source
                 WHERE b.view = c.oid AND k.relkind = 'm') AS views_below,
               (SELECT coalesce(sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del), 0)::bigint
                  FROM (SELECT DISTINCT source FROM below WHERE view = c.oid) b
                  JOIN pg_class k ON k.oid = b.source AND k.relkind <> 'm'
                  JOIN pg_stat_all_tables s ON s.relid = b.source) AS writes,
               EXISTS (SELECT FROM below b JOIN pg_class k ON k.oid = b.source WHERE b.view = c.oid AND k.relkind = 'f') AS foreign_source
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN fit f ON f.indrelid = c.oid
         WHERE c.relkind = 'm' AND {_USER_SCHEMA}
         ORDER BY c.oid
        """
    )


def sequences(session: Session) -> list[Row]:
    """Return one row per used sequence with its last value and the largest one that it and its column can hold."""
    return session.rows(
        """
        SELECT format('%I.%I', s.schemaname, s.sequencename) AS ident, s.last_value, s.increment_by, s.cycle,
               least(s.max_value, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                                                  ELSE 9223372036854775807 END) AS limit_value,
               CASE WHEN d.refobjid IS NULL THEN NULL ELSE format('%s.%I', d.refobjid::regclass, a.attname) END AS column_ident
          FROM pg_sequences s
          JOIN pg_class c ON c.relname = s.sequencename AND c.relkind = 'S'
          JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname
          LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                               AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
          LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE s.last_value IS NOT NULL AND s.increment_by > 0
         ORDER BY 1
        """
    )


def partitions(session: Session, parent_oid: int) -> list[Row]:
    """Return the direct partitions of a table: bounds as text, and whether one is the default or half detached."""
    return session.rows(
        f"""
        SELECT c.oid::bigint AS oid, format('%I.%I', n.nspname, c.relname) AS ident, c.relkind AS kind,
               pg_get_expr(c.relpartbound, c.oid) AS bound, i.inhdetachpending AS detach_pending,
               (SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree(c.oid)) AS bytes,
               EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = {int(parent_oid)}) AS referenced
          FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE i.inhparent = {int(parent_oid)}
         ORDER BY c.relname
        """
    )


def partition_key(session: Session, table_oid: int) -> Row:
    """Return strategy ('r' range, 'l' list, 'h' hash) and the key columns of a partitioned table."""
    return session.rows(
        f"""
        SELECT p.partstrat AS strategy, p.partexprs IS NOT NULL AS has_expressions,
               (SELECT array_agg(a.attname) FROM pg_attribute a
                 WHERE a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs)) AS columns
          FROM pg_partitioned_table p WHERE p.partrelid = {int(table_oid)}
        """
    )[0]


def columns(session: Session, table_oid: int) -> list[Row]:
    """Return the columns of a table: name, quoted name, type, whether it may be NULL, is generated, leads an index.

    A domain's type is the one it is made of, and it may be NULL only if all it is made of may.
    """
    return session.rows(
        f"""
        SELECT a.attname AS name, quote_ident(a.attname) AS ident, d.type, a.attgenerated <> '' AS generated,
               NOT (a.attnotnull OR d.not_null) AS nullable,
               EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
                        WHERE x.indrelid = a.attrelid AND x.indisvalid AND x.indkey[0] = a.attnum AND x.indpred IS NULL
                          AND m.amname IN ('btree')) AS leads_index
          FROM pg_attribute a,
               LATERAL (WITH RECURSIVE made_of AS (
                          SELECT ty.oid, ty.typbasetype, ty.typnotnull FROM pg_type ty WHERE ty.oid = a.atttypid
                          UNION ALL
                          SELECT ty.oid, ty.typbasetype, ty.typnotnull FROM pg_type ty JOIN made_of m ON ty.oid = m.typbasetype
                        ) SELECT bool_or(typnotnull) AS not_null,
                                 max(oid::regtype::text) FILTER (WHERE typbasetype = 0) AS type FROM made_of) d
         WHERE a.attrelid = {int(table_oid)} AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum
        """
    )


def find_table(session: Session, name: str) -> list[Row]:
    """Return the tables called `name`, given as table or schema.table, exactly as they are spelled in the catalog."""
    where = f"{literal(name)} IN (c.relname, n.nspname || '.' || c.relname)"
    return session.rows(
        f"""
        SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS ident,
               c.relkind AS kind, {_may("DELETE")} AS may_delete, {_may("UPDATE")} AS may_update,
               {_may("SELECT")} AS may_select, pg_has_role(c.relowner, 'USAGE') AS owner,
               row_security_active(c.oid) AS hides_rows,
               EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {where} AND {_USER_SCHEMA} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        """
    )


def lock_holders(session: Session, oids: Sequence[int]) -> dict[int, str]:
    """Return, for each of the relations that is locked against maintenance, who holds it."""
    rows = session.rows(
        f"""
        SELECT l.relation::bigint AS oid,
               string_agg(DISTINCT format('session %s (%s)', l.pid, coalesce(nullif(a.application_name, ''), a.backend_type, '?')), ', ')
                 AS held_by
          FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() AND l.mode IN ({_MAINTENANCE_CONFLICTS})
           AND l.relation = ANY ({literal("{" + ",".join(str(int(o)) for o in oids) + "}")}::oid[])
         GROUP BY l.relation
        """
    )
    return {row["oid"]: row["held_by"] for row in rows}


def settings(session: Session, names: Sequence[str]) -> dict[str, str]:
    """Return the values of settings by name, in the server's own units."""
    wanted = ", ".join(literal(name) for name in names)
    return {
        r["name"]: r["setting"] for r in session.rows(f"SELECT name, setting FROM pg_settings WHERE name IN ({wanted})")
    }


def checkpoints(session: Session) -> Row:
    """Return how many checkpoints came by time and how many were requested since the statistics were reset."""
    if session.server_version_num >= 170000:
        return session.rows("SELECT num_timed AS timed, num_requested AS requested FROM pg_stat_checkpointer")[0]
    return session.rows("SELECT checkpoints_timed AS timed, checkpoints_req AS requested FROM pg_stat_bgwriter")[0]


def try_advisory_lock(session: Session) -> bool:
    """Take the lock that keeps two maintenance runs on one database apart; it ends with the session."""
    return bool(
        session.value(
            "SELECT pg_try_advisory_lock(hashtext('llmct-maint'), "
            "(SELECT oid::int8::bit(32)::int4 FROM pg_database WHERE datname = current_database()))"
        )
    )


def advisory_lock_holder(session: Session) -> str:
    """Return in words who holds the maintenance lock on this database."""
    rows = session.rows(
        """
        SELECT format('session %s of %s since %s', l.pid, coalesce(a.usename, '?'), a.backend_start) AS holder
          FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = (hashtext('llmct-maint')::int8::bit(32)::int8)::oid
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """
    )
    return rows[0]["holder"] if rows else "a session that has just ended"
