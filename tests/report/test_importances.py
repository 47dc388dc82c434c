"""What mattered: who is said to matter does, within branches and beside outliers, in any order and with odd values."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.report.frames import Missing
from vae_study.report.overview import importance_note, overview
from vae_study.report.parameters import coordinates
from vae_study.report.sections.importances import (
    LEAST_TRIALS,
    Importances,
    contour,
    importance_grid,
    importances,
    near,
)
from vae_study.report.sections.search_space import parallel, slices
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import StudyRecord

from .families import discrete, mixed_families, without_rate
from .odd import NASTY
from .studies import study
from .test_tables import record_of

LOG = {"low": 0.01, "high": 100.0, "log": True, "type": "float"}
SHARE = {"low": 0.0, "high": 1.0, "type": "float"}
WORDS = {"choices": ["a", "b", "c"]}


def searched(columns: dict[str, Any], search: dict[str, Any], y: Any, state: str = "finished") -> StudyRecord:
    """A study whose first objective is `y` and whose second is the same for all."""
    made = record_of([(state, float(value), 1.0) for value in y])
    return tidy(replace(made, config={**made.config, "search": search}, trials=made.trials.assign(**columns)))


def found(record: StudyRecord) -> dict[str, float]:
    table = importances(record)
    assert isinstance(table, Importances)
    assert table.targets == ("val/reconstruction", "val/kl")
    assert np.isnan(table.share_PT[:, 1]).all(), "a target that never varies has no variation to be explained"
    return dict(zip(table.parameters, table.share_PT[:, 0].tolist(), strict=True))


def drawn(size: int = 60, seed: int = 0) -> tuple[dict[str, Any], np.random.Generator]:
    random = np.random.default_rng(seed)
    return {"one": 10 ** random.uniform(-2, 2, size), "two": random.uniform(size=size),
            "three": random.choice(["a", "b", "c"], size)}, random  # fmt: skip


SEARCH = {"one": LOG, "two": SHARE, "three": WORDS}


@pytest.mark.parametrize("which", SEARCH)
def test_the_parameter_that_makes_the_target_explains_it_and_the_others_nothing(which: str) -> None:
    columns, _ = drawn()
    y = {"one": np.log(columns["one"]), "two": 3 * columns["two"], "three": columns["three"] == "b"}[which]
    shares = found(searched(columns, SEARCH, y))
    assert next(iter(shares)) == which
    assert shares.pop(which) > 0.95
    assert max(shares.values()) < 0.02


def test_what_two_parameters_do_only_together_is_in_no_share() -> None:
    columns, _ = drawn(400)
    y = np.where((columns["two"] > 0.5) == (np.log(columns["one"]) > 0), 1.0, -1.0)
    shares = found(searched(columns, SEARCH, y))
    assert max(shares.values()) < 0.1


def test_a_branch_s_parameter_is_judged_among_the_trials_that_have_it() -> None:
    """Over all trials it would explain next to nothing, since the other branch varies far more."""
    columns, random = drawn(120)
    inside = columns["three"] == "a"
    columns["four"] = np.where(inside, random.uniform(size=120), np.nan)
    y = np.where(inside, columns["four"], 50 * np.log(columns["one"]))
    search = {**SEARCH, "four": {**SHARE, "when": {"three": ["a"]}}}
    table = importances(searched(columns, search, y))
    assert isinstance(table, Importances)
    place = table.parameters.index("four")
    assert table.share_PT[place, 0] > 0.95
    assert table.trials_P.tolist() == [inside.sum() if name == "four" else 120 for name in table.parameters]


def test_a_few_diverged_trials_do_not_decide_what_matters() -> None:
    columns, random = drawn(80)
    y = np.log(columns["one"])
    y[random.choice(80, 3, replace=False)] = [1e6, np.inf, np.nan]
    assert found(searched(columns, SEARCH, y))["one"] > 0.9


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=40), st.lists(st.sampled_from([np.nan, np.inf]), max_size=4))
def test_values_near_the_bulk_stay_as_they_are_and_others_keep_their_order(
    values: list[float], bad: list[float]
) -> None:
    found = near(np.array([*values, *bad]))
    assert np.isnan(found[len(values) :]).all()
    kept = found[: len(values)]
    first, third = np.quantile(values, [0.25, 0.75])
    inside = np.abs(np.array(values) - (first + third) / 2) <= 4.5 * (third - first)
    assert (kept[inside] == np.array(values)[inside]).all()
    assert (np.diff(kept[np.argsort(values, kind="stable")]) >= 0).all()


def test_too_few_trials_and_constant_values_are_said_to_say_nothing() -> None:
    columns, random = drawn(40)
    few = np.where(np.arange(40) < LEAST_TRIALS - 1, random.uniform(size=40), np.nan)
    search = {**SEARCH, "few": SHARE, "same": SHARE}
    record = searched({**columns, "few": few, "same": 0.5}, search, np.log(columns["one"]))
    shares = found(record)
    assert np.isnan([shares["few"], shares["same"]]).all()
    told = importance_note(StudyTables(record))
    assert f"Unknown, because there are fewer than {LEAST_TRIALS} trials or always the same value: few and same" in told
    assert "Less than 5.0 % of any target: " in told
    short = searched({k: v[:9] for k, v in columns.items()}, SEARCH, range(9))
    missing = importances(short)
    assert isinstance(missing, Missing)
    assert "finished trials; this study has 9." in missing.why
    assert importance_note(StudyTables(short)) == ""
    unsearched = importances(searched({}, {}, range(20)))
    assert unsearched == Missing("The finished trials differ in no searched parameter, so there are no importances.")


def test_trials_that_did_not_finish_take_no_part() -> None:
    columns, _ = drawn(60)
    record = searched(columns, SEARCH, np.log(columns["one"]))
    stopped = record.trials.assign(state="pruned", trial=record.trials["trial"] + 60, **{"val/reconstruction": 7.0})
    both = tidy(replace(record, trials=pd.concat([record.trials, stopped])))
    assert found(both) == found(record)


def test_choices_are_told_by_the_config_s_words_whatever_the_store_made_of_them() -> None:
    search = {
        "wide": {"choices": [[256, 128], [64]]},
        "sure": {"choices": [True, False]},
        "size": {"choices": [32, 64.0]},
        "odd": {"choices": ["none"]},
    }
    columns = {
        "wide": ["[64]", "[256, 128]", None],
        "sure": ["False", "True", "True"],
        "size": [64.0, np.nan, 32.0],
        "odd": ["none", NASTY, "none"],
    }
    record = searched(columns, search, range(3))
    table = {coordinate.name: coordinate for coordinate in coordinates(record, record.trials)}
    # A tuple as the config's lists are frozen, and a list as it is read back.
    assert table["wide"].choices == ("[256, 128]", "[64]")
    assert table["wide"].value_N.tolist() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert (table["sure"].choices, table["sure"].value_N.tolist()) == (("True", "False"), [1.0, 0.0, 0.0])
    assert table["size"].choices == ("32", "64")
    assert table["size"].value_N.tolist() == pytest.approx([1.0, np.nan, 0.0], nan_ok=True)
    assert (table["odd"].choices, table["odd"].value_N.tolist()) == (("none", NASTY), [0.0, 1.0, 0.0])


@given(st.permutations(range(20)))
@settings(max_examples=4, deadline=None)
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    columns, _ = drawn(20)
    record = searched(columns, SEARCH, np.log(columns["one"]))
    shuffled = tidy(replace(record, trials=record.trials.iloc[order]))
    assert found(shuffled) == found(record)


def collapsed() -> StudyRecord:
    record = study(trials=30, epochs=2)
    return replace(record, trials=record.trials.assign(**{"val/kl": 0.0, "val/active_units": 0.0, "val/auroc": 0.5}))


def nasty() -> StudyRecord:
    record = study(trials=30, epochs=2)
    trials = record.trials.assign(**{"free_bits.kind": NASTY, NASTY: np.arange(30) / 7})
    config = {**record.config, "search": {**record.config["search"], NASTY: {"low": 0, "high": 9}}}
    return replace(record, trials=trials, config=config)


def older() -> StudyRecord:
    """Some runs lack a metric that others have."""
    record = study(trials=30, epochs=2)
    late = record.trials["trial"] >= 8
    return replace(
        record, trials=record.trials.assign(**{m: record.trials[m].where(late) for m in ("val/kl", "val/auroc")})
    )


def running() -> StudyRecord:
    record = study(trials=40, epochs=2)
    late = record.trials["trial"] >= 30
    return replace(
        record, trials=record.trials.assign(state=record.trials["state"].mask(late, "running")), champion=None
    )


ODD: dict[str, Callable[[], StudyRecord]] = {
    "all collapsed": collapsed,
    "names with markup": nasty,
    "a metric missing in old runs": older,
    "still running": running,
    "no labels": lambda: study(trials=30, epochs=2, labels=False),
    "no KL": lambda: without_rate(trials=30, epochs=2),
    "one objective": lambda: without_rate(("val/reconstruction",), trials=30, epochs=2, labels=False),
    "families": lambda: mixed_families(trials=30, epochs=2),
    "a constant KL": lambda: discrete(trials=30, epochs=2),
    "all the same": lambda: replace(r := study(trials=30, epochs=2), trials=r.trials.assign(
        **{"beta": 1.0, "latent_dim": 4, "val/reconstruction": 3.0, "val/kl": 2.0})),
    "no search": lambda: replace(study(trials=30, epochs=2), config={}),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_have_tables_or_words_and_never_a_warning(name: str) -> None:
    record = tidy(ODD[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = importances(record)
        drawn = (shares, contour(record, shares), parallel(record))
    assert all(not isinstance(table, Missing) or table.why.endswith(".") for table in drawn)
    assert isinstance(shares, Importances)
    known = shares.share_PT[np.isfinite(shares.share_PT)]
    assert ((known >= 0) & (known <= 1 + 1e-9)).all()
    assert all(np.isfinite([*table.x_N, *table.y_N]).all() for table in slices(record))
    said = importance_note(StudyTables(record))
    assert "nan" not in said
    assert said


def test_the_summary_and_the_grid_say_what_the_table_holds() -> None:
    tables = StudyTables(study(trials=30, epochs=3))
    assert isinstance(tables.of(importances), Importances)
    grid = importance_grid(tables)
    assert [row[0] for row in grid.rows][:1] == ["beta"]
    assert grid.head == ("parameter", "validation reconstruction", "validation KL", "validation AUROC", "trials")
    shares = [f"{100 * share:.1f} %" for share in tables.of(importances).share_PT[0]]
    assert grid.rows[0] == ("beta", *shares, str(tables.of(importances).trials_P[0]))
    assert (
        f"Of the searched parameters, beta matters most: alone it explains {shares[0]} of the variance of "
        f"validation reconstruction, {shares[1]} of that of validation KL and {shares[2]} of that of validation AUROC."
    ) in " ".join(overview(tables))
    few = StudyTables(study(trials=6, epochs=3))
    assert importance_grid(few).rows == ()
    assert "matters most" not in " ".join(overview(few))
