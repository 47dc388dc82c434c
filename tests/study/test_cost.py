"""What a study costs, before it starts."""

import math
import random

import pandas as pd
import pytest
from vae_study.api import check_study, load_study, run_study, study_cost
from vae_study.config.loading import load_config
from vae_study.study.cost import cost_from_trials, drawn, measured_cost
from vae_study.terminal import cost_text, plan_text
from vae_study.vae.model_batch import ModelBatch

from tests.study.conftest import CONFIG

SMALL = ["training.epochs=12", "model.network.hidden=[32, 16]", "trials=4", "confirm={top: 1, seeds: 2}"]


@pytest.fixture(scope="module")
def home(ray_session, tmp_path_factory):
    """Where a study of four trials has run, one at a time."""
    home = tmp_path_factory.mktemp("home")
    run_study(CONFIG, [*SMALL, "confirm=null"], home=home, concurrency=1)
    return home


def test_a_study_that_has_trials_costs_what_they_took(home):
    cost = study_cost(check_study(CONFIG, [*SMALL, "trials=10"], home=home), home)
    assert (cost.device, cost.samples, cost.trials) == ("", 4, 12)
    took = load_study("digits", home=home).history["time/epoch_seconds"].sum() / 4
    assert cost.trial_seconds == pytest.approx(took)
    tried = measured_cost(check_study(CONFIG, SMALL))
    assert tried.device
    assert 0 < tried.trial_seconds < math.inf


def test_trials_of_another_model_say_nothing(home):
    assert study_cost(check_study(CONFIG, [*SMALL, "training.epochs=13"], home=home), home).device


def test_the_mean_is_that_of_trials_that_went_their_way():
    plan = check_study(CONFIG, SMALL)
    trials = pd.DataFrame({"trial": [0, 1, 2, 3], "state": ["finished", "pruned", "failed", "running"]})
    history = pd.DataFrame({"trial": [0, 0, 1, 2, 3], "time/epoch_seconds": [1.0, 2.0, 5.0, 100.0, 100.0]})
    cost = cost_from_trials(plan, trials, history)
    assert cost.trial_seconds == 4
    assert cost.worker_hours == 6 * 4 / 3600
    assert cost_from_trials(plan, trials[2:], history) is None


def test_more_epochs_cost_more_and_a_large_table_is_tried_in_part(monkeypatch):
    """Every epoch that is tried takes half a second here."""
    train = ModelBatch.train_epoch
    monkeypatch.setattr(
        ModelBatch,
        "train_epoch",
        lambda batch: [{**metrics, "time/epoch_seconds": 0.5} for metrics in train(batch)],
    )

    def seconds(*settings):
        return measured_cost(check_study(CONFIG, [*SMALL, *settings])).trial_seconds

    assert (seconds("training.epochs=2"), seconds("training.epochs=2000")) == (1, 1000)
    assert seconds("training.epochs=2", "training.batch_size=16") > 5


def test_what_is_drawn_is_within_the_search_and_takes_every_branch():
    config, draw = load_config(CONFIG), random.Random(1)
    found = [drawn(config, draw) for _ in range(200)]
    for values in found:
        config.trial(values)
        assert all(config.search[name].contains(value) for name, value in values.items())
        assert ("kl_annealing.cycles" in values) == (values["kl_annealing.schedule"] == "cyclical")
    assert {values["kl_annealing.schedule"] for values in found} == set(config.search["kl_annealing.schedule"].choices)


@pytest.mark.parametrize(
    ("count", "says"),
    [("1", "one trial at a time on each"), ("8", "8 trials at once on each"), ("auto", "as is fastest")],
)
def test_a_plan_says_what_a_worker_has_and_how_many_trials_it_trains_at_once(count, says):
    text = plan_text(check_study(CONFIG, [*SMALL, f"resources.trials_per_device={count}", "resources.gpu=0.25"]))
    [line] = [line for line in text.splitlines() if line.startswith("resources")]
    assert "1 CPU and 0.25 GPU a worker" in line
    assert says in line


def test_what_was_tried_here_is_not_sold_as_true_elsewhere():
    plan = check_study(CONFIG, [*SMALL, "early_stopping={kind: pareto, min_epochs: 4}"])
    text = cost_text(plan, measured_cost(plan))
    for words in ("about", "worker-hours", "6 trials, repeats included", "draws here, on one core", "early stopping"):
        assert words in text
