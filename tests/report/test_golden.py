"""Every number that the report says of a small study of fixed numbers, computed again the slow and obvious way."""

import math
import statistics
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t as students_t
from sklearn.ensemble import RandomForestRegressor
from vae_study.anomaly.detection import interval
from vae_study.report.frames import Missing
from vae_study.report.frontier import hypervolume_history, knee
from vae_study.report.sections.code import collapse, warm_up
from vae_study.report.sections.detection import curves
from vae_study.report.sections.importances import DEPTH, LEAST_TRIALS, SEED, TREES, Importances, contour, importances
from vae_study.report.sections.outcomes import early_stopping
from vae_study.report.sections.progress import training_curves
from vae_study.report.sections.search_space import parallel, slices
from vae_study.report.sections.thresholds import scores
from vae_study.report.sections.trials import confirmation
from vae_study.report.tables import StudyTables

from .golden import CONFIG, REFERENCE, golden, make
from .golden.by_hand import (
    OBJECTIVES,
    Row,
    finished,
    frontier,
    is_known,
    mean_precision,
    numbers,
    pairs,
    rows,
    scored_test_rows,
)

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def tables() -> StudyTables:
    return StudyTables(golden())


def test_the_parquet_is_what_the_script_makes_of_its_formulas(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    make.main()
    for name in ("trials", "history", "scores", "confirmations"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), pd.DataFrame(rows(name)))


def test_the_summary_counts_what_there_is(tables: StudyTables) -> None:
    found, history = tables.summary, rows("history")
    states = [row["state"] for row in rows()]
    assert dict(found.states) == {state: states.count(state) for state in found.states}
    assert sum(found.states.values()) == len(states)
    assert found.epochs == len(history)
    assert found.training_hours == pytest.approx(sum(row["time/epoch_seconds"] for row in history) / 3600)
    best = max((row for row in finished() if is_known(row["val/elbo"])), key=lambda row: row["val/elbo"])
    assert (found.best_elbo_trial, found.best_elbo_nats) == (best["trial"], best["val/elbo"])


def test_the_frontier_is_what_comparing_all_pairs_leaves(tables: StudyTables) -> None:
    expected = sorted(frontier(), key=lambda row: row["val/reconstruction"])
    assert tables.frontier["trial"].tolist() == numbers(*expected)
    assert tables.summary.frontier_size == len(expected) > 3


