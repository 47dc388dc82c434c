import shutil
from collections import Counter
from dataclasses import dataclass
from io import StringIO

import pytest
from rich.console import Console
from vae_study.config.loading import load_config
from vae_study.data import prepare
from vae_study.search.study_store import StudyStore
from vae_study.storage import Folder
from vae_study.study.driver import recover, recovered_curves
from vae_study.study.finalists import Retention
from vae_study.study.messages import TrialReport
from vae_study.study.plan import Plan
from vae_study.study.progress import Progress
from vae_study.study.search_dispatcher import RetrainingDispatcher, SearchDispatcher
from vae_study.study.session import Shutdown
from vae_study.tracking import schema
from vae_study.tracking.events import StudyBegun
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import create_parent, find_parent, open_client, runs_by_key
from vae_study.tracking.writer import TrackingWriter

from tests.study.conftest import CONFIG
from tests.waiting import until

TRIALS, EPOCHS = 6, 4
SETTINGS = ["sampler.kind=random", f"trials={TRIALS}", f"training.epochs={EPOCHS}", "early_stopping=null"]
BOUND = "constraints=[{metric: val/active_units, at_least: 1}]"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return open_client(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@dataclass
class Driver:
    """A driver without workers: what becomes of trials, the test says."""

    store: StudyStore
    writer: TrackingWriter
    dispatcher: SearchDispatcher

    def train(self, last=EPOCHS, later=0):
        """Take the next trial, and train it from where it is; `later`: by what its clock has gone on, milliseconds."""
        task = self.propose()
        self.dispatcher.progress(task.key, [epoch(task.number, number, later) for number in range(1, last + 1)])
        return task.key

    def propose(self):
        """The next trial; on a busy machine, none is ready at first."""
        found = []
        until(lambda: found.append(self.dispatcher.propose()) or found[-1], "a configuration was drawn")
        return found[-1]

    def close(self):
        self.dispatcher.prefetcher.close()
        self.dispatcher.retention.close()
        self.writer.close()


def epoch(trial, number, later=0):
    values = {name: trial + number / 8 for name in ("val/reconstruction", "val/kl", "val/active_units")}
    return EpochRecord(epoch=number, timestamp_ms=10**12 + 1000 * number + trial + later, metrics=values)


def finished():
    return TrialReport(state="finished", metrics={"test/auroc": 0.5})


def opened(client, place, name, disk="disk", logs=True, settings=()):
    """A driver of the study `name`, which keeps its journal on a disk of its own."""
    config = load_config(CONFIG, [*SETTINGS, BOUND, *settings])
    plan = Plan(config=config, name=name, folder=Folder.at(place), data=prepare(config.data))
    store = StudyStore(plan.config, name, f"sqlite:///{place}/study.db")
    tags = {schema.KIND: "study", schema.STUDY: name, schema.STATE: "running"}
    begun = {"experiment": name, "name": name, "tags": tags}
    parent = find_parent(client, name) or create_parent(client, **begun)
    folder = plan.trials if logs else None
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), place / disk, folder)
    writer.log(StudyBegun(**begun))
    recover(store, writer)
    retention, screen = Retention(plan, writer.trials()), Console(file=StringIO())
    progress = Progress(screen, TRIALS)
    return Driver(
        store,
        writer,
        SearchDispatcher(
            store, writer, writer.recall(), progress, retention, Shutdown(), 1, recovered_curves(plan, writer)
        ),
    )


def runs(client, name):
    return runs_by_key(client, find_parent(client, name))


def steps(client, run, metric):
    return Counter(point.step for point in client.get_metric_history(run.info.run_id, metric))


def states(client, name):
    return {key: run.data.tags[schema.STATE] for key, run in runs(client, name).items()}


