import math
import threading

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from vae_study.search import sampler as history
from vae_study.search.sampler import MEMORIES, History, TrialSampler, best, first_generation

from .test_samplers import try_some

RANGE = {"x": FloatDistribution(0, 1)}


def short(monkeypatch, whole=40, newest=20, kept=10, block=10):
    for name, value in {"WHOLE": whole, "NEWEST": newest, "BEST": kept, "BLOCK": block}.items():
        monkeypatch.setattr(history, name, value)


def filled(values, directions=("minimize", "minimize")):
    study = optuna.create_study(directions=directions)
    for row in values:
        study.add_trial(create_trial(params={"x": 0.5}, distributions=RANGE, values=list(row)))
    return study


def numbers(study):
    return [trial.number for trial in study.get_trials(deepcopy=False)]


def test_a_short_history_is_shown_whole_and_a_long_one_in_part_however_long(monkeypatch):
    short(monkeypatch)
    values = np.random.default_rng(0).normal(size=(200, 2))
    study, shown = optuna.create_study(directions=["minimize"] * 2), History("tpe")
    for count, row in enumerate(values, 1):
        study.add_trial(create_trial(params={"x": 0.5}, distributions=RANGE, values=list(row)))
        part = numbers(shown.part(study))
        assert part == sorted(set(part))
        assert part[-20:] == list(range(count))[-20:]
        assert part == list(range(count)) if count < 40 else len(part) < 40
    # Most of a cloud's frontier is small, and outlives all that came after it.
    front = {trial.number for trial in study.best_trials}
    assert len(front) <= 10
    assert front <= set(part)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60), st.booleans())
def test_nothing_remembered_is_worse_than_what_is_forgotten(values, is_maximized):
    directions = ["minimize", "maximize" if is_maximized else "minimize"]
    study = filled(values, directions)
    trials = study.get_trials(deepcopy=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(history, "BEST", 8)
        kept = best(study, trials)
    assert len(kept) == len({trial.number for trial in kept}) == min(8, len(trials))
    signs = np.array([1, -1 if is_maximized else 1])
    forgotten = [trial for trial in trials if trial not in kept]

    def dominates(one, other):
        a, b = signs * one.values, signs * other.values
        return bool((a <= b).all() and (a < b).any())

    # By fronts: what a forgotten trial dominates is on a later front than the one that was cut.
    assert not any(dominates(lost, held) for lost in forgotten for held in kept)


def test_a_crowded_front_is_remembered_from_end_to_end():
    angle = np.linspace(0, np.pi / 2, 900)
    study = filled(np.random.default_rng(0).permutation(np.column_stack([np.cos(angle), np.sin(angle)])))
    kept = np.array(sorted(trial.values for trial in best(study, study.get_trials(deepcopy=False))))
    assert len(kept) == history.BEST
    assert kept[[0, -1]] == pytest.approx(np.array([[0, 1], [1, 0]]))
    assert np.linalg.norm(np.diff(kept, axis=0), axis=1).max() < 2 * math.pi / 2 / history.BEST


def test_trials_that_break_a_constraint_come_after_those_that_keep_it(monkeypatch):
    monkeypatch.setattr(history, "BEST", 3)
    study = optuna.create_study()
    for value, violation in [(0.0, 5.0), (1.0, 0.1), (9.0, 0.0), (8.0, -1.0)]:
        study.add_trial(
            create_trial(params={"x": 0.5}, distributions=RANGE, value=value, constraints={"bound": violation})
        )
    assert [trial.number for trial in best(study, study.get_trials(deepcopy=False))] == [3, 2, 1]


def test_a_straggler_is_shown_while_it_runs_and_remembered_once_it_was_the_best(monkeypatch):
    short(monkeypatch)
    study, shown = optuna.create_study(directions=["minimize"] * 2), History("tpe")
    straggler = study.ask(RANGE)
    for row in np.random.default_rng(0).uniform(1, 2, size=(60, 2)):
        study.add_trial(create_trial(params={"x": 0.5}, distributions=RANGE, values=list(row)))
    assert numbers(shown.part(study))[0] == straggler.number
    study.tell(straggler, [0.0, 0.0])
    for row in np.random.default_rng(1).uniform(1, 2, size=(60, 2)):
        study.add_trial(create_trial(params={"x": 0.5}, distributions=RANGE, values=list(row)))
    assert numbers(shown.part(study))[0] == straggler.number


@pytest.mark.parametrize("kind", [kind for kind in MEMORIES if kind != "gp"])
def test_a_later_driver_shows_the_same_part_and_draws_the_same(open_store, monkeypatch, kind):
    short(monkeypatch, whole=12, newest=8, kept=4, block=4)
    undisturbed = try_some(open_store(f"sampler.kind={kind}", file="whole.db"), 21)
    first = try_some(open_store(f"sampler.kind={kind}"), 18)
    second = try_some(open_store(f"sampler.kind={kind}"), 3)
    assert [*first, *second] == undisturbed


@pytest.mark.parametrize("kind", ["nsga2", "nsga3"])
def test_a_genetic_sampler_misses_nothing_of_what_is_forgotten(monkeypatch, kind):
    short(monkeypatch, whole=160, newest=80, block=20)

    def draws(history):
        study, found = optuna.create_study(directions=["minimize"] * 2), []
        for number in range(330):
            study.sampler = TrialSampler(kind, 0, number, history=history)
            trial = study.ask()
            found.append((trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)))
            x, y = found[-1]
            study.tell(trial, [x + y**2, (1 - x) ** 2 + y])
        return found, len(history.part(study).get_trials()) if history else None

    shown = History(kind)
    (all_of_it, _), (part_of_it, size) = draws(None), draws(shown)
    assert part_of_it == all_of_it
    assert size < 330 - 50


class Forgotten:
    """All that is left of a trial is its number and that it has ended."""

    def __init__(self, trial):
        self.number, self.state, self._trial_id = trial.number, trial.state, trial._trial_id


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_sampler_touches_nothing_that_it_is_not_shown(monkeypatch, kind):
    short(monkeypatch)
    study = filled(np.random.default_rng(0).normal(size=(120, 2)))
    for trial in study.get_trials(deepcopy=False):
        trial.system_attrs.update(first_generation(kind))
    shown = History(kind)
    kept = numbers(shown.part(study))
    everything = study._storage.get_all_trials

    def with_gaps(*args, **named):
        told = everything(*args, **named)
        return [Forgotten(trial) if trial.number < 120 and trial.number not in kept else trial for trial in told]

    monkeypatch.setattr(study._storage, "get_all_trials", with_gaps)
    study.sampler = TrialSampler(kind, 0, 120, history=shown)
    trial = study.ask()
    assert 0 <= trial.suggest_float("x", 0, 1) <= 1
    assert 0 <= trial.suggest_float("y", 0, 1) <= 1


def test_threads_that_look_at_once_see_whole_parts(monkeypatch):
    short(monkeypatch)
    study, shown = filled(np.random.default_rng(0).normal(size=(300, 2))), History("tpe")
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(numbers(shown.part(study)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert all(one == seen[0] for one in seen)
    assert all(trial.state == TrialState.COMPLETE for trial in shown.part(study).get_trials())
