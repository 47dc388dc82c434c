import pandas as pd
import pytest
from mlflow import MlflowClient
from vae_study.api import build_report, load_study, run_study
from vae_study.errors import UserError
from vae_study.storage import Folder
from vae_study.study.trial_files import read_code
from vae_study.tracking.schema import repeat_name
from vae_study.vae.disentanglement import udr

from tests.study.conftest import CONFIG, SHORT

CONFIRM = ["confirm.top=2", "confirm.seeds=2"]


@pytest.fixture(scope="module")
def confirmed(ray_session, tmp_path_factory):
    home = tmp_path_factory.mktemp("confirmed")
    return run_study(CONFIG, [*SHORT, "trials=4", *CONFIRM], home=home, concurrency=1), home


def test_the_best_by_the_rule_are_trained_again_with_further_seeds(confirmed):
    record, _ = confirmed
    areas = record.trials.set_index("trial").filter(like="val_auroc/").max(axis=1)
    best = areas.sort_values(ascending=False, kind="stable").index[:2]
    pairs = set(record.confirmations[["trial", "seed"]].itertuples(index=False, name=None))
    assert pairs == {(number, seed) for number in best for seed in (1, 2)}
    original = record.trials.set_index("trial")["val/elbo"]
    for row in record.confirmations.to_dict("records"):
        assert row["val/elbo"] != original[row["trial"]]
        assert 0 <= row["test/auroc"] <= 1


def test_the_seeds_of_a_trial_are_compared_by_their_codes(confirmed):
    record, home = confirmed
    place = home / record.name / "trials"
    for number in {*record.confirmations["trial"]}:
        names = [f"trial-{number:04d}", *(repeat_name(number, seed) for seed in (1, 2))]
        codes = [read_code(Folder.at(place) / name) for name in names]
        seeds = record.confirmations[record.confirmations["trial"].eq(number)].sort_values("seed")
        found = [*record.trials.loc[record.trials["trial"].eq(number), "test/udr"], *seeds["test/udr"]]
        assert found == pytest.approx(udr([code["code"] for code in codes], [code["kl"] for code in codes]))
        assert all(0 < value <= 1 for value in found)
    others = ~record.trials["trial"].isin(record.confirmations["trial"])
    assert record.trials.loc[others, "test/udr"].isna().all()
    champion = record.trials["trial"].eq(record.champion.trial)
    of_study = MlflowClient(record.tracking_uri).get_run(record.run_id).data.metrics
    assert of_study["test/udr"] == pytest.approx(record.trials.loc[champion, "test/udr"].item())


def test_a_confirmation_is_no_trial_and_is_done_once(confirmed):
    record, home = confirmed
    assert record.trials["trial"].tolist() == [0, 1, 2, 3]
    again = run_study(CONFIG, [*SHORT, "trials=4", *CONFIRM], home=home)
    pd.testing.assert_frame_equal(again.confirmations, record.confirmations)
    query = f"tags.mlflow.parentRunId = '{record.run_id}'"
    runs = MlflowClient(record.tracking_uri).search_runs([record.experiment_id], query)
    assert len(runs) == 4 + 4
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_more_can_be_confirmed_later(confirmed):
    record, home = confirmed
    settings = [*SHORT, "trials=4", "confirm.top=2", "confirm.seeds=3"]
    more = run_study(CONFIG, settings, home=home, concurrency=1).confirmations
    assert len(more) == 6
    merged = more.merge(record.confirmations, on=["trial", "seed"], suffixes=("", " before"))
    assert (merged["val/elbo"] == merged["val/elbo before"]).all()
    assert len(merged) == 4


FAMILIES = ["search.family={choices: [vae, autoencoder, vector_quantized, hierarchical]}", "model.family=null"]
AXES = ("val/squared_error", "val/active_units")
POINTS = "objectives=[" + ", ".join(f"{{metric: {metric}, direction: minimize}}" for metric in AXES) + "]"


def test_families_with_and_without_a_rate_can_be_searched_together(ray_session, tmp_path):
    settings = [*SHORT, *FAMILIES, POINTS, "trials=8", "sampler.kind=random"]
    record = run_study(CONFIG, settings, home=tmp_path, concurrency=1)
    trials = record.trials
    assert (trials["state"] == "finished").all()
    assert trials["family"].nunique() > 2
    assert (trials["val/kl"].isna() == (trials["family"] == "autoencoder")).all()
    assert build_report("digits", home=tmp_path, output=tmp_path / "report").exists()


def test_a_family_without_a_rate_cannot_be_ranked_by_it(tmp_path):
    with pytest.raises(UserError, match=r"objectives\[1\]\.metric: got 'val/kl', which a deterministic code"):
        run_study(CONFIG, [*SHORT, *FAMILIES], home=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_study_of_a_table_without_labels_chooses_by_what_there_is(ray_session, tmp_path):
    config = {
        "study": "table",
        "data": {"source": "breast_cancer", "scale": "standard"},
        "model": {"family": "autoencoder", "network": {"hidden": [16]}},
        "training": {"epochs": 3, "batch_size": 64},
        "search": {"latent_dim": {"low": 2, "high": 6, "type": "int"}},
        "objectives": [{"metric": "val/reconstruction", "direction": "minimize"}],
        "trials": 3,
    }
    record = run_study(config, home=tmp_path, concurrency=1)
    trials = record.trials.set_index("trial")
    assert record.champion is not None
    assert record.champion.trial == trials["val/reconstruction"].idxmin()
    assert load_study("table", home=tmp_path).champion.rule == "val/reconstruction"
    assert build_report("table", home=tmp_path, output=tmp_path / "report").exists()
