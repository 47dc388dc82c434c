"""What a study costs, before it starts."""

import random

import pandas as pd
import pytest

from pipeline.api import check_study, run_study, study_cost
from pipeline.spec import load_spec
from pipeline.study.cost import drawn, told_cost, tried_cost
from pipeline.terminal import cost_text, plan_text
from tests.study.conftest import SPEC

SMALL = ["training.epochs=12", "model.network.hidden=[32, 16]", "trials=4", "confirm={top: 1, seeds: 2}"]


@pytest.fixture(scope="module")
def home(ray_session, tmp_path_factory):
    """Where a study of four trials has run, one at a time."""
    home = tmp_path_factory.mktemp("home")
    run_study(SPEC, [*SMALL, "confirm=null"], home=home, concurrency=1)
    return home


def test_a_study_that_has_trials_costs_what_they_took(home):
    cost = study_cost(check_study(SPEC, [*SMALL, "trials=10"], home=home), home)
    assert (cost.is_tried, cost.known_from, cost.trials) == (False, 4, 12)
    # A few tries know no more than about what it is.
    tried = tried_cost(check_study(SPEC, SMALL))
    assert tried.is_tried
    assert cost.trial_seconds / 10 < tried.trial_seconds < cost.trial_seconds * 10


def test_trials_of_another_model_say_nothing(home):
    assert study_cost(check_study(SPEC, [*SMALL, "training.epochs=13"], home=home), home).is_tried


def test_the_mean_is_that_of_trials_that_went_their_way():
    plan = check_study(SPEC, SMALL)
    trials = pd.DataFrame({"trial": [0, 1, 2, 3], "state": ["finished", "stopped", "failed", "running"]})
    history = pd.DataFrame({"trial": [0, 0, 1, 2, 3], "time/epoch_seconds": [1.0, 2.0, 5.0, 100.0, 100.0]})
    cost = told_cost(plan, trials, history)
    assert cost.trial_seconds == 4
    assert cost.worker_hours == 6 * 4 / 3600
    assert told_cost(plan, trials[2:], history) is None


def test_more_epochs_cost_more_and_a_large_table_is_tried_in_part():
    few, many = (tried_cost(check_study(SPEC, [*SMALL, f"training.epochs={epochs}"])) for epochs in (2, 2000))
    assert many.trial_seconds > 20 * few.trial_seconds


def test_what_is_drawn_is_within_the_search_and_takes_every_branch():
    spec, draw = load_spec(SPEC), random.Random(1)
    found = [drawn(spec, draw) for _ in range(200)]
    for values in found:
        spec.trial(values)
        assert all(spec.search[name].contains(value) for name, value in values.items())
        assert ("kl_annealing.cycles" in values) == (values["kl_annealing.schedule"] == "cyclical")
    assert {values["kl_annealing.schedule"] for values in found} == set(spec.search["kl_annealing.schedule"].choices)


@pytest.mark.parametrize(
    ("company", "says"), [("1", "one trial at a time on each"), ("8", "8 trials at once on each"), ("auto", "as pay")]
)
def test_a_plan_says_what_a_worker_has_and_how_many_trials_it_trains_at_once(company, says):
    text = plan_text(check_study(SPEC, [*SMALL, f"resources.trials_per_device={company}", "resources.gpu=0.25"]))
    [line] = [line for line in text.splitlines() if line.startswith("resources")]
    assert "1 CPU and 0.25 GPU a worker" in line
    assert says in line


def test_what_was_tried_here_is_not_sold_as_true_elsewhere():
    plan = check_study(SPEC, [*SMALL, "early_stopping={kind: pareto, min_epochs: 4}"])
    text = cost_text(plan, tried_cost(plan))
    for words in ("about", "worker-hours", "6 trials, repeats included", "take here, on one core", "stopped early"):
        assert words in text
