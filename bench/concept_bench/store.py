"""Stores results in a SQLite file: one row a task, written when the task ends, with all that is needed to repeat it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.concept_bench.tasks import Task

# Text columns that a result must fill; `concepts` and `figures` are JSON.
TEXTS = (
    "key",
    "model",
    "ask",
    "method",
    "concepts",
    "command",
    "pack_version",
    "git_commit",
    "machine",
    "torch_version",
)
COLUMNS = (*TEXTS, "seed", "seconds", "figures", "made_at")
_TEXT_COLUMNS = ", ".join(f"{c} TEXT NOT NULL CHECK (length({c}) > 0)" for c in TEXTS if c != "key")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY CHECK (length(key) > 0), {_TEXT_COLUMNS},
  seed INTEGER NOT NULL, seconds REAL NOT NULL, figures TEXT NOT NULL, made_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (key TEXT NOT NULL, error TEXT NOT NULL, command TEXT NOT NULL, made_at TEXT NOT NULL);
"""


def is_complete(row: dict[str, Any]) -> bool:
    """Whether a row has its figures and all that is needed to repeat it."""
    numbers = isinstance(row.get("seed"), int) and isinstance(row.get("seconds"), int | float)
    return (
        numbers
        and all(isinstance(row.get(c), str) and row[c] for c in TEXTS if c != "concepts")
        and bool(row.get("concepts"))
        and bool(row.get("figures"))
    )


class Store:
    """The results of ConceptBench in a SQLite file. One process writes at a time, any number may read.

    Parameters
    ----------
    path
        The file; a new one is made unless `read_only`.
    read_only
        Opens an existing file without writing to it or beside it. Raises sqlite3.OperationalError where there is none.

    Notes
    -----
    The journal mode is DELETE: in WAL mode even a reader leaves two files beside a database that is kept in git.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        if read_only:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._database.execute("PRAGMA journal_mode=DELETE")
            self._database.executescript(_SCHEMA)
        self._database.row_factory = sqlite3.Row

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def put(self, row: dict[str, Any]) -> bool:
        """Stores a result and returns whether it was new; raises ValueError on an incomplete row."""
        if not is_complete(row):
            missing = [c for c in COLUMNS[:-1] if row.get(c) in (None, "", [], {})]
            raise ValueError(
                f"Expected a result with {', '.join(COLUMNS[:-1])}, got one that lacks {', '.join(missing)}."
            )
        values = {**row, "concepts": json.dumps(row["concepts"]), "figures": json.dumps(row["figures"], sort_keys=True)}
        values["made_at"] = _now()
        marks = ", ".join(f":{c}" for c in COLUMNS)
        with self._database:
            cursor = self._database.execute(
                f"INSERT OR IGNORE INTO results ({', '.join(COLUMNS)}) VALUES ({marks})", values
            )
        return cursor.rowcount == 1

    def fail(self, key: str, error: str, command: str) -> None:
        """Stores a failure; the task stays pending."""
        with self._database:
            self._database.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", (key, error, command, _now()))

    def pending(self, tasks: Iterable[Task]) -> list[Task]:
        """The tasks without a result, in their order."""
        finished = {r["key"] for r in self._database.execute("SELECT key FROM results")}
        return [task for task in tasks if task.key not in finished]

    def results(self) -> list[dict[str, Any]]:
        """Complete results in the order of their keys."""
        stored = [dict(r) for r in self._database.execute("SELECT * FROM results ORDER BY key")]
        rows = [{**r, "concepts": json.loads(r["concepts"]), "figures": json.loads(r["figures"])} for r in stored]
        return [row for row in rows if is_complete(row)]

    def failures(self) -> list[dict[str, Any]]:
        """The last failure of every task that has no result yet."""
        query = "SELECT key, error, command, max(made_at) AS made_at, count(*) AS times FROM failures WHERE key NOT IN (SELECT key FROM results) GROUP BY key ORDER BY key"
        return [dict(r) for r in self._database.execute(query)]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
