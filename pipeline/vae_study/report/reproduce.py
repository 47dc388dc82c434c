"""How to reproduce a study: the commands, and the data, seeds, code and packages that its numbers depend on."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from vae_study.report.figure import Grid
from vae_study.report.formatting import cell, count
from vae_study.report.frames import devices, row_of, scalar
from vae_study.report.frontier import frontier
from vae_study.report.parameters import short_name, word
from vae_study.tracking.record import StudyRecord

CODE = {"package": "vae-study", "config": "the study file"}
CLEAN = {"true": "as it was committed", "false": "with changes that were not committed"}


def commands(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    """Commands, and what each does. Without the tracking URI, which may hold a password or a local path."""
    name = shlex.quote(record.name)
    return (
        (
            f"vae-study run config.yaml --name {name}",
            "runs the study again, with the config below saved as config.yaml",
        ),
        *_one_trial(record),
        (f"vae-study report {name}", "writes this report again from the tracking store"),
        (f"vae-study score {name} DATA", "scores new rows with the chosen model"),
    )


def _one_trial(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """The chosen trial, else the frontier's first, as the only trial of a study of its own."""
    members = frontier(record)
    chosen = record.champion.trial if record.champion else int(members["trial"].iloc[0]) if len(members) else None
    if chosen is None or row_of(record, chosen).empty:
        return
    row = row_of(record, chosen)
    sweep = scalar(row, "sweep")
    trial, what = (int(sweep), f", the sweep that kept trial {chosen},") if sweep >= 0 else (chosen, "")
    values = json.dumps([configuration(record, trial)], ensure_ascii=False)
    settings = [f"enqueue={values}", "confirm.top=0", "warm_start=null"]
    if scalar(row, "retrains") >= 0 and "objective.kind" not in record.config.get("search", {}):
        settings += ["objective.kind=beta", f"objective.beta={scalar(row, 'beta')!r}"]
    words = (
        *("vae-study", "run", "config.yaml", "--name", f"{record.name}-trial-{trial}", "--trials", "1"),
        *("--seed", str(seed_alone(int(record.config.get("seed") or 0), trial))),
        *(word for setting in settings for word in ("--set", setting)),
    )
    yield shlex.join(words), f"trains trial {trial}{what} alone again, with the seed that it had in the study"


def seed_alone(study_seed: int, trial: int) -> int:
    """The study's seed with which trial 0 draws what this trial drew.

    A trial's seed is that of NumPy's SeedSequence([study seed, number]), which reads its words 32 bits at a time and
    takes missing ones for 0 (NumPy's documentation of SeedSequence): a number in the second word may as well be the
    upper half of the first.
    """
    return study_seed + (trial << 32)


def configuration(record: StudyRecord, trial: int) -> dict[str, Any]:
    """A trial's searched values, by the config's names and types; a branch's where it was active."""
    row = row_of(record, trial)
    columns = [str(column) for column in row.columns]
    if row.get("objective.kind", pd.Series(dtype=object)).eq("sweep").any():
        # What stands there is the beta that it has come to.
        columns = [name for name in columns if name != "beta"]
    found = {name: (rule, short_name(name, columns)) for name, rule in record.config.get("search", {}).items()}
    return {
        name: _typed(rule, row[column].iloc[0])
        for name, (rule, column) in found.items()
        if column is not None and pd.notna(row[column].iloc[0])
    }


def _typed(rule: Mapping[str, Any], value: Any) -> Any:
    if "choices" in rule:
        return next((choice for choice in rule["choices"] if word(choice) == word(value)), str(value))
    return int(value) if rule.get("type") == "int" else float(value)


def seed_grid(record: StudyRecord) -> Grid:
    """Every seed, and what it determines."""
    config, study = record.config, int(record.config.get("seed") or 0)
    sampler = (config.get("sampler") or {}).get("seed")
    split = ((config.get("data") or {}).get("split") or {}).get("seed")
    repeats = len(record.confirmations) and (config.get("confirm") or {}).get("seeds")
    rows = [
        ("study", str(study), "together with a trial’s number, everything random in that trial"),
        ("sampler", str(study if sampler is None else sampler), "which configurations are tried"),
        *([] if split is None else [("split", str(split), "which rows are in which split")]),
        *([("further seeds", f"1 to {repeats}", "the best trials trained again")] if repeats else []),
    ]
    return Grid(label="Seeds", head=("seed", "value", "what it determines"), rows=tuple(rows), is_numeric=False)


def data_notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What was done to the data: columns left out, rows moved, values replaced."""
    notes = data.get("notes") or ()
    return (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)


def code_grid(environment: Mapping[str, str]) -> Grid:
    """The commits that the numbers were made with; none where the code was under no version control."""
    rows = (
        (whose, environment[f"{key}_commit"], CLEAN.get(environment.get(f"{key}_is_clean", ""), ""))
        for key, whose in CODE.items()
        if environment.get(f"{key}_commit")
    )
    return Grid(label="Code", head=("code", "commit", "state"), rows=tuple(rows), is_numeric=False)


def split_grid(data: Mapping[str, Any]) -> Grid:
    """Rows and anomalies of each split."""
    splits = data.get("splits") or {}
    keys = ("rows", "anomalies")
    rows = ((str(name), *(cell(key, part.get(key)) for key in keys)) for name, part in splits.items())
    return Grid(label="Splits", head=("split", *keys), rows=tuple(rows))


def version_grid(record: StudyRecord) -> Grid:
    """Package versions, without the commits, and what the trials were trained on."""
    trained = "; ".join(f"{name} ({count(trials, 'trial')})" for name, trials in devices(record).items())
    facts = {**record.environment, **({"trained on": trained} if trained else {})}
    known = sorted((str(name), str(value)) for name, value in facts.items())
    rows = (row for row in known if not row[0].endswith(("_commit", "_is_clean")))
    return Grid(label="Packages", head=("package", "version"), rows=tuple(rows), is_numeric=False)
