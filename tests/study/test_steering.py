"""A study that is steered: by early stopping, bounds, first tries and an earlier study."""

import optuna
import pytest
from vae_study.api import build_report, load_study, run_study
from vae_study.errors import UserError

from tests.study.conftest import CONFIG, SHORT

STEERED = [
    *SHORT,
    "training.epochs=12",
    "trials=10",
    "early_stopping={kind: asha, min_epochs: 2}",
    "constraints=[{metric: val/active_units, at_least: 1}]",
    "enqueue=[{beta: 20, latent_dim: 2, kl_annealing.schedule: none, free_bits.kind: none}, {latent_dim: 16}]",
    # No annealing: every trial is compared at every rung.
    "search.kl_annealing.schedule.choices=[none]",
    "search.kl_annealing.warmup=null",
    "search.kl_annealing.cycles=null",
]


@pytest.fixture(scope="module")
def steered(ray_session, tmp_path_factory):
    home = tmp_path_factory.mktemp("steered")
    return run_study(CONFIG, STEERED, home=home, concurrency=1), home


def test_what_the_user_names_is_tried_first(steered):
    trials = steered[0].trials.set_index("trial")
    assert trials.loc[0, ["beta", "latent_dim", "free_bits.kind"]].tolist() == [20, 2, "none"]
    assert trials.loc[1, "latent_dim"] == 16
    assert trials.loc[2:, "beta"].nunique() == 8


def test_a_stopped_trial_ends_at_a_rung_and_is_never_chosen(steered):
    record, home = steered
    epochs = record.history.groupby("trial")["epoch"].max()
    stopped = record.trials.query("state == 'pruned'")["trial"]
    assert len(stopped)
    assert epochs[stopped].isin([2, 6]).all()
    assert (epochs.drop(stopped) == 12).all()
    assert record.champion.trial not in set(stopped)
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{home}/digits/study.db")
    states = {trial.number: trial.state.name for trial in study.get_trials()}
    assert all(states[number] == "PRUNED" for number in stopped)


def test_a_trial_that_breaks_a_bound_is_not_chosen(steered):
    trials = steered[0].trials
    finished = trials.query("state == 'finished'")
    assert (finished["feasible"] == (finished["val/active_units"] >= 1)).all()
    champion = trials.set_index("trial").loc[steered[0].champion.trial]
    assert champion["feasible"] or not finished["feasible"].any()


def test_the_report_tells_of_all_that(steered, tmp_path):
    text = build_report("digits", home=steered[1], output=tmp_path).with_suffix(".md").read_text()
    assert "pruned" in text
    assert "val/active_units" in text


def test_a_later_study_learns_from_it_and_counts_its_own_trials_only(steered):
    record, home = steered
    learned = [*STEERED[:3], *STEERED[6:], "warm_start=digits", "trials=2"]
    later = run_study(CONFIG, ["trials=3", *learned], name="later", home=home, concurrency=1)
    finished = (record.trials["state"] == "finished").sum()
    assert later.trials["trial"].tolist() == [finished, finished + 1]
    study = optuna.load_study(study_name="later", storage=f"sqlite:///{home}/later/study.db")
    assert len(study.get_trials()) == finished + 2


def test_a_study_learns_from_no_stranger(steered):
    with pytest.raises(UserError, match="warm_start: got 'nobody', expected a study that is there"):
        run_study(CONFIG, [*SHORT, "trials=1", "warm_start=nobody"], name="other", home=steered[1])
    assert "other" not in [path.name for path in steered[1].iterdir() if (path / "config.json").exists()]
    assert load_study("digits", home=steered[1]).champion is not None
