"""A study that has had many trials, without the hours that they would take: copies of the few that it has had.

The study store (Optuna's tables), MLflow's tables and the journal get the rows and lines that so many trials would have
left there, under numbers and keys of their own. Objective values are moved a little, so that no two trials are equal.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, MetaData, create_engine, text
from vae_study.tracking import schema
from vae_study.tracking.journal import JOURNAL_FILE, Journal, Marker

# How far a copy's values are from its original's, as a share of them.
NOISE = 0.02
ROWS_AT_ONCE = 10_000
OF_TRIALS = ("trial_params", "trial_values", "trial_system_attributes", "trial_user_attributes")
OF_RUNS = ("params", "tags", "metrics", "latest_metrics")
Rows = list[dict[str, Any]]


def grow(study_store: str, tracking: str, folder: Path, originals: int, trials: int) -> None:
    """Let a study that is at rest have this many trials.

    Args:
        study_store: The URL of the study store's database, which has no other study.
        tracking: The URL of MLflow's database.
        folder: Has the journal, all of which is in MLflow.
        originals: Of how many of its first trials the further ones are copies.
        trials: How many it is to have.
    """
    marker = json.loads((folder / JOURNAL_FILE).with_suffix(".offset").read_text())
    there = _grow_store(study_store, originals, trials)
    if there < trials:
        _grow_runs(tracking, marker["run_id"], originals, range(there, trials))
        end = _grow_journal(folder / JOURNAL_FILE, originals, range(there, trials))
        Marker(folder / JOURNAL_FILE, marker["run_id"]).write(end)


def _grow_store(url: str, originals: int, trials: int) -> int:
    """Add trials to the study store; how many it had."""
    random = np.random.default_rng(originals)
    engine = create_engine(url)
    with engine.begin() as database:
        there = int(database.execute(text("SELECT COUNT(*) FROM trials")).scalar_one())
        copies: Rows = [
            {"original": number % originals, "number": number, "a": a, "b": b}
            for number in range(there, trials)
            for a, b in [random.normal(1, NOISE, 2).tolist()]
        ]
        _temporary(database, "copies", "original INTEGER, number INTEGER, a FLOAT, b FLOAT", copies)
        columns = "study_id, state, datetime_start, datetime_complete"
        database.execute(
            text(
                f"INSERT INTO trials (number, {columns}) SELECT c.number, {columns} FROM copies c "
                "JOIN trials t ON t.number = c.original ORDER BY c.number"
            )
        )
        for table in OF_TRIALS:
            _copy_rows(database, table)
        _move_rungs(database, {row["number"]: (row["a"], row["b"]) for row in copies})
    engine.dispose()
    return there


def _copy_rows(database: Connection, table: str) -> None:
    """Give each copied trial the rows of its original; the database numbers them."""
    moved = {"value": "t.value * CASE t.objective WHEN 0 THEN c.a ELSE c.b END"} if table == "trial_values" else {}
    names = [name for name in _columns(database, table)[1:] if name != "trial_id"]
    chosen = ", ".join(moved.get(name, f"t.{name}") for name in names)
    # Values at rungs are moved, and come after this.
    rest = " WHERE t.key NOT LIKE 'rung:%'" if table == "trial_user_attributes" else ""
    database.execute(
        text(
            f"INSERT INTO {table} (trial_id, {', '.join(names)}) SELECT new.trial_id, {chosen} FROM copies c "
            "JOIN trials old ON old.number = c.original JOIN trials new ON new.number = c.number "
            f"JOIN {table} t ON t.trial_id = old.trial_id{rest}"
        )
    )


def _move_rungs(database: Connection, moves: dict[int, tuple[float, float]]) -> None:
    found = database.execute(
        text(
            "SELECT c.number, new.trial_id, t.key, t.value_json FROM copies c "
            "JOIN trials old ON old.number = c.original JOIN trials new "
            "ON new.number = c.number JOIN trial_user_attributes t ON t.trial_id = old.trial_id "
            "WHERE t.key LIKE 'rung:%'"
        )
    )
    rows = []
    for number, trial_id, key, value in found:
        decision = json.loads(value)
        if "values" in decision:
            decision["values"] = [one * by for one, by in zip(decision["values"], moves[number], strict=True)]
        rows.append({"trial_id": trial_id, "key": key, "value_json": json.dumps(decision)})
    insert = text("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial_id, :key, :value_json)")
    for some in _pieces(rows):
        database.execute(insert, some)


def _grow_runs(url: str, parent: str, originals: int, numbers: Sequence[int]) -> None:
    """Add the runs of trials to MLflow's database."""
    engine = create_engine(url)
    with engine.begin() as database:
        tagged = text("SELECT value, run_uuid FROM tags WHERE key = :tag")
        runs = {int(value): run for value, run in database.execute(tagged, {"tag": schema.TRIAL})}
        copies: Rows = [
            {
                "original": (run := runs[number % originals]),
                "run_uuid": f"{run[:24]}{number:08d}",
                "number": str(number),
                "name": f"t{number:03d}",
                "uid": f"{parent}/{schema.trial_name(number)}",
            }
            for number in numbers
        ]
        shape = "original VARCHAR(32), run_uuid VARCHAR(32), number VARCHAR(20), name VARCHAR(99), uid VARCHAR(99)"
        _temporary(database, "copied_runs", shape, copies)
        own = {
            "run_uuid": "c.run_uuid",
            "name": "c.name",
            "tags.value": (
                f"CASE t.key WHEN '{schema.TRIAL}' THEN c.number WHEN '{schema.UID}' THEN c.uid "
                "WHEN 'mlflow.runName' THEN c.name ELSE t.value END"
            ),
        }
        for table in ("runs", *OF_RUNS):
            names = _columns(database, table)
            chosen = ", ".join(own.get(name, own.get(f"{table}.{name}", f"t.{name}")) for name in names)
            database.execute(
                text(
                    f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM copied_runs c "
                    f"JOIN {table} t ON t.run_uuid = c.original"
                )
            )
    engine.dispose()


