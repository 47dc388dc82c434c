"""A report that is there is served where nothing has changed, and never where anything has."""

import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from vae_study.api import build_report
from vae_study.report import build
from vae_study.tracking import schema, uploader
from vae_study.tracking.schema import CHAMPION_ALIAS, MODEL_NAME
from vae_study.tracking.store import open_client, require_parent
from vae_study.tracking.study import sync

from tests.tracking import stored

from .page import bytes_of, page_of
from .studies import study


class Shelf:
    """A study that has ended and its report; none of its trials has finished, so that nothing takes time to draw."""

    def __init__(self, client: MlflowClient, name: str, folder: Path):
        self.client, self.place, self.folder = client, folder / name, folder / "report"
        trials = study(trials=6, epochs=3).trials.assign(state="failed", failure="error")
        self.record = replace(study(trials=6, epochs=3), name=name, trials=trials, champion=None)
        stored.store(client, self.record, self.place)

    def is_served(self, **options: Any) -> bool:
        """Ask for the report; whether it was left as it is."""
        said: list[str] = []
        options = {"tracking_uri": self.client.tracking_uri, "output": self.folder, "say": said.append, **options}
        build_report(self.record.name, **options)
        return any("--force" in text for text in said)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return open_client(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture
def shelf(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(uploader, "SECONDS_BETWEEN_BATCHES", 0.02)
    made = Shelf(client, f"study-{uuid.uuid4().hex[:8]}", tmp_path)
    assert not made.is_served()
    return made


def test_an_unchanged_study_is_served_byte_for_byte_and_force_makes_the_same_again(shelf: Shelf) -> None:
    before, times = bytes_of(shelf.folder), {p: p.stat().st_mtime_ns for p in shelf.folder.rglob("*.*")}
    assert shelf.is_served()
    assert {p: p.stat().st_mtime_ns for p in shelf.folder.rglob("*.*")} == times
    assert not shelf.is_served(force=True)
    assert bytes_of(shelf.folder) == before
    assert shelf.is_served()


def go_on(shelf: Shelf) -> None:
    """A driver resumes the study and adds a trial, which must be in the report."""
    writer = stored.begin(shelf.client, shelf.record, shelf.place)
    stored.tell(writer, {**shelf.record.trials.to_dict("records")[0], "trial": 6, "beta": 4321.5})
    stored.finish(writer, shelf.record, shelf.place / "files")


def promote(shelf: Shelf) -> None:
    parent = require_parent(shelf.client, shelf.record.name)
    name = shelf.record.name
    shelf.client.create_registered_model(name)
    version = shelf.client.create_model_version(name, str(shelf.place), parent.info.run_id, {MODEL_NAME: "trial-0003"})
    shelf.client.set_registered_model_alias(name, CHAMPION_ALIAS, version.version)


def choose_another(shelf: Shelf) -> None:
    """As a driver would of a later version, whose rule is another one, within the same millisecond."""
    parent = require_parent(shelf.client, shelf.record.name)
    shelf.client.set_tag(parent.info.run_id, schema.CHAMPION_RULE, "val/elbo")


def sync_after_a_dead_driver(shelf: Shelf) -> None:
    """A driver goes on, tells a trial and dies; `sync` brings what it said and closes the study."""
    writer = stored.begin(shelf.client, shelf.record, shelf.place)
    stored.tell(writer, {**shelf.record.trials.to_dict("records")[0], "trial": 6, "beta": 4321.5})
    writer.drain()
    writer.close()
    sync(shelf.client, shelf.record.name, shelf.place, lambda _: None)


@pytest.mark.parametrize(
    ("change", "shown"),
    [(go_on, "4.32e+03"), (sync_after_a_dead_driver, "4.32e+03"), (promote, ""), (choose_another, "")],
)
def test_a_changed_study_is_never_served_stale(shelf: Shelf, change: Callable[[Shelf], None], shown: str) -> None:
    assert shown not in page_of(shelf.folder).text or not shown
    change(shelf)
    assert not shelf.is_served()
    assert shown in page_of(shelf.folder).text
    assert shelf.is_served()


def test_a_running_study_is_read_each_time_and_what_was_served_before_it_ran_is_not(shelf: Shelf) -> None:
    writer = stored.begin(shelf.client, shelf.record, shelf.place)
    writer.drain()
    assert not shelf.is_served()
    stored.tell(writer, {**shelf.record.trials.to_dict("records")[0], "trial": 6, "beta": 4321.5})
    writer.drain()
    assert not shelf.is_served()
    assert "4.32e+03" in page_of(shelf.folder).text
    assert not shelf.is_served()
    assert not (shelf.folder / build.MADE_FROM).exists()
    writer.close()


def test_a_folder_that_somebody_changed_or_another_version_made_is_not_served(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[Callable[[], Any]] = [
        (shelf.folder / "report.html").unlink,
        (shelf.folder / "trials.parquet").unlink,
        lambda: (shelf.folder / "report.md").write_text("mine"),
        lambda: (shelf.folder / build.MADE_FROM).write_text("[]"),
        lambda: (shelf.folder / build.MADE_FROM).write_text("torn {"),
        lambda: monkeypatch.setattr(build, "version", lambda _: "9.9.9"),
        lambda: monkeypatch.setattr(build, "_code", lambda: "edited"),
    ]
    for change in changes:
        change()
        assert not shelf.is_served()
        assert shelf.is_served()


def test_another_study_does_not_find_the_first_one_s_report_in_its_folder(shelf: Shelf) -> None:
    other = Shelf(shelf.client, f"{shelf.record.name}-other", shelf.folder.parent)
    assert not other.is_served()
    assert other.record.name in page_of(shelf.folder).text
    assert not shelf.is_served()


def test_serving_imports_nothing_that_draws_computes_or_trains(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    # Somebody may edit the package while this runs.
    monkeypatch.setattr(build, "_code", lambda: "the same")
    assert not shelf.is_served()
    code = (
        "import sys; from vae_study.report import build; build._code = lambda: 'the same'\n"
        "from vae_study.cli import main; main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'matplotlib', 'sklearn', 'jinja2', 'plotly', 'optuna', 'ray', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    name, store = shelf.record.name, shelf.client.tracking_uri
    words = ["report", name, "--tracking-uri", store, "--output", str(shelf.folder)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(shelf.folder / "report.html"), "[]"]
    assert f"the report of {name} is up to date" in done.stderr
