import math

import pandas as pd
import pytest

from pipeline.champion import RULES, choose, ranked


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
    assert choose(trials(*rows), "val/elbo") == champion


def test_only_the_rules_own_metric_counts_and_its_direction():
    columns = {"trial": [1, 2, 3], "state": "finished", "val/elbo": [1.0, 2.0, 0.0], "val/auroc": [0.8, 0.7, 0.6]}
    frame = pd.DataFrame(columns | {"val/reconstruction": [5.0, 4.0, 3.0], "test/auroc": [0.1, 0.9, 0.2]})
    assert {rule: choose(frame, rule) for rule in RULES} == {"val/auroc": 1, "val/elbo": 2, "val/reconstruction": 3}


def test_all_are_ranked_as_one_after_another_would_be_chosen():
    frame = trials(("finished", 1.0), ("finished", 3.0), ("failed", 9.0), ("finished", 3.0), ("finished", math.nan))
    assert ranked(frame, "val/elbo") == [1, 3, 0]


def test_there_is_no_champion_by_a_metric_that_no_trial_has():
    assert choose(trials(("finished", 1.0)), "val/auroc") is None
