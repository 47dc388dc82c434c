"""What several studies found, as tables of the same form, against one reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.report.comparison.differences import Difference, differences
from pipeline.report.comparison.matching import require_comparable
from pipeline.report.tables.choice import Choice, choices
from pipeline.report.tables.frames import Missing, tidy
from pipeline.report.tables.frontier import (
    HypervolumeHistory,
    frontier,
    hypervolume_history,
    minimized_objectives,
    objective_signs,
)
from pipeline.report.tables.scored import champion_auroc
from pipeline.report.tables.summary import StudySummary, summarized
from pipeline.search.pareto import non_dominated
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class OneStudy:
    """A study as a comparison needs it.

    Attributes:
        record: Tidy.
        summary: As in its own report, but for the hypervolume, which is against the common reference.
        frontier: Its own frontier, a row a trial, and `joint`: whether no trial of any study dominates it.
        hypervolume: After each finished trial, against the common reference.
        chosen, baseline: Its chosen model, and the raw nearest neighbours, where it has compared detectors.
    """

    record: StudyRecord
    summary: StudySummary
    frontier: pd.DataFrame
    hypervolume: HypervolumeHistory | Missing
    chosen: Choice | None
    baseline: Choice | None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.record.name


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Studies of the same data and objectives, in the order in which they were asked for.

    Attributes:
        objectives: The metrics, with -1 for those that are maximized.
        reference: The worst of the studies' reference points in each objective, so that it bounds what any of them
            counts as good.
        differences: What their specs say differently.
    """

    studies: tuple[OneStudy, ...]
    objectives: Mapping[str, float]
    reference: Mapping[str, float]
    differences: tuple[Difference, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The studies' names."""
        return tuple(study.name for study in self.studies)

    @property
    def knows_epochs(self) -> bool:
        """Whether every study with a hypervolume knows how many epochs that took."""
        found = [study.hypervolume for study in self.studies if not isinstance(study.hypervolume, Missing)]
        return all(one.epochs_N is not None for one in found)


def compare(records: Sequence[StudyRecord]) -> Comparison:
    """Put studies beside each other.

    Raises:
        UserError: Fewer than two studies, one of them twice, or studies of different data or objectives.
    """
    require_comparable(records)
    records = [tidy(record) for record in records]
    objectives, reference = objective_signs(records[0].spec), common_reference(records)
    frontiers = _with_joint([frontier(record) for record in records], records[0])
    return Comparison(
        studies=tuple(_one(record, found, reference) for record, found in zip(records, frontiers, strict=True)),
        objectives=objectives,
        reference=reference,
        differences=differences({record.name: record.spec for record in records}),
    )


def common_reference(records: Sequence[StudyRecord]) -> dict[str, float]:
    """In each objective the worst of the studies' reference points; without those that a study has none for."""
    return {
        metric: sign * max(sign * float(record.reference[metric]) for record in records)
        for metric, sign in objective_signs(records[0].spec).items()
        if all(metric in record.reference for record in records)
    }


def _with_joint(frontiers: Sequence[pd.DataFrame], first: StudyRecord) -> list[pd.DataFrame]:
    values = [minimized_objectives(found, first.spec) for found in frontiers]
    is_joint = np.split(non_dominated(np.vstack(values)), np.cumsum([len(part) for part in values])[:-1])
    return [found.assign(joint=mask) for found, mask in zip(frontiers, is_joint, strict=True)]


def _one(record: StudyRecord, found: pd.DataFrame, reference: Mapping[str, float]) -> OneStudy:
    against, detectors = replace(record, reference=reference), choices(record)
    return OneStudy(
        record=record,
        summary=summarized(against, champion_auroc(record)),
        frontier=found,
        hypervolume=hypervolume_history(against),
        chosen=next((one for one in detectors if one.chosen), None),
        baseline=next((one for one in detectors if one.kind == "baseline"), None),
    )
