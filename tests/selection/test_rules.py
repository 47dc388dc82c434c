import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.anomaly.detection import auroc
from vae_study.metrics import RULES, SCORES
from vae_study.selection.ranking import Selection, choose, eligible, ranked, standard_error


def trials(*rows) -> pd.DataFrame:
    """Trials by number, in an order of their own: state and value of the rule's metric."""
    frame = pd.DataFrame([{"trial": n, "state": state, "val/elbo": value} for n, (state, value) in enumerate(rows)])
    return frame.sample(frac=1, random_state=1) if len(frame) else frame


@pytest.mark.parametrize(
    ("rows", "champion"),
    [
        ([("finished", -3.0), ("finished", -1.0), ("finished", -2.0)], 1),
        ([("pruned", 9.0), ("failed", 9.0), ("running", 9.0), ("waiting", 9.0), ("finished", -9.0)], 4),
        ([("finished", math.nan), ("finished", -5.0)], 1),
        ([("finished", math.inf), ("finished", -5.0), ("finished", -math.inf)], 1),
        ([("finished", 0.0), ("finished", 7.0), ("finished", 7.0), ("finished", 7.0)], 1),
        ([("finished", math.nan)], None),
        ([("finished", -math.inf)], None),
        ([("failed", 1.0)], None),
        ([], None),
    ],
)
def test_the_champion_is_the_earliest_of_the_best_finished_trials(rows, champion):
    pick = choose(trials(*rows), "val/elbo")
    assert (pick and pick.trial) == champion


def test_only_the_rules_own_metric_counts_and_its_direction():
    columns = {"trial": [1, 2, 3], "state": "finished", "val/elbo": [1.0, 2.0, 0.0], "val/auroc": [0.6, 0.7, 0.9]}
    frame = pd.DataFrame(
        columns
        | {"val_auroc/elbo": [0.8, 0.7, 0.6], "val_auroc/kl": [0.1, 0.75, 0.9], "test_auroc/kl": [0.1, 0.9, 0.2]}
        | {"val_auprc/elbo": [0.2, 0.3, 0.1], "val_auprc/kl": [0.1, 0.2, 0.25]}
        | {"val/reconstruction": [5.0, 4.0, 3.0], "pseudo_auroc/residual_mahalanobis": [0.6, 0.9, 0.5]}
    )
    assert {rule: choose(frame, rule) for rule in RULES} == {
        "val/auroc": Selection(3, "kl", 0.9),
        "val/auprc": Selection(2, "elbo", 0.3),
        "val/elbo": Selection(2, "elbo", 2.0),
        "val/reconstruction": Selection(3, "residual_mahalanobis", 3.0),
        "pseudo": Selection(2, "residual_mahalanobis", 0.9),
    }
    assert choose(frame, "val/auroc", score="elbo") == Selection(1, "elbo", 0.8)
    assert choose(frame, "val/elbo", score="kl") == Selection(2, "kl", 2.0)
    assert choose(frame, "pseudo", score="kl") is None


def test_each_trial_is_ranked_once_by_its_best_score_and_of_equal_scores_the_first():
    values = {f"val_auroc/{score}": [0.5, 0.9] for score in SCORES}
    frame = pd.DataFrame({"trial": [0, 1], "state": "finished", **values, "val_auroc/latent_knn": [0.95, 0.1]})
    assert ranked(frame, "val/auroc") == [Selection(0, "latent_knn", 0.95), Selection(1, next(iter(SCORES)), 0.9)]


def test_all_are_ranked_as_one_after_another_would_be_chosen():
    frame = trials(("finished", 1.0), ("finished", 3.0), ("failed", 9.0), ("finished", 3.0), ("finished", math.nan))
    assert [pick.trial for pick in ranked(frame, "val/elbo")] == [1, 3, 0]


def test_a_trial_that_violates_a_constraint_is_chosen_only_where_no_finished_trial_keeps_them():
    frame = trials(("finished", 9.0), ("finished", 1.0), ("pruned", 99.0), ("finished", 5.0)).sort_values("trial")
    kept = frame.assign(feasible=[False, True, True, None])
    assert [pick.trial for pick in ranked(kept, "val/elbo")] == [3, 1]
    assert eligible(kept)["trial"].tolist() == [1, 3]
    for nothing in ([False, False, True, False], [False] * 4):
        assert [pick.trial for pick in ranked(frame.assign(feasible=nothing), "val/elbo")] == [0, 3, 1]
    assert ranked(frame.assign(feasible=True), "val/elbo") == ranked(frame, "val/elbo")


def labelled(values: list[float], collapsed: list[int], elbo: list[float]) -> pd.DataFrame:
    columns = {"trial": range(len(values)), "state": "finished", "val_auroc/elbo": values, "val_auprc/elbo": values}
    return pd.DataFrame({**columns, "val/collapsed": collapsed, "val/elbo": elbo})


@pytest.mark.parametrize("rule", ["val/auroc", "val/auprc"])
def test_a_collapsed_trial_is_chosen_only_where_no_other_is_within_one_standard_error(rule):
    classes = (40, 3960)
    error = standard_error(rule, 0.9, classes)
    for distance, first in ((0.9, 2), (1.1, 0)):
        frame = labelled([0.9, 0.5, 0.9 - distance * error, 0.4], [1, 0, 0, 0], [-9.0, -1.0, -2.0, -3.0])
        found = ranked(frame, rule, classes=classes)
        assert [one.trial for one in found] == [first, *(trial for trial in (0, 2, 1, 3) if trial != first)]
        assert choose(frame, rule) == Selection(0, "elbo", 0.9)


def test_of_equal_values_the_better_elbo_counts_and_then_the_simpler_score():
    frame = labelled([0.9, 0.9, 0.9], [0, 0, 0], [-3.0, -1.0, -2.0]).assign(**{"val_auroc/latent_knn": 0.9})
    assert ranked(frame, "val/auroc") == [Selection(trial, "elbo", 0.9) for trial in (1, 2, 0)]


def test_a_standard_error_is_that_of_drawing_rows_again():
    random = np.random.default_rng(0)
    is_anomaly_N = np.arange(300) < 60
    drawn = [random.exponential(size=300) * np.where(is_anomaly_N, 4.0, 1.0) for _ in range(3000)]
    areas = [auroc(is_anomaly_N, score_N) for score_N in drawn]
    assert standard_error("val/auroc", float(np.mean(areas)), (60, 240)) == pytest.approx(np.std(areas), rel=0.15)
    assert standard_error("val/auprc", 0.5, (60, 240)) == pytest.approx(0.5 / math.sqrt(60))
    assert standard_error("val/auroc", 1.0, (5, 100)) > 0


@given(st.data())
def test_a_trial_that_is_not_among_the_first_now_never_is_after_more_trials(data):
    count, most = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 3))
    areas = st.sampled_from([0.3, 0.6, 0.8, 0.85, 0.9, 0.95, 1.0])
    values = data.draw(st.lists(areas, min_size=count, max_size=count))
    collapsed = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    frame = labelled(values, collapsed, [float(-place % 3) for place in range(count)])
    dropped: set[int] = set()
    for rows in range(1, count + 1):
        kept = {one.trial for one in ranked(frame.iloc[:rows], "val/auroc", classes=(10, 90))[:most]}
        assert not kept & dropped
        dropped |= set(range(rows)) - kept


def test_there_is_no_champion_by_a_metric_that_no_trial_has():
    assert choose(trials(("finished", 1.0)), "val/auroc") is None
