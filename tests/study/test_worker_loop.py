"""Tasks in one worker: trained together they end as they do alone, and an error of one is no other's."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from vae_study.config.loading import load_config
from vae_study.data import prepare
from vae_study.study import worker
from vae_study.study.messages import Assignment, Commands, Task
from vae_study.study.trial_run import RunGroup, TrialRun
from vae_study.study.worker import WorkerLoop
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcome_of

CONFIG = {
    "study": "digits",
    "data": {"source": "digits", "anomaly_labels": [8]},
    "model": {"network": {"kind": "mlp", "hidden": [32, 16]}, "likelihood": "bernoulli"},
    "training": {"batch_size": 128},
    "search": {
        "beta": {"low": 0.1, "high": 10, "log": True},
        "latent_dim": {"low": 2, "high": 8, "type": "int"},
        "network.activation": {"choices": ["relu", "tanh"]},
        "training.learning_rate": {"low": 1e-4, "high": 10, "log": True},
        "training.epochs": {"low": 4, "high": 6, "type": "int"},
    },
    "resources": {"trials_per_device": 8},
    "checkpoints": {"every_seconds": 0},
    "diagnostics": {"iwae_draws": 0},
}
DIVERGES = 3


def task(number, **others):
    parameters = {
        "beta": 0.5 + number,
        "latent_dim": 2 + number,
        "network.activation": "tanh" if number == 2 else "relu",
        "training.learning_rate": 1e-3,
        "training.epochs": 4 + number % 3,
    }
    return Task(key=f"trial-{number:04d}", number=number, parameters={**parameters, **others})


TASKS = [task(number) for number in range(5)]


def open_loop(folder, *settings, **resources):
    config = load_config(CONFIG, settings)
    plain = config.plain()
    plain["resources"] |= resources
    sha256 = prepare(config.data).sha256
    return WorkerLoop(Assignment(config=plain, data_sha256=sha256, folder=str(folder), channel=""))


def train(loop, tasks, each_turn=lambda: None):
    """Every epoch that was told of, and the last report, of each task."""
    loop.apply(Commands(start=list(tasks)))
    epochs, ends = {one.key: {} for one in tasks}, {}
    while len(ends) < len(tasks):
        for key, report in loop.advance().items():
            epochs[key] |= {record.epoch: record.metrics for record in report.epochs}
            if report.state != "running":
                ends[key] = report
        each_turn()
    return epochs, ends


def timeless(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def same(one, other):
    (epochs, ends), (_, other_epochs, other_ends) = one, other
    for key, history in epochs.items():
        assert {epoch: timeless(metrics) for epoch, metrics in history.items()} == {
            epoch: timeless(metrics) for epoch, metrics in other_epochs[key].items()
        }
        assert (ends[key].state, timeless(ends[key].metrics)) == (
            other_ends[key].state,
            timeless(other_ends[key].metrics),
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each task in a worker of its own: the folder, every epoch and the last reports."""
    folder, epochs, ends = tmp_path_factory.mktemp("alone"), {}, {}
    for one in TASKS:
        its_epochs, its_ends = train(open_loop(folder, trials_per_device=1), [one])
        epochs |= its_epochs
        ends |= its_ends
    return folder, epochs, ends


def test_tasks_trained_together_end_with_the_numbers_and_files_that_they_have_alone(alone, tmp_path):
    same(train(open_loop(tmp_path), TASKS), alone)
    for one in TASKS:
        places = [folder / "trials" / one.key for folder in (tmp_path, alone[0])]
        weights = [load_file(place / "model.safetensors") for place in places]
        assert weights[0].keys() == weights[1].keys()
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
        pd.testing.assert_frame_equal(*[pd.read_parquet(place / "scores.parquet") for place in places])


def test_a_worker_trains_tasks_of_several_precisions_each_as_it_is_alone(tmp_path):
    tasks = [task(number, **{"training.precision": name}) for number, name in enumerate(["bf16", "float32", "bf16"])]
    search = "search.training.precision={choices: [float32, bf16]}"
    loop = open_loop(tmp_path / "together", search)
    found = train(loop, tasks)
    for one in tasks[1:2]:
        epochs, ends = train(open_loop(tmp_path / one.key, search, trials_per_device=1), [one])
        same((epochs, ends), (None, *found))
    assert {end.state for end in found[1].values()} == {"finished"}


def test_who_joins_and_leaves_in_mid_training_changes_nobody(alone, tmp_path, monkeypatch):
    monkeypatch.setattr("vae_study.study.worker.SECONDS_PER_REPORT", 1e-3)
    loop, ends, epochs, company = open_loop(tmp_path), {}, {}, []
    leaver, staying = TASKS[1].key, {one.key for one in TASKS} - {TASKS[1].key}
    commands = [Commands(start=[one]) for one in TASKS] + [Commands(stop=[leaver])]
    while ends.keys() != staying:
        loop.apply(commands.pop(0) if commands else Commands())
        reports = loop.advance()
        company.append(len(reports))
        for key, report in reports.items():
            epochs.setdefault(key, {}).update({record.epoch: record.metrics for record in report.epochs})
            if report.state != "running":
                ends[key] = report
    assert company[:4] == [1, 2, 3, 4]
    assert 0 < len(epochs.pop(leaver)) < TASKS[1].parameters["training.epochs"]
    same((epochs, ends), alone)


