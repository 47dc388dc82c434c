"""How to get a study again: what to type, and which seeds and which code its numbers hang on."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline.report.grids import Grid
from pipeline.report.tables.coordinates import word
from pipeline.report.tables.frames import row_of, short_name
from pipeline.report.tables.frontier import frontier
from pipeline.tracking.record import StudyRecord

CODE = {"package": "vae-study", "spec": "the study file"}
CLEAN = {"true": "as it was committed", "false": "with changes that were not committed"}


def commands(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    """What to type, and what it does. Without the tracking URI, which may hold a password or a local path."""
    name = shlex.quote(record.name)
    return (
        (f"vae-study run spec.yaml --name {name}", "runs the study again, from the spec below, saved as spec.yaml"),
        *_one_trial(record),
        (f"vae-study report {name}", "writes this report again from the tracking store"),
        (f"vae-study score {name} DATA", "scores new rows with the chosen model"),
    )


def _one_trial(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """The chosen trial, else the frontier's first, as the only trial of a study of its own."""
    members = frontier(record)
    trial = record.champion.trial if record.champion else int(members["trial"].iloc[0]) if len(members) else None
    if trial is None or row_of(record, trial).empty:
        return
    values = json.dumps([configuration(record, trial)], ensure_ascii=False)
    settings = (f"enqueue={values}", "confirm.top=0", "warm_start=null")
    words = (
        *("vae-study", "run", "spec.yaml", "--name", f"{record.name}-trial-{trial}", "--trials", "1"),
        *("--seed", str(seed_alone(int(record.spec.get("seed") or 0), trial))),
        *(word for setting in settings for word in ("--set", setting)),
    )
    yield shlex.join(words), f"trains trial {trial} again and alone, from the seed that it had"


def seed_alone(study_seed: int, trial: int) -> int:
    """The study's seed with which trial 0 draws what this trial drew.

    A trial's seed is that of NumPy's SeedSequence([study seed, number]), which reads its words 32 bits at a time and
    takes missing ones for 0 (NumPy's documentation of SeedSequence): a number in the second word may as well be the
    upper half of the first.
    """
    return study_seed + (trial << 32)


def configuration(record: StudyRecord, trial: int) -> dict[str, Any]:
    """A trial's values of the search, by the spec's names and of the spec's types; a branch's where it was active."""
    row = row_of(record, trial)
    columns = [str(column) for column in row.columns]
    found = {name: (rule, short_name(name, columns)) for name, rule in record.spec.get("search", {}).items()}
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
    """Every seed, and what it decides."""
    spec, study = record.spec, int(record.spec.get("seed") or 0)
    sampler = (spec.get("sampler") or {}).get("seed")
    split = ((spec.get("data") or {}).get("split") or {}).get("seed")
    repeats = len(record.confirmations) and (spec.get("confirm") or {}).get("seeds")
    rows = [
        ("study", str(study), "with a trial’s number, all that is random in the trial"),
        ("sampler", str(study if sampler is None else sampler), "which configurations are tried"),
        *([] if split is None else [("split", str(split), "which rows are in which split")]),
        *([("further seeds", f"1 to {repeats}", "the best trials trained again")] if repeats else []),
    ]
    return Grid(head=("seed", "value", "what it decides"), rows=tuple(rows))


def code_grid(environment: Mapping[str, str]) -> Grid:
    """The commits that the numbers were made with; none where the code was under no version control."""
    rows = (
        (whose, environment[f"{key}_commit"], CLEAN.get(environment.get(f"{key}_is_clean", ""), ""))
        for key, whose in CODE.items()
        if environment.get(f"{key}_commit")
    )
    return Grid(head=("code", "commit", "state"), rows=tuple(rows))
