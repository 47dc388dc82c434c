"""Further seeds, the code and families without a KL: the report's numbers against slow references."""

from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.tables import Missing, tidy
from pipeline.report.tables.choice import choices, collapse
from pipeline.report.tables.codes import code_facts, latent_map, latent_use
from pipeline.report.tables.confirmation import confirmation
from pipeline.report.tables.detection import scores
from pipeline.report.tables.examples import interpolations, traversals
from pipeline.report.tables.plane import Plane, Strip, plane, plane_metrics
from pipeline.report.tables.training import training_curves
from pipeline.report.words import hypervolume_unit
from pipeline.tracking.record import ChampionRecord, StudyRecord

from .families import confirmed, discrete, looked_into, mixed_families, without_rate
from .studies import study, table_study

SMALL = {"trials": 12, "epochs": 4}
VALUES = st.one_of(st.floats(0, 1), st.just(float("nan")), st.just(float("inf")))
SEEDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), VALUES), min_size=1, max_size=12)


def champion_of(record: StudyRecord) -> ChampionRecord:
    assert record.champion is not None
    return record.champion


def with_champion(record: StudyRecord, **changes: object) -> StudyRecord:
    return tidy(replace(record, champion=replace(champion_of(record), **changes)))  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.lists(VALUES, min_size=4, max_size=4))
def test_spreads_are_those_of_the_finite_values_with_the_original(
    rows: list[tuple[int, int, float]], originals: list[float]
) -> None:
    trials = pd.DataFrame({"trial": range(4), "state": "finished", "test/auroc": originals})
    seeds = pd.DataFrame(rows, columns=["trial", "seed", "test/auroc"])
    record = replace(study(trials=1, epochs=1), trials=trials, champion=None, confirmations=seeds)
    found = confirmation(tidy(record))
    last = {(trial, seed): value for trial, seed, value in rows}
    if not np.isfinite(list(last.values())).any():
        assert isinstance(found, Missing)
        return
    assert not isinstance(found, Missing)
    spread = found.spreads["test/auroc"].set_index("trial")
    assert set(spread.index) == {trial for trial, _ in last}
    for trial, row in spread.iterrows():
        values = [v for (t, _), v in last.items() if t == trial] + [originals[int(str(trial))]]
        known = [v for v in values if np.isfinite(v)]
        assert row["seeds"] == len(known)
        expected = [fmean(known), min(known), max(known)] if known else [np.nan] * 3
        assert row[["mean", "low", "high"]].tolist() == pytest.approx(expected, nan_ok=True)
        assert row["deviation"] == pytest.approx(stdev(known) if len(known) > 1 else np.nan, nan_ok=True, abs=1e-12)
        drawn = found.dots[found.dots["trial"] == trial]
        assert sorted(drawn["value"]) == pytest.approx(sorted(known))


def test_the_chosen_trial_comes_first_and_the_rest_as_its_rule_ranks_them(digits: StudyRecord) -> None:
    found = confirmation(tidy(digits))
    assert not isinstance(found, Missing)
    by_trial = digits.trials.set_index("trial")["val/auroc"]
    assert found.trials[0] == champion_of(digits).trial
    assert by_trial[list(found.trials)].is_monotonic_decreasing
    assert list(found.spreads) == ["test/auroc", "val/elbo"]
    assert found.dots["original"].sum() == len(found.trials)


def test_without_labels_and_rate_the_reconstruction_is_told() -> None:
    found = confirmation(tidy(without_rate(labels=False, **SMALL)))
    assert not isinstance(found, Missing)
    assert (found.metric, list(found.spreads)) == ("val/reconstruction", ["val/reconstruction"])
    assert found.spreads[found.metric]["original"].is_monotonic_increasing
    elbo = confirmation(tidy(confirmed(study(labels=False, **SMALL))))
    assert not isinstance(elbo, Missing)
    assert elbo.metric == "val/elbo"


def test_no_confirmations_no_table() -> None:
    assert isinstance(confirmation(tidy(study(**SMALL))), Missing)
    assert isinstance(confirmation(tidy(replace(study(**SMALL), confirmations=pd.DataFrame()))), Missing)


def test_the_latent_map_keeps_the_order_of_the_test_rows(digits: StudyRecord) -> None:
    champion = champion_of(digits)
    table = latent_map(tidy(digits))
    assert not isinstance(table, Missing)
    test = champion.scores[champion.scores["split"] == "test"]
    assert champion.latent_map_N2 is not None
    assert table.points[["x", "y"]].to_numpy() == pytest.approx(champion.latent_map_N2)
    assert table.points["anomaly"].tolist() == test["anomaly"].tolist()
    assert table.points["label"].tolist() == test["label"].tolist()
    assert table.labels == tuple(str(i) for i in range(9))
    assert (table.method, table.on_a_line, table.left_out) == ("pca", False, 0)


