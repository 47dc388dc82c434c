"""How the code follows known factors of variation: each measure against beta, and the chosen model's table of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_study.metrics import METRICS, metric_of, sign_of
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import captions, digits_of, number, sentences, short_label, significant
from vae_study.report.frames import Floats, Missing, kept_by_sweeps, numbers, scalar, with_state
from vae_study.report.parameters import searched_parameters
from vae_study.report.style import INK, NORMAL, PAPER, figure, log_scale
from vae_study.report.tables import NO_CHAMPION, StudyTables
from vae_study.tracking.record import StudyRecord
from vae_study.tracking.schema import UDR

_OF_FACTORS = [f"test/{name}" for name, metric in METRICS.items() if "factors" in metric.needs]
#: The measures that need known factors, and those that need none.
MEASURES = (*_OF_FACTORS, UDR, "test/total_correlation")
#: By which the claim is judged: the first that is known.
JUDGES = (_OF_FACTORS[0], UDR)
NONE = "No factors of variation are known (data.factors names them), and no trial was trained with further seeds."
LEVEL = 0.05
LEAST_RUNS, LEAST_BETAS = 5, 2
# Up to so many runs, p-values come from permutations.
MOST_PERMUTED, PERMUTATIONS = 200, 9_999
COLUMNS, MOST_LATENTS, MOST_BETAS = 3, 16, 8


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How a measure goes with beta.

    Attributes:
        metric: Its full name.
        correlation: Spearman's rank correlation over the runs; NaN if the measure never differs.
        p_value: Two-sided.
        runs: How many there are.
        of_trials: Whether a run is a trial, with the mean of its seeds, rather than a seed: if other parameters were
            searched too, and of UDR, which compares the seeds of a trial.
    """

    metric: str
    correlation: float
    p_value: float
    runs: int
    of_trials: bool

    @property
    def is_shown(self) -> bool:
        """Whether chance alone would hardly give such a correlation."""
        return bool(self.p_value < LEVEL)

    @property
    def is_better(self) -> bool:
        """Whether the measure is better at a larger beta."""
        return self.correlation * sign_of(self.metric) < 0


@dataclass(frozen=True, kw_only=True)
class BetaEffect:
    """Each measure of each run against beta.

    Attributes:
        metrics: The measures that are known; the claim is judged by the first.
        runs: One row per trial and further seed: `trial`, `seed` (0 of the study's own), `beta`, `collapsed` (bool),
            and the measures.
        trends: By metric, in the same order.
        searched_more: Whether trials differ in other searched parameters, too.
        left_out: Trials that a sweep kept, which are of one training and no runs of their own.
    """

    metrics: tuple[str, ...]
    runs: pd.DataFrame
    trends: dict[str, Trend]
    searched_more: bool
    left_out: int

    @property
    def first(self) -> Trend:
        """By which the claim is judged."""
        return self.trends[self.metrics[0]]

    @property
    def betas(self) -> list[float]:
        """The values of beta, ascending."""
        return sorted(self.runs["beta"].unique().tolist())


@dataclass(frozen=True, kw_only=True)
class FactorTable:
    """What each dimension of the chosen model's code knows of each factor.

    Attributes:
        factors: Their names.
        dimension_L: Numbers of the dimensions, from 1, those that know most first.
        share_FL: Mutual information as a share of the factor's entropy.
        left_out: Dimensions that are not shown.
    """

    factors: tuple[str, ...]
    dimension_L: tuple[int, ...]
    share_FL: Floats
    left_out: int


def beta_effect(record: StudyRecord) -> BetaEffect | Missing:
    """The measures against beta; `Missing` without factors and further seeds, or if beta does not differ."""
    finished, swept = with_state(record, "finished"), kept_by_sweeps(record)
    own = finished[~finished["trial"].isin(swept["trial"])]
    first = next((name for name in JUDGES if np.isfinite(numbers(finished, name)).any()), None)
    if first is None:
        return Missing(NONE)
    beta_of = dict(zip(own["trial"], numbers(own, "beta"), strict=True))
    seeds = record.confirmations[record.confirmations["trial"].isin(own["trial"])]
    parts = [_runs(own.assign(seed=0), beta_of), _runs(seeds, beta_of)]
    runs = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    runs = runs[(runs["beta"] > 0) & np.isfinite(runs[first])].reset_index(drop=True)
    others = [name for name in searched_parameters(record) if name != "beta" and own[name].nunique() > 1]
    metrics = tuple(metric for metric in MEASURES if np.isfinite(runs[metric]).any())
    found = BetaEffect(metrics=metrics, runs=runs, trends={}, searched_more=bool(others), left_out=len(swept))
    if len(found.betas) < LEAST_BETAS:
        return Missing("All runs have one beta, so its effect on disentanglement is not known.")
    found.trends.update((metric, _trend(metric, runs, bool(others) or metric == UDR)) for metric in metrics)
    return found


