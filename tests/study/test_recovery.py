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
from vae_study.study.dispatcher import SearchDispatcher
from vae_study.study.driver import recover, recovered_curves
from vae_study.study.finalists import Retention
from vae_study.study.messages import TrialReport
from vae_study.study.plan import Plan
from vae_study.study.progress import Progress
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


def opened(client, place, name, disk="disk", logs=True):
    """A driver of the study `name`, which keeps its journal on a disk of its own."""
    config = load_config(CONFIG, [*SETTINGS, BOUND])
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