@pytest.mark.parametrize("hears", ["nothing", "one trial", "all but the last words"])
def test_a_study_whose_journal_is_lost_goes_on_to_the_same_end(client, tmp_path, request, hears):
    """Of six trials, the first driver sees the end of four, and one that loses its worker under way."""
    name = request.node.name
    first = opened(client, tmp_path, name, "first")
    if hears == "nothing":
        first.writer.uploader.close()
    first.dispatcher.end(first.train(), finished())
    if hears == "one trial":
        first.writer.drain()
        first.writer.uploader.close()
    first.dispatcher.end(
        first.train(2), TrialReport(state="failed", failure="error", error="Traceback\nValueError: no")
    )
    first.dispatcher.end(first.train(3), TrialReport(state="pruned"))
    under_way = first.train(1)
    first.dispatcher.lost(under_way, "the node is gone", co_located=True)
    assert first.train(2) == under_way
    if hears == "all but the last words":
        first.writer.drain()
        first.writer.uploader.close()
    first.dispatcher.end(first.train(), finished())
    first.close()
    shutil.rmtree(tmp_path / "first")
    second = opened(client, tmp_path, name, "second")
    for _ in range(2):
        second.dispatcher.end(second.train(later=10**7), finished())
    assert second.dispatcher.propose() is None
    second.writer.drain()
    second.writer.require_accepted()
    second.close()
    found = runs(client, name)
    assert [*states(client, name).values()] == ["finished", "failed", "pruned", *["finished"] * 3]
    for number, (run, epochs) in enumerate(zip(found.values(), [4, 2, 3, 4, 4, 4], strict=True)):
        assert steps(client, run, "val/kl") == dict.fromkeys(range(1, epochs + 1), 1)
        assert run.data.metrics["val/kl"] == number + epochs / 8
        assert run.info.status == ("FAILED" if number == 1 else "FINISHED")
        assert run.data.tags.get(schema.PREEMPTIONS) == ("1" if number == 3 else None)
    assert found["trial-0001"].data.tags[schema.REASON] == "ValueError: no"
    assert found["trial-0000"].data.tags[schema.FEASIBLE] == "false"
    for key in ("trial-0000", "trial-0003", "trial-0004", "trial-0005"):
        assert steps(client, found[key], "test/auroc") == {0: 1}
    parent = find_parent(client, name)
    assert steps(client, parent, "study/finished") == dict.fromkeys(range(1, TRIALS + 1), 1)
    volumes = sorted(client.get_metric_history(parent.info.run_id, "study/hypervolume"), key=lambda point: point.step)
    assert [point.value for point in volumes] == sorted(point.value for point in volumes)


def test_where_the_trials_logs_are_lost_too_a_trial_ends_as_the_study_store_has_it(client, tmp_path, request, caplog):
    name = request.node.name
    first = opened(client, tmp_path, name, "first", logs=False)
    first.dispatcher.end(first.train(), finished())
    first.train(2)
    first.writer.drain()
    first.writer.uploader.close()
    first.dispatcher.progress("trial-0001", [epoch(1, 3), epoch(1, 4)])
    first.dispatcher.end("trial-0001", finished())
    first.dispatcher.end(first.train(2), TrialReport(state="failed", failure="diverged", error="not finite"))
    first.close()
    shutil.rmtree(tmp_path / "first")
    second = opened(client, tmp_path, name, "second", logs=False)
    assert "the ends of 2 trials were not in MLflow" in caplog.text
    second.writer.drain()
    second.writer.require_accepted()
    second.close()
    found = runs(client, name)
    assert [*states(client, name).values()] == ["finished", "finished", "failed"]
    assert found["trial-0001"].data.metrics["val/kl"] == 1 + 4 / 8
    assert found["trial-0001"].data.tags[schema.FEASIBLE] == "true"
    assert found["trial-0002"].data.tags[schema.REASON] == "not finite"
    assert found["trial-0002"].data.params.keys() >= {"beta", "latent_dim"}
    assert {run.info.status for run in found.values()} == {"FINISHED", "FAILED"}


def test_an_end_that_only_mlflow_has_heard_of_is_told_to_the_study_store_and_not_trained_again(
    client, tmp_path, request
):
    name = request.node.name
    first = opened(client, tmp_path, name, "first", logs=False)
    key = first.train()
    first.store.finish = None
    with pytest.raises(TypeError):
        first.dispatcher.end(key, finished())
    first.writer.drain()
    first.close()
    shutil.rmtree(tmp_path / "first")
    second = opened(client, tmp_path, name, "second", logs=False)
    assert second.propose().key == "trial-0001"
    assert second.store.finished_values() == [[4 / 8, 4 / 8]]
    second.writer.drain()
    second.close()
    assert steps(client, runs(client, name)[key], "test/auroc") == {0: 1}