@pytest.mark.parametrize("pace", [0.0, 3.0])
def test_a_worker_trains_on_for_as_long_as_the_driver_wants_no_report(tmp_path, monkeypatch, pace):
    ticks = itertools.count()
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: 0.6 * next(ticks)))
    loop = open_loop(tmp_path, "early_stopping={kind: none}")
    loop.apply(Commands(start=[task(0, **{"training.epochs": 9})], pace_seconds=pace))
    reports = [loop.advance()]
    loop.apply(Commands())
    reports.append(loop.advance())
    [first, second] = [len(report.epochs) for one in reports for report in one.values()]
    # Each look at the clock, one an epoch, takes 0.6 seconds here.
    assert first == second == (1 if pace == 0 else 4)


def test_one_that_diverges_ends_with_its_reason_and_the_others_as_they_would(alone, tmp_path):
    bad = task(DIVERGES, **{"training.learning_rate": 10})
    company = [one if one.number != DIVERGES else bad for one in TASKS]
    epochs, ends = train(open_loop(tmp_path), company)
    report = ends.pop(bad.key)
    assert (report.state, report.failure) == ("failed", "diverged")
    del epochs[bad.key]
    same((epochs, ends), alone)


@pytest.mark.parametrize(("error", "failure", "slots"), [(ValueError, "error", 8), (MemoryError, "out_of_memory", 2)])
def test_an_error_of_one_is_found_to_be_its_own(alone, tmp_path, monkeypatch, error, failure, slots):
    whole = ModelBatch.train_epoch

    def fails(model_batch):
        if any(member.config.objective.beta == 0.5 + DIVERGES for member in model_batch.setups):
            raise error("no")
        return whole(model_batch)

    monkeypatch.setattr(ModelBatch, "train_epoch", fails)
    loop = open_loop(tmp_path)
    epochs, ends = train(loop, TASKS)
    report = ends.pop(TASKS[DIVERGES].key)
    assert (report.state, report.failure) == ("failed", failure)
    assert "no" in report.error
    assert loop.slots == slots
    del epochs[TASKS[DIVERGES].key]
    same((epochs, ends), alone)


def until_it_ends(loop):
    while True:
        assert {report.state for report in loop.advance().values()} == {"running"}


@pytest.mark.parametrize(
    ("owner", "what", "epochs"),
    [(ModelBatch, "train_epoch", 2), (ModelBatch, "measure_beside", 2), (RunGroup, "outcomes", 3)],
)
def test_a_gpu_that_refuses_all_work_ends_its_worker_and_the_next_one_goes_on_from_the_checkpoints(
    alone, tmp_path, monkeypatch, owner, what, epochs
):
    """Every later call would fail as the first did, so no task may take the error for one of its own."""
    whole = getattr(owner, what)

    def fails(self, *others):
        if owner is RunGroup or max(self.epochs_K) == {"train_epoch": 2, "measure_beside": 3}[what]:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return whole(self, *others)

    with monkeypatch.context() as broken:
        broken.setattr(owner, what, fails)
        lost = open_loop(tmp_path)
        lost.apply(Commands(start=TASKS))
        with pytest.raises(torch.AcceleratorError):
            until_it_ends(lost)
        saved = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
        lost.save()
    assert {path: path.stat().st_mtime_ns for path in saved} == saved
    following = open_loop(tmp_path)
    following.apply(Commands(start=TASKS))
    assert {len(run.history) for run in following._runs()} == {epochs}
    following.hand_over()
    same(train(open_loop(tmp_path), TASKS), alone)


FULL = ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"]


@pytest.mark.parametrize("words", FULL)
def test_a_gpu_whose_memory_is_full_ends_no_worker(tmp_path, monkeypatch, words):
    def fails(model_batch):
        raise torch.AcceleratorError(words) if words.startswith("CUDA") else RuntimeError(words)

    monkeypatch.setattr(ModelBatch, "train_epoch", fails)
    _, ends = train(open_loop(tmp_path), TASKS[:2])
    assert {(report.state, report.failure) for report in ends.values()} == {("failed", "out_of_memory")}


def test_a_worker_that_comes_after_a_dead_one_goes_on_from_its_checkpoints(alone, tmp_path):
    dead = open_loop(tmp_path)
    dead.apply(Commands(start=TASKS))
    for _ in range(3):
        dead._train_epoch()
    same(train(open_loop(tmp_path), TASKS), alone)


