import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest
from vae_study.tracking.store import dataset_input, open_experiment
from vae_study.tracking.study import checkout, environment, hardware

SPLITS = {"train": {"rows": 6, "anomalies": 0}, "validation": {"rows": 3, "anomalies": 1}}
SUMMARY = {"source": "ü <b>.csv", "sha256": "a" * 64, "features": 2, "feature_names": ["x", 'y "z"'], "splits": SPLITS}


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """With one commit, of `study.yaml` and `.gitignore`."""
    folder = tmp_path / "a repository ü"
    folder.mkdir()
    (folder / "study.yaml").write_text("study: a")
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_a_commit_is_clean_until_a_file_of_it_changes(repository):
    config = repository / "study.yaml"
    found = checkout(repository, config)
    assert found.commit == git(repository, "rev-parse", "HEAD")
    assert found.is_clean
    (repository / "results").mkdir()
    (repository / "results" / "report.html").write_text("made by the study")
    assert checkout(repository / "results", config).is_clean
    config.write_text("study: b")
    assert not checkout(repository, config).is_clean
    git(repository, "add", "-A")
    assert not checkout(repository, config).is_clean
    git(repository, "commit", "--quiet", "-m", "second")
    assert checkout(repository, config).is_clean


def test_a_commit_says_little_of_a_file_that_git_does_not_know_and_nothing_of_one_that_it_ignores(repository):
    (repository / "new.yaml").write_text("study: a")
    assert checkout(repository, repository / "new.yaml").is_clean is False
    (repository / "ignored").mkdir()
    (repository / "ignored" / "module.py").write_text("")
    assert checkout(repository / "ignored", repository / "ignored" / "module.py") is None


def test_where_there_is_no_repository_or_no_commit_there_is_nothing_to_say(tmp_path):
    assert checkout(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert checkout(tmp_path) is None
    assert checkout(tmp_path / "nowhere") is None


def test_without_git_the_environment_is_told_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["python"]
    assert "package_commit" not in found
    assert "gpus" not in found


def test_another_repository_in_the_environments_variables_does_not_lead_astray(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    found = checkout(repository, repository / "study.yaml")
    assert found is not None
    assert found.is_clean


def test_no_program_that_a_repository_names_is_run_and_nothing_in_it_is_written(repository, tmp_path):
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch '{tmp_path}/was-run'\n")
    monitor.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(monitor))
    (repository / "study.yaml").touch()
    before = (repository / ".git" / "index").read_bytes()
    assert checkout(repository, repository / "study.yaml").is_clean
    assert not (tmp_path / "was-run").exists()
    assert (repository / ".git" / "index").read_bytes() == before


def test_the_package_and_the_users_repository_are_told_apart(repository, monkeypatch):
    monkeypatch.chdir(repository)
    by_folder, by_file = environment(), environment(repository / "study.yaml")
    assert by_folder["config_commit"] == by_file["config_commit"] == git(repository, "rev-parse", "HEAD")
    assert by_file["config_is_clean"] == "true"
    assert by_file.get("package_commit") != by_file["config_commit"]
    assert all(isinstance(value, str) for value in by_file.values())


def test_the_hardware_is_told(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\nprintf 'NVIDIA L4, 23034, 550.54\\nNVIDIA L4, 23034, 550.54\\nNVIDIA T4, 16, 550.54\\n'"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = hardware()
    assert found["gpus"] == "2 x NVIDIA L4, 23034 MiB, driver 550.54; NVIDIA T4, 16 MiB, driver 550.54"
    assert found["cpu"]
    assert int(found["cpu_cores"].partition(",")[0]) >= 1
    assert float(found["memory_gib"]) > 0


def test_a_tool_that_finds_no_gpu_is_believed(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed, as it could not talk to the driver'\nexit 9")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "gpus" not in hardware()


def test_mlflow_shows_a_study_as_one_that_trains_models(store):
    experiment = store.get_experiment(open_experiment(store, uuid.uuid4().hex))
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_data_logged_twice_are_in_mlflow_once_with_their_columns_and_rows(store):
    run = store.create_run(open_experiment(store, uuid.uuid4().hex)).info.run_id
    for _ in range(2):
        store.log_inputs(run, [dataset_input(SUMMARY)])
    (found,) = store.get_run(run).inputs.dataset_inputs
    assert found.dataset.name == SUMMARY["source"]
    assert SUMMARY["sha256"].startswith(found.dataset.digest)
    assert [column["name"] for column in json.loads(found.dataset.schema)["mlflow_colspec"]] == SUMMARY["feature_names"]
    profile = json.loads(found.dataset.profile)
    assert (profile["rows"], profile["train_rows"], profile["validation_anomalies"]) == (9, 6, 1)


def test_data_of_more_columns_than_mlflow_takes_show_the_first(store):
    run = store.create_run(open_experiment(store, uuid.uuid4().hex)).info.run_id
    names = [f"a column with a long name, number {place}" for place in range(30_000)]
    wide = {**SUMMARY, "source": "s" * 2000, "features": len(names), "feature_names": names}
    store.log_inputs(run, [dataset_input(wide)])
    (found,) = store.get_run(run).inputs.dataset_inputs
    shown = [column["name"] for column in json.loads(found.dataset.schema)["mlflow_colspec"]]
    assert 1000 < len(shown) < len(names)
    assert shown == names[: len(shown)]
    assert json.loads(found.dataset.profile)["features"] == len(names)