def _grow_journal(path: Path, originals: int, numbers: Sequence[int]) -> int:
    """Add the lines of trials to a journal; where it ends."""
    journal = Journal(path)
    lines, states = defaultdict[str, list[str]](list), dict[int, str]()
    with path.open(encoding="utf-8") as file:
        for line in file:
            plain = json.loads(line)
            lines[plain["run"]].append(line)
            if plain["op"] == "end":
                states[plain["number"]] = plain["tags"][schema.STATE]
    counts, random = Counter(states[number] for number in range(originals)), np.random.default_rng(originals)
    with path.open("a", encoding="utf-8") as file:
        for number in numbers:
            original = number % originals
            by = float(random.normal(1, NOISE))
            file.writelines(_renamed(line, original, number, by) for line in lines[schema.trial_name(original)])
            counts[states[original]] += 1
            metrics = {f"study/{state}": float(counts[state]) for state in schema.ENDED}
            point = {"op": "epochs", "run": "", "time_ms": 0, "epochs": [[number + 1, 0, metrics]]}
            file.write(json.dumps(point) + "\n")
    return journal.end if not numbers else path.stat().st_size


def _renamed(line: str, old: int, new: int, by: float) -> str:
    """An event of one trial as that of another, whose reconstruction is larger and whose KL is smaller by a factor."""
    line = line.replace(f'"{schema.trial_name(old)}"', f'"{schema.trial_name(new)}"')
    line = line.replace(f'"number": {old},', f'"number": {new},')
    line = line.replace(f'"{schema.TRIAL}": "{old}"', f'"{schema.TRIAL}": "{new}"')
    plain = json.loads(line)
    if plain["op"] != "epochs":
        return line
    for _, _, metrics in plain["epochs"]:
        metrics["val/reconstruction"] *= by
        metrics["val/kl"] /= by
    return json.dumps(plain) + "\n"


def _columns(database: Connection, table: str) -> list[str]:
    found = MetaData()
    found.reflect(database, only=[table])
    return [column.name for column in found.tables[table].columns]


def _temporary(database: Connection, name: str, shape: str, rows: Rows) -> None:
    database.execute(text(f"CREATE TEMPORARY TABLE {name} ({shape})"))
    for some in _pieces(rows):
        names = list(some[0])
        places = ", ".join(f":{one}" for one in names)
        database.execute(text(f"INSERT INTO {name} ({', '.join(names)}) VALUES ({places})"), some)


def _pieces(rows: Rows) -> Iterator[Rows]:
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[first : first + ROWS_AT_ONCE]