def test_the_end_of_a_confirmation_comes_back_too(client, tmp_path, request):
    name, key = request.node.name, schema.repeat_name(0, 1)
    first = opened(client, tmp_path, name, "first")
    first.dispatcher.end(first.train(), finished())
    tags = {schema.KIND: "confirmation", schema.TRIAL: "0", schema.SEED: "1"}
    first.writer.start(key, "t000 seed 1", first.store.parameters(0), tags)
    first.writer.log_epochs(key, [epoch(0, 1)])
    first.writer.drain()
    first.writer.uploader.close()
    first.writer.log_epochs(key, [epoch(0, 2)])
    first.writer.end(key, 0, {"test/auroc": 0.5}, {schema.STATE: "finished"})
    first.close()
    shutil.rmtree(tmp_path / "first")
    second = opened(client, tmp_path, name, "second")
    assert len(second.writer.confirmations()) == 1
    second.writer.drain()
    second.close()
    assert states(client, name)[key] == "finished"
    assert steps(client, runs(client, name)[key], "val/kl") == {1: 1, 2: 1}


def test_where_the_study_store_is_lost_too_the_study_begins_anew(client, tmp_path, request):
    name = request.node.name
    first = opened(client, tmp_path, name, "first")
    first.train(2)
    first.writer.drain()
    first.close()
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "study.db").unlink()
    second = opened(client, tmp_path, name, "second")
    second.dispatcher.end(second.train(), finished())
    second.writer.drain()
    second.close()
    assert states(client, name) == {"trial-0000": "finished"}


def test_a_driver_that_finds_its_journal_says_nothing_again_and_asks_the_trials_folders_nothing(
    client, tmp_path, request, monkeypatch
):
    name, asked, read = request.node.name, [], Folder.read
    first = opened(client, tmp_path, name)
    first.dispatcher.end(first.train(), finished())
    first.train(2)
    first.writer.drain()
    first.close()
    monkeypatch.setattr(Folder, "read", lambda folder, name: asked.append(name) or read(folder, name))
    size = first.writer.journal.end
    second = opened(client, tmp_path, name)
    second.close()
    said = [plain["op"] for _, plain in second.writer.journal.read(size)]
    assert said == ["study"]
    assert asked == []


UNUSED = ("beta", "kl_annealing.schedule", "kl_annealing.warmup", "kl_annealing.cycles")
SWEEP = ["objective.kind=sweep", "objective.sweep.points=3", *(f"search.{name}=null" for name in UNUSED), "trials=2"]
KEPT = ("trial-0001", "trial-0002")


def kept(number):
    """The metrics of a model that the sweep keeps, better than those of the sweep itself."""
    values = dict.fromkeys(("val/reconstruction", "val/kl"), -float(number))
    return {**values, "val/active_units": 1.0, "test/auroc": number / 8}


def end_of_sweep(task):
    return TrialReport(state="finished", metrics={"test/auroc": 0.5}, points=[kept(number) for number in task.points])


def trained_sweep(driver):
    task = driver.propose()
    driver.dispatcher.progress(task.key, [epoch(task.number, number) for number in range(1, EPOCHS + 1)])
    return task


class Died(Exception):
    """Stands for a driver that is gone."""


def dies_at(driver, place, count):
    """Let the driver die before it writes down an end for the `count`-th time."""
    owner, name = (driver.writer, "end") if place == "journal" else (driver.store, "finish")
    whole, calls = getattr(owner, name), []

    def fails(*values):
        if len(calls) == count:
            raise Died
        calls.append(values)
        return whole(*values)

    setattr(owner, name, fails)