def _runs(frame: pd.DataFrame, beta_of: dict[int, float]) -> pd.DataFrame:
    about = {
        "trial": frame["trial"].astype(int),
        "seed": frame["seed"].astype(int),
        "beta": frame["trial"].map(beta_of).astype(float),
        "collapsed": numbers(frame, "test/collapsed") == 1,
    }
    return pd.DataFrame({**about, **{metric: numbers(frame, metric) for metric in MEASURES}})


def _trend(metric: str, runs: pd.DataFrame, of_trials: bool) -> Trend:
    known = runs[np.isfinite(runs[metric])]
    rows = known.groupby("trial")[["beta", metric]].mean() if of_trials else known
    correlation, p_value = rank_correlation(rows["beta"].to_numpy(np.float64), rows[metric].to_numpy(np.float64))
    return Trend(metric=metric, correlation=correlation, p_value=p_value, runs=len(rows), of_trials=of_trials)


def rank_correlation(x_N: Floats, y_N: Floats) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided p-value; NaN of fewer than LEAST_RUNS pairs, or if one is constant.

    The p-value is the share of PERMUTATIONS random orders with at least this correlation, this one included (Phipson
    and Smyth 2010); of more than MOST_PERMUTED pairs, that of Student's t.
    """
    from scipy.stats import rankdata, spearmanr

    if len(x_N) < LEAST_RUNS or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return float("nan"), float("nan")
    if len(x_N) > MOST_PERMUTED:
        result = spearmanr(x_N, y_N)
        return float(result[0]), float(result[1])
    x_N, y_N = (rank - rank.mean() for rank in map(rankdata, (x_N, y_N)))
    length = np.sqrt((x_N @ x_N) * (y_N @ y_N))
    correlation = float(x_N @ y_N / length)
    orders = np.random.default_rng(0).random((PERMUTATIONS, len(x_N))).argsort(axis=1)
    at_least = int((np.abs(y_N[orders] @ x_N / length) >= abs(correlation) - 1e-12).sum())
    return correlation, (1 + at_least) / (1 + PERMUTATIONS)


def factor_table(record: StudyRecord) -> FactorTable | Missing:
    """The chosen model's table; `Missing` without factors."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    if champion.factor_information_ZF is None or champion.factor_entropy_F is None:
        return Missing("No factors of variation are known: data.factors names them.")
    entropy_F = np.asarray(champion.factor_entropy_F)
    share_FZ = np.asarray(champion.factor_information_ZF).T / np.where(entropy_F > 0, entropy_F, 1)[:, None]
    order = np.argsort(-share_FZ.max(axis=0), kind="stable")[:MOST_LATENTS]
    return FactorTable(
        factors=tuple(map(str, () if champion.factor_names_F is None else champion.factor_names_F)),
        dimension_L=tuple((order + 1).tolist()),
        share_FL=share_FZ[:, order],
        left_out=share_FZ.shape[1] - len(order),
    )


