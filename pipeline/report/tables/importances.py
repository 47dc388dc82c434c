"""How much of each target's variation each searched parameter explains, by functional ANOVA."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from pipeline.report.tables.coordinates import Coordinate, coordinates, targets
from pipeline.report.tables.frames import Floats, Missing, numbers, with_state
from pipeline.tracking.record import StudyRecord

# With fewer, a forest tells the trials' noise apart and little else.
LEAST_TRIALS = 16
# Deeper trees change the second decimal and take minutes with thousands of trials; so do more.
TREES, DEPTH, SEED = 32, 6, 0
# As in the plane: what lies farther from the middle than so many interquartile ranges is no part of the bulk.
FARTHEST = 4.5


@dataclass(frozen=True, kw_only=True)
class Importances:
    """How much of a target's variation each searched parameter explains on its own (Hutter, Hoos, Leyton-Brown 2014).

    A forest is fitted to the finished trials and averaged over the whole search, every other parameter evenly spread
    on its own scale. The share is the variance of that average along the parameter (section 3.2 of the paper, the
    main effect) over the forest's whole variance, averaged over its trees. What parameters do together is in none of
    the shares, so they need not add up to 1. A branch's parameter is judged among the trials in which it was active,
    so its share is of their variation alone.

    Attributes:
        parameters: Columns of the searched parameters, the most important on average first.
        targets: The objectives, then the AUROC of validation where it is known.
        share_PT: The shares, 0 to 1; NaN where fewer than LEAST_TRIALS have both, or where one of the two is constant.
        trials_P: Finished trials that have the parameter.
    """

    parameters: tuple[str, ...]
    targets: tuple[str, ...]
    share_PT: Floats
    trials_P: NDArray[np.int64]


def importances(record: StudyRecord) -> Importances | Missing:
    """The shares over the finished trials; the few that lie far off count as if they lay at the bulk's border."""
    finished, metrics = with_state(record, "finished"), targets(record)
    found = coordinates(record, finished)
    if len(finished) < LEAST_TRIALS:
        return Missing(
            f"What mattered can be said from {LEAST_TRIALS} finished trials on; this study has {len(finished)}."
        )
    if not found:
        return Missing("The finished trials differ in no parameter of the search, so none can be said to matter.")
    share_PT = np.full((len(found), len(metrics)), np.nan)
    y_NT = np.column_stack([near(numbers(finished, metric)) for metric in metrics])
    for places, together in _branches(found):
        share_PT[places] = _shares(together, y_NT)[: len(places)]
    mean_P = np.nan_to_num(share_PT).mean(axis=1)
    order = np.argsort(-mean_P, kind="stable")
    active = np.isfinite([coordinate.value_N for coordinate in found]).sum(axis=1)
    return Importances(
        parameters=tuple(found[place].name for place in order),
        targets=metrics,
        share_PT=share_PT[order],
        trials_P=active[order].astype(np.int64),
    )


def near(value_N: Floats) -> Floats:
    """Values with those far from the bulk pulled to its border, so that one diverged trial is not all there is."""
    known = value_N[np.isfinite(value_N)]
    if not len(known):
        return np.full(len(value_N), np.nan)
    first, third = np.quantile(known, [0.25, 0.75])
    room = FARTHEST * (third - first) or np.inf
    middle = (first + third) / 2
    return np.where(np.isfinite(value_N), np.clip(value_N, middle - room, middle + room), np.nan)


def _branches(found: Sequence[Coordinate]) -> Iterator[tuple[list[int], list[Coordinate]]]:
    """Places of the parameters that the same trials have; these and all others that those trials have, theirs alone."""
    active = [np.isfinite(coordinate.value_N) for coordinate in found]
    for mask in {mask.tobytes(): mask for mask in active}.values():
        places = [place for place, other in enumerate(active) if (other == mask).all()]
        others = [place for place, other in enumerate(active) if place not in places and other[mask].all()]
        yield places, [found[place] for place in (*places, *others)]


def _shares(together: Sequence[Coordinate], y_NT: Floats) -> Floats:
    """The share of each parameter for each target among the trials that have all of them, shape (P, T)."""
    rows = np.isfinite([coordinate.value_N for coordinate in together]).all(axis=0)
    x_PN, y_NT = np.stack([coordinate.scaled_N for coordinate in together])[:, rows], y_NT[rows]
    varying = [place for place, x_N in enumerate(x_PN) if len(np.unique(x_N)) > 1]
    shares_PT = np.full((len(together), y_NT.shape[1]), np.nan)
    if not varying:
        return shares_PT
    ends = {place: _distribution(together[place], x_PN[place]) for place in varying}
    study = _study(ends, x_PN)
    for t, y_N in enumerate(y_NT.T):
        shares_PT[varying, t] = _fanova(study, list(ends), y_N)
    return shares_PT


def _distribution(coordinate: Coordinate, x_N: Floats) -> BaseDistribution:
    """Even on the parameter's own scale; a choice that no trial took is no part of it."""
    if coordinate.choices is not None:
        return CategoricalDistribution(np.unique(x_N).tolist())
    return FloatDistribution(*coordinate.scaled_ends)


def _study(ends: dict[int, BaseDistribution], x_PN: Floats) -> optuna.Study:
    """The trials as Optuna's importances read them; the targets are told later, by a trial's number."""
    # As in the search: a study in memory is nobody's news, and a passing filter would not be safe among threads.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    study = optuna.create_study()
    names = {str(place): end for place, end in ends.items()}
    study.add_trials(
        optuna.create_trial(params={str(p): float(x_P[p]) for p in ends}, distributions=names, value=0.0)
        for x_P in x_PN.T
    )
    return study


def _fanova(study: optuna.Study, places: list[int], y_N: Floats) -> list[float]:
    known = y_N[np.isfinite(y_N)]
    if len(known) < LEAST_TRIALS or np.ptp(known) == 0:
        return [np.nan] * len(places)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=SEED)
    found = get_param_importances(
        study, evaluator=evaluator, target=lambda trial: float(y_N[trial.number]), normalize=False
    )
    return [float(found[str(place)]) for place in places]