@pytest.mark.parametrize(("place", "count"), [(place, count) for place in ("journal", "store") for count in range(3)])
def test_a_driver_that_dies_while_a_sweep_ends_leaves_each_of_its_models_once(client, tmp_path, request, place, count):
    name = request.node.name
    first = opened(client, tmp_path, name, settings=SWEEP)
    task = trained_sweep(first)
    assert (task.key, task.points) == ("trial-0000", [1, 2])
    dies_at(first, place, count)
    with pytest.raises(Died):
        first.dispatcher.end(task.key, end_of_sweep(task))
    first.close()
    second = opened(client, tmp_path, name, settings=SWEEP)
    again = trained_sweep(second)
    if place == "journal":
        assert again == task
        second.dispatcher.end(again.key, end_of_sweep(again))
        again = trained_sweep(second)
    # The sweep that comes next takes its number after those of the models that the first one has kept.
    assert (again.number, again.points) == (3, [4, 5])
    second.dispatcher.end(again.key, TrialReport(state="failed", failure="error", error="no"))
    assert second.dispatcher.propose() is None
    assert second.store.counts() == {"finished": 1, "failed": 1}
    assert [one.values for one in second.store.points() if one.values] == [[-1, -1], [-2, -2]]
    # The sweep stands for the best of its models.
    assert second.store.finished_values() == [[-2, -2]]
    assert [second.store.is_open(number) for number in again.points] == [False, False]
    objective = second.store.config.trial(second.store.parameters(2)).objective
    assert (objective.kind, objective.beta) == ("beta", pytest.approx(0.05 * 100 ** ((3 / 4 - 0.3) / 0.7)))
    trials = second.writer.trials()
    assert trials["sweep"].dropna().to_dict() == {1: 0.0, 2: 0.0}
    # After the epochs 4, 1 and 3; the first of these is still held at the lowest.
    assert trials["beta"].tolist()[:3] == pytest.approx([5, 0.05, 0.05 * 100 ** ((3 / 4 - 0.3) / 0.7)])
    second.writer.drain()
    second.writer.require_accepted()
    second.close()
    found = runs(client, name)
    assert states(client, name) == {
        "trial-0000": "finished", "trial-0001": "finished", "trial-0002": "finished", "trial-0003": "failed"
    }  # fmt: skip
    for key in ("trial-0000", *KEPT):
        assert steps(client, found[key], "test/auroc") == {0: 1}
    parent = find_parent(client, name)
    assert steps(client, parent, "study/finished") == {1: 1, 2: 1}


def retraining(driver):
    """What trains the best of the sweep's models again, after the search."""
    numbers = driver.store.retrain([2])
    own, common = driver.dispatcher, ("store", "tracking", "recalled")
    return RetrainingDispatcher(numbers, *(getattr(own, one) for one in common), own.display, own.retention, own.curves)


@pytest.mark.parametrize("place", ["journal", "store"])
def test_a_driver_that_dies_while_a_model_is_trained_again_leaves_one_such_trial(client, tmp_path, request, place):
    name, settings = request.node.name, [*SWEEP, "trials=1"]
    first = opened(client, tmp_path, name, settings=settings)
    task = trained_sweep(first)
    first.dispatcher.end(task.key, end_of_sweep(task))
    again = retraining(first)
    assert (again.has_waiting(), again.store.remaining()) == (True, 0)
    task = again.propose()
    assert (task.key, task.retrains, task.parameters) == ("trial-0003", 2, first.store.parameters(2))
    again.progress(task.key, [epoch(9, number) for number in range(1, EPOCHS + 1)])
    dies_at(first, place, 0)
    with pytest.raises(Died):
        again.end(task.key, finished())
    first.close()
    second = opened(client, tmp_path, name, settings=settings)
    later = retraining(second)
    if place == "journal":
        assert later.propose() == task
        later.progress(task.key, [epoch(9, number) for number in range(1, EPOCHS + 1)])
        later.end(task.key, finished())
    assert later.propose() is None
    assert not second.store.is_open(3)
    assert second.writer.trials()["retrains"].dropna().to_dict() == {3: 2.0}
    second.writer.drain()
    second.close()
    assert states(client, name)["trial-0003"] == "finished"
    # The curves of the search have no step for it.
    assert steps(client, find_parent(client, name), "study/finished") == {1: 1}
    assert opened(client, tmp_path, name, settings=settings).dispatcher.curves.step == 1


def test_the_models_of_a_sweep_come_back_when_the_journal_is_lost(client, tmp_path, request):
    name = request.node.name
    first = opened(client, tmp_path, name, "first", settings=SWEEP)
    first.writer.uploader.close()
    task = trained_sweep(first)
    first.dispatcher.end(task.key, end_of_sweep(task))
    volume = first.dispatcher.curves.volume
    first.close()
    shutil.rmtree(tmp_path / "first")
    second = opened(client, tmp_path, name, "second", settings=SWEEP)
    assert second.dispatcher.curves.volume == volume > 0
    assert second.dispatcher.curves.step == 1
    second.writer.drain()
    second.close()
    found = runs(client, name)
    assert {key: found[key].data.tags[schema.OF_SWEEPS["sweep"]] for key in KEPT} == dict.fromkeys(KEPT, "0")
    assert [found[key].data.metrics["test/auroc"] for key in KEPT] == [1 / 8, 2 / 8]
