import json
import shutil
import zipfile

import pandas as pd
import pytest
from click.testing import CliRunner
from vae_study.api import list_studies, load_study, score_rows
from vae_study.archive import delete_study, export_study, import_study
from vae_study.cli import main
from vae_study.errors import UserError
from vae_study.tracking.journal import PATHS, locked
from vae_study.tracking.store import open_client, runs_tagged

NAME = "digits"
SAME = ("trials", "history", "choices", "detectors", "confirmations")


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    return export_study(NAME, tmp_path_factory.mktemp("exported") / "digits.zip", home=study.home)


@pytest.fixture
def imported(exported, tmp_path):
    home = tmp_path / "elsewhere"
    assert import_study(exported, home=home) == NAME
    return home


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scores(home, model=None):
    path = home / "scores.parquet"
    score_rows(NAME, "digits", model=model, output=path, home=home)
    return pd.read_parquet(path)


def test_a_study_is_the_same_on_another_machine_when_the_first_one_is_gone(study, exported, tmp_path):
    moved = tmp_path / "moved" / NAME
    shutil.copytree(study.home / NAME, moved)
    again = export_study(
        NAME, tmp_path / "a.zip", home=moved.parent, tracking_uri=f"sqlite:///{study.home / 'mlflow.db'}"
    )
    shutil.rmtree(moved.parent)
    home = tmp_path / "elsewhere"
    import_study(again, home=home)
    before, after = (load_study(NAME, home=one) for one in (study.home, home))
    for field in SAME:
        first, second = (getattr(one, field).drop(columns="run_id", errors="ignore") for one in (before, after))
        pd.testing.assert_frame_equal(first, second)
    assert before.config == after.config
    assert before.data == after.data
    pd.testing.assert_frame_equal(scores(study.home), scores(home))


def test_what_people_read_is_in_the_file_and_no_path_of_the_first_machine_in_the_records(study, exported):
    with zipfile.ZipFile(exported) as file:
        names = file.namelist()
        assert {"summary.json", "report/report.html", "report/trials.parquet", "study/config.json"} <= {*names}
        events = [json.loads(line) for line in file.read("study/journal.jsonl").splitlines()]
    paths = [event[name] for event in events for name in PATHS if name in event]
    assert len(paths) > 10
    assert str(study.home) not in str(paths)


def test_delete_takes_all_of_one_study_and_nothing_of_another(study, exported, imported):
    other = imported / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    before = content(imported)
    said = delete_study(NAME, home=imported, dry_run=True)
    assert content(imported).keys() == before.keys()
    assert load_study(NAME, home=imported).trials.shape[0] == 10
    assert delete_study(NAME, home=imported) == said
    assert not (imported / NAME).exists()
    assert (other / "config.json").exists()
    assert list_studies(home=imported) == []
    client = open_client(f"sqlite:///{imported / 'mlflow.db'}")
    assert runs_tagged(client, {"vae_study.study": NAME}) == []
    assert [model.name for model in client.search_registered_models()] == []
    import_study(exported, home=imported)
    assert list_studies(home=imported) == [NAME]


def test_a_study_that_runs_is_neither_deleted_nor_exported(imported):
    with locked(imported / NAME):
        for act in (delete_study, export_study):
            with pytest.raises(UserError, match="in use"):
                act(NAME, home=imported)
    assert load_study(NAME, home=imported).trials.shape[0] == 10


def test_delete_asks_first_and_without_a_terminal_needs_yes(imported):
    words = ["delete", NAME, "--home", str(imported)]
    asked = CliRunner().invoke(main, words)
    assert asked.exit_code == 2
    assert "expected --yes" in asked.stderr
    assert (imported / NAME).exists()
    assert CliRunner().invoke(main, [*words, "--dry-run"]).exit_code == 0
    assert (imported / NAME).exists()
    assert CliRunner().invoke(main, [*words, "--yes"]).exit_code == 0
    assert not (imported / NAME).exists()


def damaged(exported, path, kind):
    whole = exported.read_bytes()
    if kind == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("no zip")
    elif kind == "flipped":
        with zipfile.ZipFile(exported) as file:
            at = file.getinfo("study/study.db").header_offset + 1000
        path.write_bytes(whole[:at] + bytes(255 - byte for byte in whole[at : at + 40]) + whole[at + 40 :])
    elif kind == "other":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "a")
    return path


@pytest.mark.parametrize("kind", ["half", "text", "flipped", "other", "missing"])
def test_a_file_that_is_no_export_leaves_nothing(exported, tmp_path, kind):
    home = tmp_path / "home"
    with pytest.raises(UserError, match=f"{kind}.zip"):
        import_study(damaged(exported, tmp_path / f"{kind}.zip", kind), home=home)
    assert not (home / NAME).exists()
    assert [path for path in home.rglob("*") if "unfinished" in path.name] == []


def test_a_study_is_not_imported_over_another(exported, imported):
    with pytest.raises(UserError, match="is there already"):
        import_study(exported, home=imported)
    shutil.rmtree(imported / NAME)
    with pytest.raises(UserError, match="has a study 'digits' already"):
        import_study(exported, home=imported)
