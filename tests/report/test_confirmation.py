"""Further seeds: the numbers against a slow reference."""

from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.report.frames import Missing
from vae_study.report.sections.trials import confirmation
from vae_study.report.tables import tidy
from vae_study.tracking.record import ChampionRecord, StudyRecord

from .families import confirmed, without_rate
from .studies import study

SMALL = {"trials": 12, "epochs": 4}
VALUES = st.one_of(st.floats(0, 1), st.just(float("nan")), st.just(float("inf")))
SEEDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), VALUES), min_size=1, max_size=12)


def champion_of(record: StudyRecord) -> ChampionRecord:
    assert record.champion is not None
    return record.champion


@settings(max_examples=40, deadline=None)
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
    by_trial = digits.trials.set_index("trial").filter(like="val_auroc/").max(axis=1)
    score = champion_of(digits).score
    assert found.trials[0] == champion_of(digits).trial
    assert by_trial[list(found.trials)].is_monotonic_decreasing
    assert list(found.spreads) == [f"test_auroc/{score}", "val/elbo"]
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
