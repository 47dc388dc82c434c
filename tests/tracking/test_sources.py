"""A study is read from MLflow's SQLite file without MLflow, and that gives what MLflow's client gives."""

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from vae_study.errors import UserError
from vae_study.paths import source_of
from vae_study.tracking import schema
from vae_study.tracking.events import ChampionChosen
from vae_study.tracking.models import promote, set_champion
from vae_study.tracking.reader import read_study
from vae_study.tracking.record import ChampionRecord
from vae_study.tracking.sources import ClientSource, children, light_source, require_parent, study_names

from tests.report.studies import study
from tests.tracking import stored
from tests.tracking.packed import Packed, log_all, new_study


def assert_same(one, other):
    for each in fields(one):
        mine, its = getattr(one, each.name), getattr(other, each.name)
        if isinstance(mine, pd.DataFrame):
            assert_frame_equal(mine, its)
        elif isinstance(mine, ChampionRecord):
            assert_same(mine, its)
        elif isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, its)
        else:
            assert mine == its, each.name


@pytest.mark.parametrize("is_over", [True, False])
def test_a_study_is_the_same_by_both_ways(store, name, tmp_path, impatient, is_over):
    record = replace(study(trials=8, epochs=4), name=name)
    if is_over:
        stored.store(store, record, tmp_path / name)
    else:
        writer = stored.begin(store, record, tmp_path / name)
        for row in record.trials.to_dict("records")[:5]:
            stored.tell(writer, {**row, "state": "waiting", "val/elbo": np.nan, "val/kl": np.inf})
        writer.drain()
        writer.close()
    light = light_source(store.tracking_uri)
    assert_same(read_study(light, name), read_study(ClientSource(store), name))
    assert name in study_names(light) == study_names(ClientSource(store))


def test_runs_are_the_same_by_both_ways_and_deleted_ones_are_gone(store, name, tmp_path, impatient):
    record = replace(study(trials=4, epochs=2), name=name)
    parent = stored.store(store, record, tmp_path / name)
    sources = ClientSource(store), light_source(store.tracking_uri)
    every, same = (children(source, require_parent(source, name)) for source in sources)
    assert every == same
    assert len(same) == 4
    store.delete_run(same[1].run_id)
    left, also = (children(source, require_parent(source, name)) for source in sources)
    assert left == also == [same[0], *same[2:]]
    store.delete_run(parent.info.run_id)
    for source in sources:
        with pytest.raises(UserError, match=f"no study '{name}' in sqlite"):
            read_study(source, name)


def test_the_registrys_champion_is_the_same_by_both_ways(store, name, tmp_path_factory):
    parent, runs = new_study(store, name)
    log_all(store, Packed(tmp_path_factory.mktemp("packed")), parent, runs)
    sources = ClientSource(store), light_source(store.tracking_uri)
    found = [[source.promoted(require_parent(source, name)) for source in sources]]
    event = ChampionChosen(run="", name="trial-0007", rule="val/elbo", note="chosen", time_ms=1_700_000_000_000)
    set_champion(store, parent.info.run_id, event)
    found += [[source.promoted(require_parent(source, name)) for source in sources]]
    promote(store, name, "ensemble")
    found += [[source.promoted(require_parent(source, name)) for source in sources]]
    store.set_registered_model_tag(name, schema.STUDY_ID, "another")
    found += [[source.promoted(require_parent(source, name)) for source in sources]]
    assert found == [[None] * 2, ["trial-0007"] * 2, [found[2][0]] * 2, [None] * 2]
    assert found[2][0].startswith("ensemble")


@pytest.mark.parametrize("change", ["ALTER TABLE runs RENAME artifact_uri TO place", "DROP TABLE latest_metrics"])
def test_a_store_with_other_tables_is_left_to_mlflows_client(store, tmp_path, change):
    path = tmp_path / "mlflow.db"
    shutil.copy(schema.sqlite_path(store.tracking_uri), path)
    assert light_source(f"sqlite:///{path}") is not None
    with sqlite3.connect(path) as database:
        database.execute(change)
    assert light_source(f"sqlite:///{path}") is None
    assert isinstance(source_of(tmp_path, None), ClientSource)


def test_what_is_no_database_is_left_to_mlflows_client(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    assert light_source(f"sqlite:///{tmp_path}/mlflow.db") is None
    assert light_source("http://127.0.0.1:5000") is None
    with pytest.raises(UserError, match="is not a database"):
        source_of(tmp_path, None)


@pytest.mark.processes
def test_status_imports_none_of_the_libraries_that_take_seconds(store, name, tmp_path, impatient):
    stored.store(store, replace(study(trials=8, epochs=4), name=name), tmp_path / name)
    heavy = "mlflow", "ray", "torch", "sklearn", "matplotlib", "optuna", "scipy.stats"
    code = (
        "import sys; from vae_study.cli import main\n"
        f"main(['status', {name!r}, '--tracking-uri', {store.tracking_uri!r}], standalone_mode=False)\n"
        f"print('heavy', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert "test AUROC" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy []"
