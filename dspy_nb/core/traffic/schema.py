"""The tables of a file of traffic, and how a file that an older version wrote gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

VERSION: Final = 2

# events: one row a request, numbered 1, 2, 3, ... in the order in which they came and never deleted. What columns
# reads of them comes first, because SQLite reads a row from the left. share is B's share of the traffic when the
# unit came, chance the probability with which this request went to B, NULL where it says nothing that an earlier
# one of its unit has not said. Requests of an experiment have no deployment, canary and ref.
# units: the share at which a unit last counted, in an experiment (canary 0) or a canary.
# tests: how far each test has read, and its state. alerts: what was raised, once a deployment and objective.
# deliveries: one row for each alert and target; claim: who is telling it, and until when nobody else shall.
_TABLES: Final = f"""
CREATE TABLE events (
    number INTEGER PRIMARY KEY, is_b INTEGER NOT NULL, chance REAL, share REAL, outcome REAL,
    late INTEGER NOT NULL DEFAULT 0, error TEXT, cached INTEGER NOT NULL DEFAULT 0, latency_us INTEGER,
    finished INTEGER NOT NULL, at REAL NOT NULL, recorded_at REAL, deployment INTEGER, canary INTEGER, ref TEXT,
    request_id TEXT NOT NULL UNIQUE, unit TEXT);
CREATE INDEX by_deployment ON events (deployment, number) WHERE deployment IS NOT NULL;
CREATE INDEX by_canary ON events (canary, number) WHERE canary IS NOT NULL;
CREATE TABLE IF NOT EXISTS units (canary INTEGER, unit TEXT, share REAL NOT NULL, is_b INTEGER NOT NULL,
    PRIMARY KEY (canary, unit)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tests (name TEXT PRIMARY KEY, seen INTEGER NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS alerts (deployment INTEGER, objective TEXT, at REAL NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (deployment, objective));
CREATE TABLE IF NOT EXISTS deliveries (alert TEXT, target TEXT, report TEXT NOT NULL, at REAL NOT NULL, claim TEXT,
    claimed_until REAL, told_at REAL, PRIMARY KEY (alert, target));
PRAGMA user_version = {VERSION}"""

EXPERIMENT: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS splits (id INTEGER PRIMARY KEY, split REAL NOT NULL, set_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE INDEX waiting ON events (at) WHERE chance IS NOT NULL AND outcome IS NULL AND late = 0;
CREATE TRIGGER changed AFTER UPDATE ON events BEGIN INSERT INTO changes (number) VALUES (new.number); END"""
"""What a file of an experiment has besides; an environment would pay for it with each request, for nothing.

changes: the numbers of requests that changed, for who keeps them in memory.
"""

# Version 1 had one schema for experiments and another for environments.
_FROM_EXPERIMENT: Final = (
    "INSERT INTO events SELECT number, is_b, iif(first, split, NULL), split, outcome, late, error, "
    "ifnull(cached, 0), latency_us, latency_us IS NOT NULL, assigned_at, recorded_at, NULL, NULL, NULL, "
    "request_id, unit FROM old JOIN splits ON splits.id = split_id ORDER BY number",
    "INSERT INTO units SELECT 0, unit, share, is_b FROM events WHERE chance IS NOT NULL",
)
_FROM_ENVIRONMENT: Final = (
    "INSERT INTO events SELECT number, is_b, chance, share, outcome, 0, error, cached, latency_us, finished, at, "
    "recorded_at, deployment, canary, ref, request_id, unit FROM old ORDER BY number",
)


def make_tables(connection: sqlite3.Connection, more: str) -> None:
    """Give a file its tables, and ``more`` of them."""
    for statement in f"{_TABLES};\n{more}".split(";\n"):
        connection.execute(statement)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file of version 1 to the present one, within a transaction."""
    for index in ("units", "waiting", "by_deployment", "by_canary"):
        connection.execute(f"DROP INDEX IF EXISTS {index}")
    connection.execute("ALTER TABLE events RENAME TO old")
    of_experiment = any(column[1] == "split_id" for column in connection.execute("PRAGMA table_info(old)"))
    make_tables(connection, EXPERIMENT if of_experiment else "")
    for statement in _FROM_EXPERIMENT if of_experiment else _FROM_ENVIRONMENT:
        connection.execute(statement)
    connection.execute("DROP TABLE old")