def test_the_hypervolume_is_the_share_of_random_points_that_the_frontier_dominates(tables: StudyTables) -> None:
    table, random = tables.of(hypervolume_history), np.random.default_rng(0)
    assert not isinstance(table, Missing)
    box = np.array([REFERENCE[metric] for metric in OBJECTIVES])
    points_D2 = random.uniform(0, box, (200_000, 2))
    for size in (1, len(table.trial_N) // 2, len(table.trial_N)):
        values = np.array([[row[metric] for metric in OBJECTIVES] for row in finished()[:size]])
        share = float((points_D2[:, None] >= values[np.isfinite(values).all(axis=1)]).all(axis=2).any(axis=1).mean())
        # Four standard errors of a share of so many draws.
        reach = 4 * math.sqrt(share * (1 - share) / len(points_D2)) * box.prod()
        assert table.hypervolume_N[size - 1] == pytest.approx(share * box.prod(), abs=reach)


def test_the_hypervolume_grows_by_what_each_trial_adds_to_a_fine_sweep(tables: StudyTables) -> None:
    table = tables.of(hypervolume_history)
    assert not isinstance(table, Missing)
    assert table.trial_N.tolist() == numbers(*finished())
    so_far: list[tuple[float, float]] = []
    for row, volume in zip(finished(), table.hypervolume_N, strict=True):
        so_far += [(row["val/reconstruction"], row["val/kl"])] if is_known(row["val/reconstruction"]) else []
        ends = sorted({x for x, _ in so_far} | {REFERENCE["val/reconstruction"]})
        lowest = [min(y for x, y in so_far if x <= left) for left in ends[:-1]]
        sizes = (right - left for left, right in pairwise(ends))
        area = sum(size * (REFERENCE["val/kl"] - low) for size, low in zip(sizes, lowest, strict=True))
        assert volume == pytest.approx(area)


def test_the_epochs_under_the_hypervolume_are_counted_one_by_one(tables: StudyTables) -> None:
    table, history = tables.of(hypervolume_history), rows("history")
    assert not isinstance(table, Missing)
    assert table.epochs_N is not None
    expected = [sum(epoch["trial"] <= number for epoch in history) for number in table.trial_N]
    assert table.epochs_N.tolist() == expected


def test_the_knee_is_the_farthest_from_the_line_through_the_ends_in_any_unit(tables: StudyTables) -> None:
    assert not isinstance(tables.of(knee), Missing)
    members = frontier()
    for scale in (1.0, 7.0):
        places = {row["trial"]: np.array([row["val/reconstruction"] * scale, row["val/kl"]]) for row in members}
        first, last = (find(places.values(), key=lambda place: place[0]) for find in (min, max))
        normal = np.array([first[1] - last[1], last[0] - first[0]]) / np.linalg.norm(last - first)
        # The normal points away from the best corner.
        distances = {number: float(normal @ (first - place)) for number, place in places.items()}
        assert tables.of(knee).trial == max(distances, key=distances.__getitem__)
    (row,) = (row for row in members if row["trial"] == tables.of(knee).trial)
    assert dict(tables.of(knee).metrics) == {metric: row[metric] for metric in OBJECTIVES}


def test_auroc_is_the_share_of_pairs_in_the_right_order(tables: StudyTables) -> None:
    normal, anomalous = scored_test_rows()
    assert set(normal) & set(anomalous), "without ties this would be easy"
    assert not isinstance(tables.of(curves), Missing)
    assert tables.summary.test_auroc.value == pytest.approx(pairs(normal, anomalous))
    assert tables.of(curves).average_precision.value == pytest.approx(mean_precision(normal, anomalous))
    assert tables.of(curves).prevalence == pytest.approx(len(anomalous) / len(normal + anomalous))


def test_the_curves_are_what_every_threshold_lets_through(tables: StudyTables) -> None:
    normal, anomalous = scored_test_rows()
    assert not isinstance(tables.of(curves), Missing)
    at = [math.inf, *sorted({*normal, *anomalous}, reverse=True)]
    rates = {tuple(sum(s >= t for s in scores) / len(scores) for scores in (normal, anomalous)) for t in at}
    roc = tables.of(curves).roc[["false_positive_rate", "true_positive_rate"]].to_numpy()
    assert all(min(abs(x - a) + abs(y - b) for a, b in rates) < 1e-12 for x, y in roc)
    area = float(np.trapezoid(roc[:, 1], roc[:, 0]))
    assert area == pytest.approx(pairs(normal, anomalous))


@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_intervals_are_those_of_a_bootstrap_of_each_class_by_other_draws(tables: StudyTables, metric: str) -> None:
    normal, anomalous = scored_test_rows()
    area = {"auroc": pairs, "average_precision": mean_precision}[metric]
    assert not isinstance(tables.of(curves), Missing)
    told = tables.of(curves).auroc if metric == "auroc" else tables.of(curves).average_precision
    random = np.random.default_rng(99)
    drawn = [logit(area(*(random.choice(s, len(s)).tolist() for s in (normal, anomalous)))) for _ in range(300)]
    centre = 2 * logit(area(normal, anomalous)) - statistics.fmean(drawn)
    smaller = min(len(normal), len(anomalous))
    reach = students_t.ppf(0.975, smaller - 1) * statistics.stdev(drawn) * math.sqrt(smaller / (smaller - 1))
    # Other draws of the same 300 move an end by less than this.
    assert (told.low, told.high) == pytest.approx(tuple(expit([centre - reach, centre + reach])), abs=0.03)
    is_anomaly = np.repeat([False, True], [len(normal), len(anomalous)])
    ends = [interval(metric, is_anomaly, np.array(normal + anomalous), draws=2000, seed=s) for s in (1, 2)]
    assert (told.low, told.high) == pytest.approx(tuple(np.mean(ends, axis=0)), abs=0.03)


def test_thresholds_flag_what_lies_above_them(tables: StudyTables) -> None:
    assert not isinstance(tables.of(scores), Missing)
    normal, anomalous = scored_test_rows()
    held_out = [r["elbo"] for r in rows("scores") if r["split"] == "validation" and not r["anomaly"]]
    for row in tables.of(scores).thresholds.to_dict("records"):
        threshold = np.percentile(held_out, row["percentile"])
        assert row["threshold"] == pytest.approx(threshold)
        false, true = (sum(s > row["threshold"] for s in scores) for scores in (normal, anomalous))
        assert row["false_alarm_rate"] == pytest.approx(false / len(normal))
        assert row["recall"] == pytest.approx(true / len(anomalous))
        assert row["precision"] == pytest.approx(true / (true + false))


def test_over_seeds_mean_and_deviation_are_those_of_statistics(tables: StudyTables) -> None:
    assert not isinstance(tables.of(confirmation), Missing)
    own = {row["trial"]: row for row in rows()}
    for metric in ("test/auroc", "val/elbo"):
        for told in tables.of(confirmation).spreads[metric].to_dict("records"):
            trial = told["trial"]
            values = [own[trial][metric], *(r[metric] for r in rows("confirmations") if r["trial"] == trial)]
            assert told["seeds"] == len(values) == 4
            assert told["mean"] == pytest.approx(statistics.fmean(values))
            assert told["deviation"] == pytest.approx(statistics.stdev(values))
            assert (told["low"], told["high"]) == (min(values), max(values))


def test_early_stopping_spared_what_the_stopped_trials_did_not_train(tables: StudyTables) -> None:
    found, budget = tables.of(early_stopping), CONFIG["training"]["epochs"]
    assert found is not None
    history = {n: [e for e in rows("history") if e["trial"] == n] for n in numbers(*rows())}
    stopped = [row["trial"] for row in rows() if row["state"] == "pruned"]
    ended = [row["trial"] for row in rows() if row["state"] in ("finished", "pruned")]
    assert (found.trained, found.full) == (sum(len(history[n]) for n in ended), budget * len(ended))
    lengths = [len(history[n]) for n in stopped]
    assert dict(found.stopped_after) == {length: lengths.count(length) for length in sorted(lengths)}
    seconds = [
        (budget - len(history[n])) * statistics.fmean(e["time/epoch_seconds"] for e in history[n]) for n in stopped
    ]
    assert found.spared_hours == pytest.approx(sum(seconds) / 3600)


def test_collapsed_are_those_that_say_nothing_and_short_those_whose_weight_never_came_to_one(
    tables: StudyTables,
) -> None:
    silent = [row for row in finished() if row["val/active_units"] < 1 or row["val/kl"] < 0.05]
    assert list(tables.of(collapse).trials) == numbers(*silent)
    assert tables.of(collapse).smallest_beta == min(row["beta"] for row in silent)
    weights = {n: [e["train/kl_weight"] for e in rows("history") if e["trial"] == n] for n in numbers(*rows())}
    short = [n for n, weight in weights.items() if max(weight) < 0.99]
    by_state = {row["trial"]: row["state"] for row in rows()}
    for state, told in (("finished", tables.of(warm_up).finished), ("pruned", tables.of(warm_up).pruned)):
        assert list(told) == [n for n in short if by_state[n] == state] != []
    assert set(tables.of(warm_up).frontier) == set(tables.of(warm_up).finished) & set(numbers(*frontier()))


def test_a_sweep_has_no_warm_up(tables: StudyTables) -> None:
    record = tables.record
    short = {*tables.of(warm_up).finished, *tables.of(warm_up).pruned}
    is_sweep = record.trials["trial"] == min(short)
    kinds = record.trials.assign(**{"objective.kind": np.where(is_sweep, "sweep", None)})
    others = warm_up(replace(record, trials=kinds))
    assert {*others.finished, *others.pruned} == short - {min(short)} != set()
    fixed = {**record.config, "objective": {**(record.config.get("objective") or {}), "kind": "sweep"}}
    none = warm_up(replace(record, config=fixed))
    assert (none.finished, none.pruned, none.frontier) == ((), (), ())


def bulk(values: list[float]) -> list[float]:
    """Values that are not finite left out, those far off at the border of the bulk."""
    first, third = np.quantile([v for v in values if is_known(v)], [0.25, 0.75])
    low, high = ((first + third) / 2 + side * 4.5 * (third - first) for side in (-1, 1))
    return [min(max(v, low), high) if is_known(v) else math.nan for v in values]


def marginal_variance(tree: Any, spaces: list[tuple[float, float]], columns: list[int]) -> tuple[float, float]:
    """Hutter, Hoos, Leyton-Brown 2014, section 3, cell by cell of the tree's own splits.

    Returns:
        The variance over these columns of the tree averaged over all others, and the variance of the whole tree.
    """
    splits = [sorted(set(tree.threshold[tree.feature == j].tolist())) for j in range(len(spaces))]
    edges = [np.array([low, *inner, high]) for inner, (low, high) in zip(splits, spaces, strict=True)]
    middles = np.stack(np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij"), axis=-1)
    sizes = [np.diff(e) / (e[-1] - e[0]) for e in edges]
    weight = np.ones(1)
    for size in sizes:
        weight = np.multiply.outer(weight, size)
    weight = weight[0]
    value = tree.predict(middles.reshape(-1, len(spaces)).astype(np.float32)).reshape(weight.shape)
    mean = (value * weight).sum()
    others = tuple(j for j in range(len(spaces)) if j not in columns)
    own = weight.sum(axis=others)
    along = (value * weight).sum(axis=others) / own
    return float((own * (along - mean) ** 2).sum()), float((weight * (value - mean) ** 2).sum())


def slow_shares(trials: list[Row], numeric: list[str], choices: list[str], target: str) -> dict[str, float]:
    """The forest's main effects from their definition, over the searched ranges on their own scales."""
    columns: list[list[float]] = []
    spaces: list[tuple[float, float]] = []
    places: dict[str, list[int]] = {}
    for name in numeric:
        rule = CONFIG["search"][name]
        scale = math.log if rule.get("log") else float
        places[name] = [len(columns)]
        columns.append([scale(row[name]) for row in trials])
        spaces.append((scale(rule["low"]), scale(rule["high"])))
    for name in choices:
        options = CONFIG["search"][name]["choices"]
        places[name] = [len(columns) + i for i in range(len(options))]
        columns += [[float(row[name] == option) for row in trials] for option in options]
        spaces += [(0.0, 1.0)] * len(options)
    forest = RandomForestRegressor(n_estimators=TREES, max_depth=DEPTH, random_state=SEED)
    forest.fit(np.column_stack(columns), [row[target] for row in trials])
    found: dict[str, list[float]] = {name: [] for name in places}
    for tree in forest.estimators_:
        for name, mine in places.items():
            part, whole = marginal_variance(tree.tree_, spaces, mine)
            found[name] += [part / whole] if whole else []
    return {name: statistics.fmean(shares) for name, shares in found.items()}


def clipped(target: str) -> list[Row]:
    values = bulk([row[target] for row in finished()])
    return [{**row, target: value} for row, value in zip(finished(), values, strict=True) if is_known(value)]


@pytest.mark.parametrize("target", ["val/reconstruction", "val/auroc"])
def test_importances_are_the_main_effects_of_the_forest_by_their_definition(tables: StudyTables, target: str) -> None:
    found = tables.of(importances)
    assert isinstance(found, Importances)
    told = dict(zip(found.parameters, found.share_PT[:, found.targets.index(target)], strict=True))
    known = clipped(target)
    everywhere = slow_shares(known, ["beta", "latent_dim"], ["kl_annealing.schedule"], target)
    branch = [row for row in known if is_known(row["kl_annealing.warmup"])]
    assert LEAST_TRIALS <= len(branch) < len(known)
    inside = slow_shares(branch, ["kl_annealing.warmup", "beta", "latent_dim"], [], target)
    expected = {**everywhere, "kl_annealing.warmup": inside["kl_annealing.warmup"]}
    assert told == pytest.approx(expected, abs=1e-6)


def test_importances_are_in_order_and_count_the_trials_of_a_branch(tables: StudyTables) -> None:
    found = tables.of(importances)
    assert isinstance(found, Importances)
    assert found.targets == (*OBJECTIVES, "val/auroc")
    means = [statistics.fmean(shares) for shares in found.share_PT.tolist()]
    assert means == sorted(means, reverse=True)
    counted = {
        name: sum(row[name] is not None and row[name] == row[name] for row in finished()) for name in CONFIG["search"]
    }
    assert dict(zip(found.parameters, found.trials_P.tolist(), strict=True)) == counted


def test_parallel_coordinates_hold_each_finished_trial_s_own_values(tables: StudyTables) -> None:
    table = tables.of(parallel)
    assert not isinstance(table, Missing)
    assert table.trial_N.tolist() == numbers(*finished())
    assert [n for n, on in zip(table.trial_N, table.frontier_N, strict=True) if on] == numbers(*frontier())
    assert [axis.name for axis in table.axes] == [*CONFIG["search"], *OBJECTIVES, "val/auroc"]
    assert [axis.is_log for axis in table.axes[:4]] == [True, True, False, False]
    for axis, values in zip(table.axes, table.values_NA.T, strict=True):
        raw = [row[axis.name] for row in finished()]
        if axis.choices:
            raw = [axis.choices.index(value) for value in raw]
        expected = [float(value) if is_known(value) else math.nan for value in raw]
        assert values.tolist() == pytest.approx(expected, nan_ok=True)
        inside = [value for value in expected if is_known(value)]
        assert (axis.low, axis.high) == (min(inside), max(inside))


def test_every_parameter_is_sliced_against_every_target(tables: StudyTables) -> None:
    assert [(s.parameter, s.target) for s in tables.of(slices)] == list(
        product(CONFIG["search"], [*OBJECTIVES, "val/auroc"])
    )
    for table in tables.of(slices):
        both = [r for r in finished() if not pd.isna(r[table.parameter]) and is_known(r[table.target])]
        assert table.trial_N.tolist() == numbers(*both)
        assert table.y_N.tolist() == [row[table.target] for row in both]
        values = [row[table.parameter] for row in both]
        assert table.x_N.tolist() == [table.choices.index(v) if table.choices else v for v in values]


def test_the_contour_lies_within_the_values_of_its_trials_and_follows_them(tables: StudyTables) -> None:
    table = contour(tables.record, tables.of(importances))
    assert not isinstance(table, Missing)
    assert isinstance(tables.of(importances), Importances)
    assert (table.target, table.parameters, table.is_log) == ("val/elbo", ("beta", "latent_dim"), (True, True))
    assert table.mean_HG.shape == (len(table.y_H), len(table.x_G))
    assert (table.x_G[0], table.x_G[-1]) == pytest.approx((table.x_N.min(), table.x_N.max()))
    assert np.diff(np.log(table.x_G)) == pytest.approx(np.diff(np.log(table.x_G))[0])
    assert table.value_N.min() <= table.mean_HG.min() <= table.mean_HG.max() <= table.value_N.max()
    near = [
        table.mean_HG[np.abs(np.log(table.y_H / y)).argmin(), np.abs(np.log(table.x_G / x)).argmin()]
        for x, y in zip(table.x_N, table.y_N, strict=True)
    ]
    assert np.corrcoef(near, table.value_N)[0, 1] > 0.9


def test_the_curves_are_the_history(tables: StudyTables) -> None:
    table = tables.of(training_curves)
    assert not isinstance(table, Missing)
    ends = sorted(frontier(), key=lambda row: row["val/reconstruction"])
    assert (table.trials[0], table.trials[-1], len(table.trials)) == (ends[0]["trial"], ends[-1]["trial"], 7)
    stored = (row for row in rows("history") if row["trial"] in table.trials)
    drawn = sorted(stored, key=lambda row: (row["trial"], row["epoch"]))
    for metric in ("trial", "epoch", "val/elbo", "val/active_units", "train/kl_weight"):
        assert table.curves[metric].tolist() == [row[metric] for row in drawn]
