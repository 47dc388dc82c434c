"""The finished report on its study's run in MLflow: attached once, linked once, and no report fails for it."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from vae_study.api import build_report
from vae_study.cli import main
from vae_study.tracking import schema
from vae_study.tracking.note import LONGEST_ID
from vae_study.tracking.record import StudyRecord
from vae_study.tracking.store import attach_report, open_client

from tests.report.studies import study
from tests.tracking import stored
from tests.tracking.servers import free_port


def small(name: str) -> StudyRecord:
    """A study of which nothing is drawn, so that its report is quick."""
    trials = study(trials=4, epochs=2).trials.assign(state="failed", failure="error")
    return replace(study(trials=4, epochs=2), name=name, trials=trials, champion=None)


@pytest.fixture
def parent(store: MlflowClient, name: str, tmp_path: Path, impatient: None) -> Run:
    return stored.store(store, small(name), tmp_path / name)


def report(store: MlflowClient, name: str, folder: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    return build_report(name, tracking_uri=store.tracking_uri, output=folder / "report", say=said.append), said


def note(store: MlflowClient, parent: Run) -> str:
    return store.get_run(parent.info.run_id).data.tags[schema.NOTE]


def link(parent: Run) -> str:
    place = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}/artifacts/report/report.html"
    return f"[The report]({place}?workflowType=machine_learning)"


def attached(store: MlflowClient, parent: Run, folder: Path) -> bytes:
    place = f"{parent.info.artifact_uri}/report/report.html"
    return Path(download_artifacts(place, dst_path=str(folder), tracking_uri=store.tracking_uri)).read_bytes()


def test_the_report_is_attached_and_linked_once_however_often_it_is_made(store, name, parent, tmp_path) -> None:
    page, said = report(store, name, tmp_path)
    assert (said, attached(store, parent, tmp_path)) == ([], page.read_bytes())
    first, _, rest = stored.NOTE.partition("\n")
    assert note(store, parent) == f"{first} {link(parent)}\n{rest}"
    before = store.get_run(parent.info.run_id)
    for _ in range(2):
        report(store, name, tmp_path)
    after = store.get_run(parent.info.run_id)
    assert (after.data.tags, after.info.end_time) == (before.data.tags, before.info.end_time)
    assert [file.path for file in store.list_artifacts(parent.info.run_id, "report")] == ["report/report.html"]


def test_a_study_that_runs_has_no_report_attached_and_one_that_goes_on_gets_its_new_one(
    store, name, parent, tmp_path
) -> None:
    report(store, name, tmp_path)
    first = attached(store, parent, tmp_path)
    writer = stored.begin(store, small(name), tmp_path / name)
    writer.drain()
    report(store, name, tmp_path)
    assert attached(store, parent, tmp_path) == first
    assert note(store, parent) == "Running"
    stored.tell(writer, {**small(name).trials.to_dict("records")[0], "trial": 4})
    stored.finish(writer, small(name), tmp_path / name / "files")
    page, _ = report(store, name, tmp_path)
    assert attached(store, parent, tmp_path) == page.read_bytes() != first
    assert link(parent) in note(store, parent)


def test_a_description_that_was_written_anew_gets_its_link_again_though_the_report_is_served(
    store, name, parent, tmp_path
) -> None:
    report(store, name, tmp_path)
    store.set_tag(parent.info.run_id, schema.NOTE, "Somebody's own words.")
    _, said = report(store, name, tmp_path)
    assert "up to date" in said[0]
    assert note(store, parent) == f"Somebody's own words. {link(parent)}"


def test_a_description_as_long_as_mlflow_takes_stays_whole(store, name, parent, tmp_path) -> None:
    longest = "x" * (8000 - LONGEST_ID)
    store.set_tag(parent.info.run_id, schema.NOTE, longest)
    page, said = report(store, name, tmp_path)
    assert (said, note(store, parent)) == ([], longest)
    assert attached(store, parent, tmp_path) == page.read_bytes()


def test_a_report_that_cannot_be_attached_is_written_all_the_same_and_attached_the_next_time(
    store, name, parent, tmp_path
) -> None:
    in_the_way = Path(parent.info.artifact_uri.removeprefix("file://")) / "report"
    in_the_way.write_text("no folder")
    words = ["report", name, "--tracking-uri", store.tracking_uri, "--output", str(tmp_path / "report")]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'report' / 'report.html'}\n")
    assert "written, but not attached to the study in MLflow" in done.stderr
    assert link(parent) not in note(store, parent)
    in_the_way.unlink()
    page, _ = report(store, name, tmp_path)
    assert attached(store, parent, tmp_path) == page.read_bytes()


def test_a_server_that_is_away_is_said_and_nothing_is_raised(tmp_path, impatient) -> None:
    page = tmp_path / "report.html"
    page.write_text("a report")
    why = attach_report(open_client(f"http://127.0.0.1:{free_port()}"), "digits", page)
    assert "\n" not in why
    assert "127.0.0.1" in why


def test_studies_of_different_data_are_refused_by_the_command_and_nothing_is_written(
    store, name, parent, tmp_path, monkeypatch
) -> None:
    other = replace(small(f"{name}-other"), data={**small(name).data, "sha256": "ab" * 32})
    stored.store(store, other, tmp_path / other.name)
    monkeypatch.chdir(tmp_path)
    words = ["report", name, other.name, "--tracking-uri", store.tracking_uri]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{name!r} and {other.name!r} have different data" in done.stderr
    assert not (tmp_path / "reports").exists()


def test_studies_of_the_same_data_are_compared_by_the_command(store, name, parent, tmp_path, monkeypatch) -> None:
    stored.store(store, small(f"{name}-other"), tmp_path / f"{name}-other")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["report", f"{name}-other", name, "--tracking-uri", store.tracking_uri])
    page = Path(f"reports/{name}-other-{name}/report.html")
    assert (done.exit_code, done.stdout) == (0, f"{page}\n")
    assert f"vae-study report {name}-other {name}" in page.read_text(encoding="utf-8")
