"""Sentences on which parameters mattered, each computed from the tables."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.report.names import metric_name, parameter_name
from pipeline.report.tables import Importances, Missing
from pipeline.report.tables.importances import LEAST_TRIALS
from pipeline.report.words import listing, percent

# What explains less than this of a target is said to matter little.
LITTLE = 0.05
MOST_TOLD = 3


def matters_most(table: Importances | Missing) -> Iterator[str]:
    """The parameter that explains most, for the summary."""
    if isinstance(table, Missing) or np.nan_to_num(table.share_PT[0]).max() < LITTLE:
        return
    name = parameter_name(table.parameters[0])
    yield f"Of the searched parameters {name} matters most: on its own it explains {_explained(table, 0)}."


def mattered(table: Importances | Missing) -> Iterator[str]:
    """How to read the shares, and what else explains something."""
    if isinstance(table, Missing):
        return
    yield (
        "A share is the part of a target’s variation that a parameter explains on its own, with the others averaged "
        "out over the search; what parameters do together is in none of them. A branch’s parameter is judged among "
        "the trials in which it was active."
    )
    highest = np.nan_to_num(table.share_PT, nan=-1).max(axis=1)
    for place in np.flatnonzero(highest >= LITTLE)[:MOST_TOLD].tolist():
        yield f"On its own {parameter_name(table.parameters[place])} explains {_explained(table, place)}."
    little = _names(table, (highest >= 0) & (highest < LITTLE))
    if little:
        yield f"Less than {percent(LITTLE)} of any target: {little}."
    unknown = _names(table, highest < 0)
    if unknown:
        yield f"Not to be said, with fewer than {LEAST_TRIALS} trials or always the same value: {unknown}."


def _names(table: Importances, which: NDArray[np.bool_]) -> str:
    return listing(parameter_name(table.parameters[place]) for place in np.flatnonzero(which))


def _explained(table: Importances, place: int) -> str:
    """Such as "95.3 % of the variation of validation KL and 80.1 % of that of validation AUROC"."""
    shares = zip(table.targets, table.share_PT[place], strict=True)
    known = [(metric_name(target), percent(float(share))) for target, share in shares if np.isfinite(share)]
    words = (f"{share} of {'that' if i else 'the variation'} of {name}" for i, (name, share) in enumerate(known))
    return listing(words)
