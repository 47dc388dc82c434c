"""Several studies of one data set side by side: numbers against one reference, and how the configs differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from vae_study.errors import UserError
from vae_study.report.formatting import listing
from vae_study.report.frames import Missing
from vae_study.report.frontier import (
    HypervolumeHistory,
    frontier,
    hypervolume_history,
    minimized_objectives,
    objective_signs,
)
from vae_study.report.sections.choices import Choice, choices
from vae_study.report.tables import StudySummary, summary, tidy
from vae_study.selection.ranking import non_dominated
from vae_study.tracking.record import StudyRecord

# A parameter's range is compared, and shown, as one value.
SEARCH = "search."
NOT_COMPARED = ("study",)
# These say where the data are, not what they are.
LOCATION_KEYS = ("data.path", "data.source")
# These change what one nat of the reconstruction means.
UNIT_KEYS = ("model.likelihood", "model.sigma", "model.learned_sigma", "search.likelihood", "search.model.likelihood")


@dataclass(frozen=True, kw_only=True)
class ComparedStudy:
    """One study of a comparison.

    Attributes:
        record: As `tidy` gives it.
        summary: As in the study's own report, but with the hypervolume against the common reference.
        frontier: The study's own frontier, one row per trial, with `joint`: whether no trial of any study dominates it.
        hypervolume: After each finished trial, against the common reference.
        baseline: The detector without a model, where the study has compared detectors.
    """

    record: StudyRecord
    summary: StudySummary
    frontier: pd.DataFrame
    hypervolume: HypervolumeHistory | Missing
    baseline: Choice | None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.record.name

    @property
    def joint_size(self) -> int:
        """How many of its trials no trial of any study dominates."""
        return int(self.frontier["joint"].sum())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Studies of the same data and objectives, in the order in which they were given.

    Attributes:
        objectives: The metrics, with -1 for those that are maximized.
        reference: In each objective, the worst of the studies' reference points.
        differences: The dotted keys of the config whose value is not the same in all studies, with the values as text,
            in the order of the studies; None where a study does not have the key.
    """

    studies: tuple[ComparedStudy, ...]
    objectives: Mapping[str, float]
    reference: Mapping[str, float]
    differences: Mapping[str, tuple[str | None, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The studies' names."""
        return tuple(study.name for study in self.studies)

    @property
    def hypervolumes(self) -> dict[str, HypervolumeHistory]:
        """The hypervolumes that are known, by study."""
        found = {study.name: study.hypervolume for study in self.studies}
        return {name: history for name, history in found.items() if not isinstance(history, Missing)}

    @property
    def has_epochs(self) -> bool:
        """Whether the epochs are known of every study with a hypervolume."""
        return all(history.epochs_N is not None for history in self.hypervolumes.values())


def compare(records: Sequence[StudyRecord]) -> Comparison:
    """Compare studies.

    Raises:
        UserError: Fewer than two studies, one of them twice, or studies of different data or objectives.
    """
    _require_comparable(records)
    records = [tidy(record) for record in records]
    objectives = objective_signs(records[0].config)
    # In each objective the worst of the studies' reference points, if all of them have one.
    reference = {
        metric: sign * max(sign * float(record.reference[metric]) for record in records)
        for metric, sign in objectives.items()
        if all(metric in record.reference for record in records)
    }
    frontiers = [frontier(record) for record in records]
    values = [minimized_objectives(found, records[0].config) for found in frontiers]
    joint = np.split(non_dominated(np.vstack(values)), np.cumsum([len(part) for part in values])[:-1])
    return Comparison(
        studies=tuple(
            _compared(record, found.assign(joint=is_joint), reference)
            for record, found, is_joint in zip(records, frontiers, joint, strict=True)
        ),
        objectives=objectives,
        reference=reference,
        differences=differences([record.config for record in records]),
    )


def _require_comparable(records: Sequence[StudyRecord]) -> None:
    names = [record.name for record in records]
    if len(names) < 2:
        raise UserError(f"got {listing(map(repr, names)) or 'no study'}; expected two or more studies to compare")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"the study {twice!r} is given twice; expected different studies to compare")
    for one, other in pairwise(records):
        for what, describe, expected in (
            ("data", _data, "one data set"),
            ("objectives", _goals, "the same objectives"),
        ):
            if describe(one) != describe(other):
                raise UserError(
                    f"the studies {one.name!r} and {other.name!r} have different {what}: "
                    f"{one.name} has {describe(one)}, "
                    f"{other.name} has {describe(other)}; expected studies of {expected}"
                )


def _data(record: StudyRecord) -> str:
    return f"the sha256 {str(record.data.get('sha256'))[:12]}"


def _goals(record: StudyRecord) -> str:
    signs = sorted(objective_signs(record.config).items())
    return listing(f"{'minimize' if sign > 0 else 'maximize'} {metric}" for metric, sign in signs)


def _compared(record: StudyRecord, found: pd.DataFrame, reference: Mapping[str, float]) -> ComparedStudy:
    against = replace(record, reference=reference)
    return ComparedStudy(
        record=record,
        summary=summary(against),
        frontier=found,
        hypervolume=hypervolume_history(against),
        baseline=next((choice for choice in choices(record) if choice.kind == "baseline"), None),
    )


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str | None, ...]]:
    """The keys that differ between configs, in the order of the first that has them, with each config's value."""
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one if key not in NOT_COMPARED)
    return {
        key: tuple(_text(one[key]) if key in one else None for one in flat)
        for key in keys
        if len({json.dumps(one[key], default=str, sort_keys=True) if key in one else None for one in flat}) > 1
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        name = f"{prefix}{key}"
        if isinstance(part, Mapping) and part and prefix != SEARCH:
            yield from _flat(part, f"{name}.")
        else:
            yield name, part


def _text(value: Any) -> str:
    """A config's value as text without brackets, where that is clear."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(value[key])}" for key in sorted(value))
    if isinstance(value, list | tuple):
        is_flat = not any(isinstance(part, str | list | tuple | Mapping) for part in value)
        return json.dumps(value) if is_flat else "; ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)
