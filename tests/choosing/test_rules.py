import math

import pandas as pd
import pytest

from pipeline.anomaly import SCORES
from pipeline.choosing import RULES, Pick, choose, eligible, ranked


def trials(*rows) -> pd.DataFrame:
    """Trials by number, in an order of their own: state and value of the rule's metric."""
    frame = pd.DataFrame([{"trial": n, "state": state, "val/elbo": value} for n, (state, value) in enumerate(rows)])
    return frame.sample(frac=1, random_state=1) if len(frame) else frame


@pytest.mark.parametrize(
    ("rows", "champion"),
    [
        ([("finished", -3.0), ("finished", -1.0), ("finished", -2.0)], 1),
        ([("stopped", 9.0), ("failed", 9.0), ("running", 9.0), ("waiting", 9.0), ("finished", -9.0)], 4),
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
        | {"val/reconstruction": [5.0, 4.0, 3.0], "pseudo_auroc/residual_mahalanobis": [0.6, 0.9, 0.5]}
    )
    assert {rule: choose(frame, rule) for rule in RULES} == {
        "val/auroc": Pick(3, "kl", 0.9),
        "val/elbo": Pick(2, "elbo", 2.0),
        "val/reconstruction": Pick(3, "residual_mahalanobis", 3.0),
        "pseudo": Pick(2, "residual_mahalanobis", 0.9),
    }
    assert choose(frame, "val/auroc", score="elbo") == Pick(1, "elbo", 0.8)
    assert choose(frame, "val/elbo", score="kl") == Pick(2, "kl", 2.0)
    assert choose(frame, "pseudo", score="kl") is None


def test_each_trial_is_ranked_once_by_its_best_score_and_of_equal_scores_the_first():
    values = {f"val_auroc/{score}": [0.5, 0.9] for score in SCORES}
    frame = pd.DataFrame({"trial": [0, 1], "state": "finished", **values, "val_auroc/latent_knn": [0.95, 0.1]})
    assert ranked(frame, "val/auroc") == [Pick(0, "latent_knn", 0.95), Pick(1, SCORES[0], 0.9)]


def test_all_are_ranked_as_one_after_another_would_be_chosen():
    frame = trials(("finished", 1.0), ("finished", 3.0), ("failed", 9.0), ("finished", 3.0), ("finished", math.nan))
    assert [pick.trial for pick in ranked(frame, "val/elbo")] == [1, 3, 0]


def test_a_trial_that_violates_a_constraint_is_chosen_only_where_no_finished_trial_keeps_them():
    frame = trials(("finished", 9.0), ("finished", 1.0), ("stopped", 99.0), ("finished", 5.0)).sort_values("trial")
    kept = frame.assign(feasible=[False, True, True, None])
    assert [pick.trial for pick in ranked(kept, "val/elbo")] == [3, 1]
    assert eligible(kept)["trial"].tolist() == [1, 3]
    for nothing in ([False, False, True, False], [False] * 4):
        assert [pick.trial for pick in ranked(frame.assign(feasible=nothing), "val/elbo")] == [0, 3, 1]
    assert ranked(frame.assign(feasible=True), "val/elbo") == ranked(frame, "val/elbo")


def test_there_is_no_champion_by_a_metric_that_no_trial_has():
    assert choose(trials(("finished", 1.0)), "val/auroc") is None