def draw_beta_effect(table: BetaEffect) -> Picture:
    """A panel a measure: a dot for each run, and a line through the means of each beta if some have several runs."""
    rows = -(-len(table.metrics) // COLUMNS)
    drawn = figure(1.75 * rows + 0.4)
    panels = drawn.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, metric in zip(panels, table.metrics, strict=False):
        _draw_measure(axes, table, metric)
    for axes in panels[len(table.metrics) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=3, handletextpad=0.3)
    return drawn


def _draw_measure(axes: Axes, table: BetaEffect, metric: str) -> None:
    runs = table.runs[np.isfinite(table.runs[metric])]
    axes.scatter(runs["beta"], runs[metric], s=13, color=NORMAL, alpha=0.75, linewidths=0, label="run")
    if runs["beta"].duplicated().any():
        means = runs.groupby("beta")[metric].mean()
        axes.plot(means.index, means, color=INK, linewidth=1.2, label="mean of a beta")
    log_scale(axes, "x")
    if len(table.betas) <= MOST_BETAS:
        axes.set_xticks(table.betas)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(metric_of(metric).label, fontsize=9)
    axes.set_xlabel("beta", fontsize=8.5)
    axes.tick_params(labelsize=8)


def draw_factor_table(table: FactorTable) -> Picture:
    """A row a factor and a column a dimension, darker where the dimension knows more."""
    drawn = figure(0.4 * len(table.factors) + 1.1)
    axes = drawn.add_subplot()
    shades = LinearSegmentedColormap.from_list("shares", [PAPER, NORMAL])
    axes.imshow(table.share_FL, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(table.share_FL):
        text = f"{share:.2f}".removeprefix("0") if share < 0.995 else "1"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=PAPER if share > 0.6 else INK)
    axes.set_xticks(range(len(table.dimension_L)), [str(dimension) for dimension in table.dimension_L])
    axes.set_yticks(range(len(table.factors)), [name[:20] for name in table.factors])
    axes.set_xlabel("latent dimension")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return drawn


def claim(tables: StudyTables) -> str:
    """Whether this study shows that a larger beta disentangles, in a sentence; and what the other measures say."""
    found = tables.of(beta_effect)
    if isinstance(found, Missing):
        return ""
    others = [trend for trend in found.trends.values() if trend is not found.first]
    kinds = {
        kind: [metric_of(trend.metric).label for trend in others if _kind(trend) == kind]
        for kind in ("better", "worse", "not shown")
    }
    collapsed = int(found.runs["collapsed"].sum())
    name = metric_of(found.first.metric).label
    return sentences("notes.txt", "disentangled", found, name, _kind(found.first), kinds, collapsed)


def _kind(trend: Trend) -> str:
    return "not shown" if not trend.is_shown else "better" if trend.is_better else "worse"


def measure_table(tables: StudyTables) -> Grid:
    """One row a measure: the chosen model's value, the mean at each beta where they are few, and the trend."""
    found = tables.of(beta_effect)
    if isinstance(found, Missing):
        return _of_chosen(tables)
    betas: Sequence[float] = found.betas if len(found.betas) <= MOST_BETAS else ()
    means = found.runs.groupby("beta")[list(found.metrics)].mean()
    rows = tuple(
        (
            short_label(metric),
            *(number(float(means[metric][beta]), digits_of(metric)) for beta in betas),
            number(trend.correlation),
            number(trend.p_value, 4),
            f"{trend.runs:,} {'trials' if trend.of_trials else 'runs'}",
        )
        for metric, trend in found.trends.items()
    )
    counts = found.runs["beta"].value_counts()
    head = [f"beta {significant(beta)} ({counts[beta]})" for beta in betas]
    label = f"Each measure{', its mean at each beta (of so many runs)' * bool(betas)}, and how it goes with beta"
    return Grid(
        label=label, head=("measure", *head, "rank correlation", "p-value", "over"), rows=rows, is_wide=len(betas) > 4
    )


def _of_chosen(tables: StudyTables) -> Grid:
    chosen = tables.trials[tables.trials["trial"].isin([tables.summary.champion_trial])]
    known = [metric for metric in MEASURES if np.isfinite(scalar(chosen, metric))]
    if not {*known} & {*JUDGES}:
        return Grid()
    rows = tuple((short_label(metric), number(scalar(chosen, metric), digits_of(metric))) for metric in known)
    return Grid(label="The chosen model", head=("measure", "value"), rows=rows)


BETA_EFFECT = Figure(
    name="disentanglement",
    numbers=lambda tables: tables.of(beta_effect),
    draw=draw_beta_effect,
    words=captions("disentanglement"),
    is_optional=True,
)
FACTOR_TABLE = Figure(
    name="factor_table",
    numbers=lambda tables: tables.of(factor_table),
    draw=draw_factor_table,
    words=captions("factor_table"),
    is_optional=True,
)