@pytest.mark.parametrize(("labels", "told"), [(1, 0), (2, 2), (12, 12), (13, 0)])
def test_labels_are_told_apart_where_they_are_few(labels: int, told: int) -> None:
    table = latent_map(tidy(looked_into(study(**SMALL), labels=labels)))
    assert not isinstance(table, Missing)
    assert table.labels == tuple(str(i) for i in range(told))
    assert set(table.points["label"]) == ({str(i) for i in range(told + 1)} if told else {""})


def test_labels_are_written_as_people_write_them() -> None:
    record = looked_into(study(**SMALL), labels=2)
    champion = champion_of(record)
    number = champion.scores["label"].map({"0": 10.0, "1": 9.0, "2": float("nan")})
    table = latent_map(with_champion(record, scores=champion.scores.assign(label=number)))
    assert not isinstance(table, Missing)
    assert table.labels == ("9", "10")


def test_examples_without_a_place_are_left_out_and_a_line_is_seen(digits: StudyRecord) -> None:
    place = np.column_stack([np.arange(411.0), np.zeros(411)])
    place[:5, 0] = np.nan
    table = latent_map(with_champion(digits, latent_map_N2=place))
    assert not isinstance(table, Missing)
    assert (table.left_out, len(table.points), table.on_a_line) == (5, 406, True)
    assert isinstance(latent_map(with_champion(digits, latent_map_N2=place[1:])), Missing)
    assert isinstance(latent_map(with_champion(digits, latent_map_N2=None)), Missing)


def test_dimensions_are_sorted_by_cost_and_active_where_their_means_vary() -> None:
    record = looked_into(study(**SMALL), dimensions=4)
    use = {
        "kl_per_dimension_R": np.array([0.2, 3.0, np.nan, 0.7]),
        "latent_variance_Z": np.array([0.01, 0.9, 0.5, 0.02]),
    }
    table = latent_use(with_champion(record, **use))
    assert not isinstance(table, Missing)
    assert table.dimension_R.tolist() == [2, 4, 1]
    assert table.kl_nats_R.tolist() == [3.0, 0.7, 0.2]
    assert table.is_active_R is not None
    assert table.is_active_R.tolist() == [True, True, False]
    other = latent_use(with_champion(record, **{**use, "latent_variance_Z": np.ones(3)}))
    assert not isinstance(other, Missing)
    assert other.is_active_R is None


def test_a_cost_that_is_none_or_the_same_everywhere_is_said_in_words() -> None:
    point, discretes = latent_use(tidy(without_rate(**SMALL))), latent_use(tidy(discrete(**SMALL)))
    assert isinstance(point, Missing)
    assert "no rate" in point.why
    assert isinstance(discretes, Missing)
    assert "8 discrete codes costs 4.16 nats" in discretes.why


def test_traversals_are_images_named_by_the_dimensions_that_vary_most(digits: StudyRecord) -> None:
    champion = champion_of(digits)
    table = traversals(tidy(digits))
    assert not isinstance(table, Missing)
    assert champion.traversals_LSD is not None
    assert champion.latent_variance_Z is not None
    assert table.images.shape == (8, 9, 8, 8)
    assert table.images[3, 4].ravel() == pytest.approx(champion.traversals_LSD[3, 4])
    best = max(range(8), key=lambda z: champion.latent_variance_Z[z])  # type: ignore[index]
    assert table.names[0] == f"dim {best + 1}"


def test_colour_channels_go_last() -> None:
    record = looked_into(study(**SMALL))
    walks = np.arange(2 * 3 * 48, dtype=np.float32).reshape(2, 3, 48)
    record = replace(record, data={**record.data, "image_shape": [3, 4, 4]})
    table = interpolations(with_champion(record, interpolations_PSD=walks))
    assert not isinstance(table, Missing)
    assert table.images.shape == (2, 3, 4, 4, 3)
    assert table.images[1, 2, 3, 1].tolist() == [walks[1, 2, c * 16 + 3 * 4 + 1] for c in range(3)]


def test_tables_have_no_walks() -> None:
    for table in (traversals(tidy(table_study(**SMALL))), interpolations(tidy(table_study(**SMALL)))):
        assert isinstance(table, Missing)
        assert "not images" in table.why


