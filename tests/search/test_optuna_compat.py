"""Without any one of the private parts of Optuna that are used, a study still runs; each test says what it loses."""

import numpy as np
import optuna
import pytest
from optuna.samplers import NSGAIISampler, TPESampler
from vae_study.search import optuna_compat, sampler
from vae_study.search.optuna_compat import CACHE_PARTS, DriverStorage, open_storage
from vae_study.search.sampler import DRAWN_TOGETHER, History, first_generation

from .conftest import GOOD
from .test_history import filled, numbers, short
from .test_samplers import try_some


@pytest.fixture
def hide(monkeypatch):
    """Makes a private name one that this release of Optuna does not have."""
    private = optuna_compat.private

    def hide_it(name):
        monkeypatch.setattr(
            optuna_compat, "private", lambda owner, wanted: None if wanted == name else private(owner, wanted)
        )

    return hide_it


@pytest.mark.parametrize("name", ["_cached_storage", *CACHE_PARTS])
def test_without_a_part_of_the_cache_the_database_is_asked_more_often_and_the_study_is_the_same(open_store, hide, name):
    with_it = open_store(file="with.db")
    assert isinstance(with_it._storage, DriverStorage)
    hide(name)
    without = open_store("early_stopping={kind: pareto}", "constraints=[{metric: val/kl, at_most: 9}]", file="out.db")
    assert not isinstance(without._storage, DriverStorage)
    first = without.ask()
    assert first.parameters == with_it.ask().parameters
    assert without.should_continue(first.number, 1, GOOD, is_late=False)
    without.count_preemption(first.number)
    assert without.finish(first.number, GOOD)
    assert (without.counts(), without.finished_values()) == ({"finished": 1}, [[30.0, 5.0]])


def test_the_storage_of_a_study_is_the_one_that_is_read_once(tmp_path):
    assert isinstance(open_storage(f"sqlite:///{tmp_path}/study.db"), DriverStorage)


def test_without_get_trials_a_sampler_is_shown_the_whole_of_a_long_study(monkeypatch, hide):
    short(monkeypatch)
    study = filled(np.random.default_rng(0).normal(size=(100, 2)))
    assert len(numbers(History("tpe").part(study))) < 40
    hide("_get_trials")
    assert numbers(History("tpe").part(study)) == list(range(100))


@pytest.mark.parametrize(
    "name", ["_get_generation_key", "_get_parent_cache_key_prefix", "_storage", "_study_id", "_trial_id"]
)
def test_without_its_generations_a_genetic_sampler_is_shown_the_whole_of_a_long_study(
    open_store, monkeypatch, hide, name
):
    short(monkeypatch, whole=12, newest=8, kept=4, block=4)
    store = open_store("sampler.kind=nsga2")
    monkeypatch.setattr(sampler, "SAMPLERS", {"nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=3)})
    try_some(store, 24)
    assert len(numbers(History("nsga2").part(store.study))) < 24
    hide(name)
    assert numbers(History("nsga2").part(store.study)) == list(range(24))
    assert store.ask().number == 24


def test_without_the_generation_key_a_genetic_sampler_does_not_learn_from_an_earlier_study(hide):
    assert first_generation("nsga2") == {NSGAIISampler._get_generation_key(): 0}
    hide("_get_generation_key")
    assert first_generation("nsga2") == {}


@pytest.mark.parametrize("name", ["_storage", "_trial_id"])
def test_without_the_storage_inside_a_sampler_what_is_drawn_together_is_not_kept(hide, name):
    def drawn():
        study = filled(np.random.default_rng(0).normal(size=(20, 2)))
        study.sampler = sampler.TrialSampler("tpe", 0, 20)
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        return trial.params, DRAWN_TOGETHER in study.get_trials()[-1].user_attrs

    values, is_kept = drawn()
    assert is_kept
    hide(name)
    assert drawn() == (values, False)


def test_optuna_still_keeps_what_a_trial_was_enqueued_with_under_this_name():
    study = optuna.create_study(sampler=TPESampler(seed=0))
    study.enqueue_trial({"x": 0.25})
    assert study.get_trials()[0].system_attrs[optuna_compat.ENQUEUED] == {"x": 0.25}
