"""A comparison's tables as they are printed, and as frames."""

import math

import pandas as pd

from pipeline.report.comparison.prose import score_of
from pipeline.report.comparison.tables import Comparison, OneStudy
from pipeline.report.grids import Grid
from pipeline.report.names import detector_name, digits_of, hypervolume_unit
from pipeline.report.tables.frames import Missing, row_of, scalar
from pipeline.report.words import NONE, cell, interval, number

OF_CHOSEN = {"val/elbo": "ELBO", "val/reconstruction": "reconstruction", "val/kl": "KL"}


def study_grid(table: Comparison) -> Grid:
    """A row a study: what it cost and what its frontier is worth."""
    unit = hypervolume_unit(table.objectives)
    volume = f"hypervolume ({unit})" if unit else "hypervolume"
    head = ("study", "trials", "finished", "epochs", "hours", "frontier", "on the joint frontier", volume)
    return Grid(head=(*head, "best validation ELBO (nats)"), rows=tuple(_study(study) for study in table.studies))


def _study(study: OneStudy) -> tuple[str, ...]:
    facts = study.summary
    counts = sum(facts.states.values()), facts.states["finished"], facts.epochs
    return (
        study.name,
        *(f"{size:,}" for size in counts),
        number(facts.training_hours),
        str(facts.frontier_size),
        str(int(study.frontier["joint"].sum())),
        number(facts.hypervolume),
        number(facts.best_elbo_nats),
    )


def chosen_grid(table: Comparison) -> Grid:
    """A row a study that has chosen: its model, how well it detects, and what needs no training."""
    studies = [study for study in table.studies if study.record.champion is not None]
    head = ("study", "trial", "chosen by", "score", "test AUROC", "raw neighbours", *OF_CHOSEN.values(), "registry")
    return Grid(head=head, rows=tuple(_chosen(study) for study in studies))


def _chosen(study: OneStudy) -> tuple[str, ...]:
    facts = study.summary
    row = row_of(study.record, facts.champion_trial if facts.champion_trial is not None else -1)
    baseline = study.baseline.test_auroc.value if study.baseline is not None else math.nan
    return (
        study.name,
        str(facts.champion_trial),
        detector_name(str(facts.champion_rule)),
        score_of(study) or NONE,
        interval(facts.test_auroc),
        number(baseline, 3),
        *(number(scalar(row, metric), digits_of(metric)) for metric in OF_CHOSEN),
        study.record.promoted or NONE,
    )


def difference_grid(table: Comparison) -> Grid:
    """A row a key of the spec that not all have the same value of."""
    rows = ((one.key, *(value or NONE for value in one.values)) for one in table.differences)
    return Grid(head=("key", *table.names), rows=tuple(rows))


def frontier_frame(table: Comparison) -> pd.DataFrame:
    """All frontiers: `study`, `trial`, the objectives, and `joint`."""
    columns = ["trial", *table.objectives, "joint"]
    frames = [study.frontier.reindex(columns=columns).assign(study=study.name) for study in table.studies]
    return pd.concat(frames, ignore_index=True)[["study", *columns]]


def hypervolume_frame(table: Comparison) -> pd.DataFrame:
    """All hypervolumes: `study`, `trial`, `epochs` up to it where they are known, `hypervolume` after it."""
    columns = ["study", "trial", "epochs", "hypervolume"]
    frames = [
        pd.DataFrame({"study": study.name, "trial": found.trial_N, "hypervolume": found.hypervolume_N}).assign(
            epochs=pd.array([pd.NA] * len(found.trial_N) if found.epochs_N is None else found.epochs_N, dtype="Int64")
        )
        for study in table.studies
        if not isinstance(found := study.hypervolume, Missing)
    ]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def study_frame(table: Comparison) -> pd.DataFrame:
    """A row a study: its size, its hypervolume, its chosen model and what that detects."""
    return pd.DataFrame([_study_row(study) for study in table.studies])


def _study_row(study: OneStudy) -> dict[str, object]:
    facts = study.summary
    return {
        "study": study.name,
        **facts.states,
        "epochs": facts.epochs,
        "frontier_size": facts.frontier_size,
        "joint_frontier_size": int(study.frontier["joint"].sum()),
        "hypervolume": facts.hypervolume,
        "best_elbo_nats": facts.best_elbo_nats,
        "champion": facts.champion_trial,
        "rule": facts.champion_rule,
        "score": facts.champion_score,
        "auroc": facts.test_auroc.value,
        "auroc_low": facts.test_auroc.low,
        "auroc_high": facts.test_auroc.high,
    }


def reference_grid(table: Comparison) -> Grid:
    """The common reference point."""
    rows = ((metric, cell(metric, value)) for metric, value in table.reference.items())
    return Grid(head=("objective", "reference"), rows=tuple(rows))
