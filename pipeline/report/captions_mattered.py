"""What is said under the figures of what mattered and of what detection costs, and in their place. No markup."""

from collections.abc import Sequence

import numpy as np

from pipeline.report.names import digits_of, metric_name, parameter_name
from pipeline.report.tables import Contour, Course, FrontierAuroc, Importances, Parallel, Slice
from pipeline.report.words import Words, count, listing, number, percent, trial_list


def importances(table: Importances) -> Words:
    """Names the most important for each target."""
    caption = (
        "How much of a metric’s variation over the finished trials one parameter explains on its own. It is of the "
        "ranges that were searched: a parameter with a wide range matters more than with a narrow one."
    )
    tops = [_top(table, place) for place in range(len(table.targets))]
    return Words(
        caption, f"Bars of the importance of {count(len(table.parameters), 'parameter')}. {' '.join(tops)}".strip()
    )


def _top(table: Importances, target: int) -> str:
    share_P = table.share_PT[:, target]
    if not np.isfinite(share_P).any():
        return ""
    place = int(np.nanargmax(share_P))
    name = parameter_name(table.parameters[place])
    return f"For {metric_name(table.targets[target])} it is {name} first, with {percent(float(share_P[place]))}."


def parallel(table: Parallel) -> Words:
    """Says how to follow a line."""
    parts = [
        f"A line is a finished trial, coloured by its {metric_name(table.colour_metric)}; the frontier’s are thicker."
    ]
    if np.isnan(table.values_NA).any():
        parts.append("Where a branch does not have a parameter, its lines run along the bottom.")
    names = listing(metric_name(axis.name) if "/" in axis.name else parameter_name(axis.name) for axis in table.axes)
    return Words(
        " ".join(parts), f"Parallel coordinates of {count(len(table.trial_N), 'finished trial')} over {names}."
    )


def slices(tables: Sequence[Slice], left_out: int) -> Words:
    """Warns that a slice hides the other parameters."""
    caption = (
        "Finished trials by one parameter at a time; all the others differ from dot to dot, so a cloud without a shape "
        "can still hide an effect."
    )
    if left_out:
        caption += f" {count(left_out, 'parameter')} that matter less are not drawn."
    names = listing(parameter_name(table.parameter) for table in tables)
    return Words(caption, f"Scatter plots of {metric_name(tables[0].target)} against {names}.")


def contour(table: Contour) -> Words:
    """Says that the surface is a guess between trials."""
    x, y = map(parameter_name, table.parameters)
    caption = (
        f"A smooth surface through the {count(len(table.trial_N), 'finished trial')} (dots, in the colours of their "
        "own values), over the two numeric parameters that matter most. Far from dots it is a guess."
    )
    low, high = (number(float(end), digits_of(table.target)) for end in (table.value_N.min(), table.value_N.max()))
    alt = f"Contour plot of {metric_name(table.target)} over {x} and {y}; the trials span {low} to {high}."
    return Words(caption, alt)


def course(table: Course) -> Words:
    """Says in which order trials are."""
    caption = (
        f"{count(len(table.trial_T), 'trial')} along the frontier, from its one end to the other, as in the legend. "
        "A latent dimension is active if its posterior mean varies from example to example."
    )
    trials = tuple(int(trial) for trial in table.trial_T)
    return Words(caption, f"Curves by epoch of ELBO, active units and KL weight, of {trial_list(trials)}.")


def frontier_auroc(table: FrontierAuroc) -> Words:
    """Tells the split that is read from the one that is chosen by."""
    rest = "ll finished trials on validation. What reconstructs best need not detect best."
    caption = f"A{rest}"
    if len(table.test):
        first = "First the frontier’s trials on the test split, of the score that trials follow while they train."
        caption = f"{first} Then a{rest}"
    best = table.validation.iloc[int(table.validation["auroc"].argmax())]
    highest = f"the highest {metric_name(table.validation_metric)}, {number(float(best['auroc']), 3)}"
    where = number(float(best["across"]), digits_of(table.across))
    return Words(caption, f"Scatter plots of AUROC against {metric_name(table.across)}; {highest}, is at {where}.")
