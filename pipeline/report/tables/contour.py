"""One target over the plane of the two numeric parameters that matter most for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from pipeline.report.tables.coordinates import Coordinate, coordinates
from pipeline.report.tables.frames import Floats, Missing, numbers, with_state
from pipeline.report.tables.importances import LEAST_TRIALS, Importances, near
from pipeline.tracking.record import StudyRecord

Mask = NDArray[np.bool_]
ELBO = "val/elbo"
GRID, TREES, LEAF, SEED = 40, 200, 3, 0


@dataclass(frozen=True, kw_only=True)
class Contour:
    """A smooth surface through the finished trials; where there are none near, it is a guess.

    Attributes:
        parameters: Which are across and upwards.
        target: The metric.
        is_log: For each of the two, whether it was searched on a log scale.
        x_G, y_H: The grid's values across and upwards, evenly spaced on the parameter's own scale.
        mean_HG: The surface, in the target's unit.
        x_N, y_N, value_N, trial_N: The trials that it is fitted to.
    """

    parameters: tuple[str, str]
    target: str
    is_log: tuple[bool, bool]
    x_G: Floats
    y_H: Floats
    mean_HG: Floats
    x_N: Floats
    y_N: Floats
    value_N: Floats
    trial_N: NDArray[np.int64]


def contour(record: StudyRecord, found: Importances | Missing) -> Contour | Missing:
    """The ELBO, else the first objective, over the two numeric parameters that `found` puts first."""
    if isinstance(found, Missing):
        return found
    finished = with_state(record, "finished")
    target = ELBO if np.isfinite(numbers(finished, ELBO)).any() else found.targets[0]
    value_N = near(numbers(finished, target))
    pair = _pair(coordinates(record, finished), found.parameters, np.isfinite(value_N))
    if pair is None:
        return Missing(f"No two numeric parameters vary together over {LEAST_TRIALS} finished trials.")
    across, upwards = pair
    known: Mask = _both(across, upwards) & np.isfinite(value_N)
    grids = _grid(across, known), _grid(upwards, known)
    return Contour(
        parameters=(across.name, upwards.name),
        target=target,
        is_log=(across.is_log, upwards.is_log),
        x_G=_unscaled(across, grids[0]),
        y_H=_unscaled(upwards, grids[1]),
        mean_HG=_surface(np.column_stack([across.scaled_N, upwards.scaled_N])[known], value_N[known], grids),
        x_N=across.value_N[known],
        y_N=upwards.value_N[known],
        value_N=numbers(finished, target)[known],
        trial_N=finished["trial"].to_numpy(np.int64)[known],
    )


def _pair(found: Sequence[Coordinate], order: Sequence[str], measured: Mask) -> tuple[Coordinate, Coordinate] | None:
    """The first two numbers in the order of importance that enough trials have together."""
    numeric = [c for c in found if c.choices is None and len(np.unique(c.value_N[np.isfinite(c.value_N)])) > 1]
    by_importance = sorted(numeric, key=lambda c: order.index(c.name))
    pairs = combinations(by_importance, 2)
    return next((pair for pair in pairs if (_both(*pair) & measured).sum() >= LEAST_TRIALS), None)


def _both(across: Coordinate, upwards: Coordinate) -> Mask:
    return np.isfinite(across.value_N) & np.isfinite(upwards.value_N)


def _grid(coordinate: Coordinate, known: Mask) -> Floats:
    """Evenly over what the trials tried, on the parameter's own scale."""
    tried = coordinate.scaled_N[known]
    return np.linspace(tried.min(), tried.max(), GRID)


def _unscaled(coordinate: Coordinate, scaled: Floats) -> Floats:
    return np.exp(scaled) if coordinate.is_log else scaled


def _surface(x_N2: Floats, value_N: Floats, grids: tuple[Floats, Floats]) -> Floats:
    """Extremely randomized trees (Geurts, Ernst, Wehenkel 2006): smooth on average, and of any number of trials."""
    forest = ExtraTreesRegressor(n_estimators=TREES, min_samples_leaf=LEAF, random_state=SEED)
    places = np.column_stack([axis.ravel() for axis in np.meshgrid(*grids)])
    mean_HG: Floats = forest.fit(x_N2, value_N).predict(places).reshape(len(grids[1]), len(grids[0]))
    return mean_HG