def test_a_worker_that_hands_over_tells_all_epochs_and_the_next_one_goes_on_after_the_last(alone, tmp_path):
    leaving = open_loop(tmp_path)
    leaving.timer.every_seconds, leaving.timer.due = math.inf, math.inf
    leaving.apply(Commands(start=TASKS))
    for _ in range(3):
        leaving._train_epoch()
    told = leaving.hand_over()
    assert {key: [one.epoch for one in report.epochs] for key, report in told.items()} == {
        one.key: [1, 2, 3] for one in TASKS
    }
    assert not leaving.hand_over()
    following = open_loop(tmp_path)
    following.apply(Commands(start=TASKS))
    assert {len(run.history) for run in following._runs()} == {3}
    following.hand_over()
    same(train(open_loop(tmp_path), TASKS), alone)


def test_all_groups_of_a_worker_have_the_same_rows(tmp_path):
    loop = open_loop(tmp_path)
    loop.apply(Commands(start=TASKS))
    assert len(loop.groups) == 2
    assert len({id(group.model_batch.examples["train"].x_ND) for group in loop.groups}) == 1
    loop.hand_over()


def test_a_task_that_cannot_be_begun_fails_alone(tmp_path):
    bad = task(7, beta="much")
    _, ends = train(open_loop(tmp_path), [*TASKS[:2], bad])
    assert {key: report.state for key, report in ends.items()} == {
        TASKS[0].key: "finished",
        TASKS[1].key: "finished",
        bad.key: "failed",
    }
    assert ends[bad.key].failure == "error"


SWEEP = ["objective.kind=sweep", "objective.sweep.points=3", "search.beta=null"]


def sweep(number=0):
    """A task of 4 epochs, whose models are kept after epochs 1, 3 and 4, the first two for trials 5 and 9."""
    parameters = {"latent_dim": 3, "network.activation": "relu", "training.learning_rate": 1e-3, "training.epochs": 4}
    return Task(key=f"trial-{number:04d}", number=number, parameters=parameters, points=[5, 9])


def kept_files(folder):
    places = [folder / "trials" / name for name in ("trial-0005", "trial-0009", "trial-0000")]
    return [(load_file(one / "model.safetensors"), pd.read_parquet(one / "scores.parquet")) for one in places]


def test_a_sweep_leaves_the_files_and_numbers_of_a_trial_for_each_model_that_it_keeps(tmp_path):
    loop = open_loop(tmp_path, *SWEEP)
    run = TrialRun(sweep(), loop.config, loop.home)
    assert [epoch for epoch, _ in run.kept] == [1, 3]
    epochs, ends = train(loop, [sweep(), *TASKS[1:3]])
    report = ends["trial-0000"]
    assert [end.state for end in ends.values()] == ["finished"] * 3
    assert [len(end.points) for end in ends.values()] == [2, 0, 0]
    reference = ModelBatch([run.setup], prepare(loop.config.data), loop.config.followed_score, latent_capacity=8)
    expected = {}
    for epoch in range(1, 5):
        (metrics,) = reference.train_epoch()
        expected[epoch] = metrics, reference.state(0), outcome_of(reference, 0, loop.config.diagnostics)
    for epoch, metrics, (weights, scores) in zip(
        [1, 3, 4], [*report.points, report.metrics], kept_files(tmp_path), strict=False
    ):
        of_epoch, state, outcome = expected[epoch]
        assert all(np.array_equal(weights[name], state[f"model/{name}"]) for name in weights)
        names = [name for name in of_epoch if name.startswith("val/")] if epoch < 4 else []
        assert [metrics[name] for name in names] == pytest.approx([of_epoch[name] for name in names])
        assert [metrics[name] for name in outcome.metrics] == pytest.approx([*outcome.metrics.values()])
        assert np.allclose(scores["elbo"], outcome.scores["elbo"], rtol=1e-4)
    assert epochs["trial-0000"][3]["val/kl"] == pytest.approx(report.points[1]["val/kl"])


def test_a_sweep_that_loses_its_worker_leaves_the_same_models(tmp_path):
    _, ends = train(open_loop(tmp_path / "whole", *SWEEP), [sweep()])
    dead = open_loop(tmp_path / "cut", *SWEEP)
    dead.apply(Commands(start=[sweep()]))
    for _ in range(3):
        dead._train_epoch()
    _, other = train(open_loop(tmp_path / "cut", *SWEEP), [sweep()])
    assert [timeless(one) for one in other["trial-0000"].points] == [timeless(one) for one in ends["trial-0000"].points]
    for one, two in zip(kept_files(tmp_path / "whole"), kept_files(tmp_path / "cut"), strict=False):
        assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0])
        pd.testing.assert_frame_equal(one[1], two[1])


def test_a_repeat_of_a_sweep_keeps_no_models(tmp_path):
    _, ends = train(open_loop(tmp_path, *SWEEP), [replace(sweep(), points=[], repeat=1)])
    assert (ends["trial-0000"].state, ends["trial-0000"].points) == ("finished", [])
    assert not [*tmp_path.rglob("weights-*")]