def test_the_stored_collapse_is_used_and_else_the_rule() -> None:
    record = study(trials=4, epochs=2)
    trials = record.trials.assign(state="finished", **{
        "val/collapsed": [1.0, 0.0, np.nan, np.nan], "val/active_units": [3.0, 0.0, 0.0, 3.0], "val/kl": [9, 0, 9, 9.0],
    })  # fmt: skip
    found = collapse(tidy(replace(record, trials=trials)))
    assert (found.trials, found.known, found.with_kl) == ((0, 2), 4, True)
    assert not collapse(tidy(without_rate(**SMALL))).with_kl


def test_the_plane_is_that_of_the_objectives_there_are() -> None:
    table = plane(tidy(without_rate(**SMALL)))
    assert isinstance(table, Plane)
    assert table.metrics == ("val/reconstruction", "val/squared_error")
    assert table.objectives_are_the_axes
    assert not table.has_elbo
    trials = without_rate(**SMALL).trials.set_index("trial")
    assert table.points["y"].tolist() == trials.loc[table.points["trial"], "val/squared_error"].tolist()


def test_one_objective_is_a_strip_with_the_best_so_far() -> None:
    record = without_rate(("val/squared_error",), **SMALL)
    table = plane(tidy(record))
    assert isinstance(table, Strip)
    finished = record.trials[record.trials["state"] == "finished"].sort_values("trial")
    values = finished["val/squared_error"].tolist()
    assert table.best["y"].tolist() == [min(values[: i + 1]) for i in range(len(values))]
    goal = [{"metric": "val/squared_error", "direction": "maximize"}]
    other = plane(tidy(replace(record, spec={**record.spec, "objectives": goal})))
    assert isinstance(other, Strip)
    assert other.best["y"].tolist() == [max(values[: i + 1]) for i in range(len(values))]


@pytest.mark.parametrize(
    ("objectives", "rate", "metrics"),
    [
        (("val/kl", "val/reconstruction", "val/auroc"), True, ("val/reconstruction", "val/kl")),
        (("val/elbo",), True, ("val/reconstruction", "val/kl")),
        (("val/elbo", "val/auroc"), True, ("val/elbo", "val/auroc")),
        (("val/reconstruction",), False, ("val/reconstruction",)),
        (("val/auroc", "val/squared_error", "val/active_units"), False, ("val/auroc", "val/squared_error")),
    ],
)
def test_which_metrics_make_the_plane(objectives: tuple[str, ...], rate: bool, metrics: tuple[str, ...]) -> None:
    record = study(**SMALL) if rate else mixed_families(**SMALL)
    goals = [{"metric": metric, "direction": "minimize"} for metric in objectives]
    assert plane_metrics(tidy(replace(record, spec={**record.spec, "objectives": goals}))) == metrics


def test_curves_and_scores_of_a_point_code_know_no_kl() -> None:
    record = tidy(without_rate(**SMALL))
    curves, scored = training_curves(record), scores(record)
    assert not isinstance(curves, Missing)
    assert curves.terms == ("val/reconstruction", "val/squared_error")
    assert not isinstance(scored, Missing)
    assert scored.score == "reconstruction"
    assert [choice.rule for choice in choices(record)] == ["val/reconstruction", "val/auroc"]


def test_with_one_objective_the_best_trials_are_followed() -> None:
    record = without_rate(("val/squared_error",), **SMALL)
    table = training_curves(tidy(record), most=4)
    assert not isinstance(table, Missing)
    finished = record.trials[record.trials["state"] == "finished"].sort_values("val/squared_error")
    assert table.trials[:1] == (finished["trial"].iloc[0],)
    assert set(table.trials) <= set(finished["trial"].head(4))
    assert not table.is_frontier


def test_facts_of_the_code_come_from_the_chosen_trial_and_the_spec() -> None:
    found = code_facts(tidy(discrete(**SMALL)))
    assert (found.probe_accuracy, found.probe_share) == (0.9132, 0.1)
    assert (found.perplexity, found.codebook_size) == (37.2, 64)
    record = discrete(**SMALL)
    searched = replace(record, trials=record.trials.assign(**{"codebook.size": 16, "test/perplexity": np.nan}))
    found = code_facts(tidy(searched))
    assert (found.perplexity, found.codebook_size) == (36.0, 16)
    nothing = code_facts(tidy(study(**SMALL)))
    assert np.isnan([nothing.probe_accuracy, nothing.perplexity]).all()


def test_the_unit_of_a_hypervolume() -> None:
    assert hypervolume_unit(["val/reconstruction"]) == "nats"
    assert hypervolume_unit(["val/reconstruction", "val/kl"]) == "nats²"
    assert hypervolume_unit(["val/reconstruction", "val/auroc"]) == ""
