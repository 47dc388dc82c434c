"""The link of a study's description opens its trials with their columns, in order."""

import json
from dataclasses import replace

import pytest
from vae_study.config.loading import load_config
from vae_study.selection.ranking import Selection
from vae_study.tracking import schema
from vae_study.tracking.note import LONGEST_VIEW, longest, trials_view

from tests.report.studies import study
from tests.study.conftest import CONFIG
from tests.tracking import stored

CHAMPION = Selection(3, "latent_knn", 0.9)


def view(**changes):
    return json.loads(trials_view({**load_config(CONFIG).plain(), **changes}, "val/auroc", CHAMPION))


def test_the_view_has_the_searched_parameters_the_objectives_and_the_chosen_score():
    found = view()
    columns = found["selectedColumns"]
    assert columns[:2] == ["params.`beta`", "params.`latent_dim`"]
    assert {"metrics.`val/reconstruction`", "metrics.`val/kl`", "metrics.`test_auroc/latent_knn`"} <= set(columns)
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`val_auroc/latent_knn`", False)
    assert len(columns) == len(set(columns))


def test_a_view_with_more_columns_than_a_tag_holds_keeps_the_order():
    search = {f"training.parameter_with_a_long_name_{number}": {"low": 0, "high": 1} for number in range(200)}
    text = trials_view({**load_config(CONFIG).plain(), "search": search}, "val/auroc", CHAMPION)
    assert longest(text) <= LONGEST_VIEW
    assert json.loads(text)["orderByKey"] == "metrics.`val_auroc/latent_knn`"


@pytest.mark.parametrize("times", [1, 2])
def test_the_view_is_kept_where_the_ui_looks_for_it(store, name, tmp_path, impatient, times):
    writer = stored.begin(store, replace(study(trials=2, epochs=2), name=name), tmp_path / name)
    for _ in range(times):
        writer.close_parent({schema.STATE: "finished", schema.VIEW: json.dumps(view())}, "FINISHED")
    writer.drain()
    writer.close()
    run = store.get_run(writer.parent_id)
    tags = store.get_experiment(run.info.experiment_id).tags
    shared = json.loads(tags[f"mlflow.sharedViewState.{run.info.run_id}"])
    assert shared["searchFilter"].startswith(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert schema.VIEW not in run.data.tags
