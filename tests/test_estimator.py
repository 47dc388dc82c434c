import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from vae_study import VAEDetector
from vae_study.data import frame_features

FEW = {"training.epochs": 3, "model.network.hidden": [8]}


def rows(count=300, seed=0):
    """Two columns that go together, and two of noise."""
    random = np.random.default_rng(seed)
    x_ND = random.normal(size=(count, 4))
    x_ND[:, 1] = x_ND[:, 0] + 0.1 * random.normal(size=count)
    return x_ND


def frame(count=300):
    random = np.random.default_rng(1)
    made = pd.DataFrame({"load": random.normal(size=count), "kind": random.choice(["a", "b"], count)})
    made["power"] = 2 * made["load"] + 0.1 * random.normal(size=count)
    made.loc[5, "power"] = np.nan
    return made


def features(detector, table):
    """What a packed detector takes."""
    columns = [f"x{place}" for place in range(table.shape[1])]
    return frame_features(pd.DataFrame(table, columns=columns), detector.preprocessing)


@parametrize_with_checks([VAEDetector(settings=FEW, random_state=0)])
def test_it_is_an_estimator_by_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


def test_rows_that_break_the_rule_of_the_table_are_outliers():
    odd_ND = rows(50, seed=2)
    odd_ND[:, 1] += 3
    detector = VAEDetector(random_state=0).fit(rows(1000))
    both_ND = np.concatenate([rows(200, seed=3), odd_ND])
    is_odd_N = np.arange(250) >= 200
    score_N = detector.score_samples(both_ND)
    assert roc_auc_score(is_odd_N, -score_N) > 0.95
    assert (detector.decision_function(both_ND) == score_N - detector.offset_).all()
    assert (detector.predict(both_ND) == np.where(score_N < detector.offset_, -1, 1)).all()
    assert (detector.predict(odd_ND) == -1).mean() > 0.5
    assert (detector.predict(both_ND[:200]) == -1).mean() < 0.1
    assert detector.p_values(odd_ND).mean() < 0.1 < detector.p_values(both_ND[:200]).mean()


def test_a_data_frame_may_have_text_and_missing_values_and_its_columns_any_order():
    table = frame()
    detector = VAEDetector(random_state=0, settings=FEW).fit(table)
    assert detector.feature_names_in_.tolist() == ["load", "kind", "power"]
    score_N = detector.score_samples(table)
    assert np.isfinite(score_N).all()
    unknown = table.head(3).assign(kind="c")
    assert np.isfinite(detector.score_samples(unknown)).all()
    with pytest.raises(ValueError, match="feature names should match"):
        detector.score_samples(table[["power", "kind", "load"]])


def test_contamination_is_the_share_of_the_given_rows_that_are_outliers():
    x_ND = rows()
    detector = VAEDetector(contamination=0.1, random_state=0, settings=FEW).fit(x_ND)
    assert (detector.predict(x_ND) == -1).sum() == 30
    assert (VAEDetector(contamination=0.1, random_state=0, settings=FEW).fit_predict(x_ND) == -1).sum() == 30


def test_the_same_seed_gives_the_same_scores_and_another_seed_others():
    x_ND = rows()
    first, again, other = (
        VAEDetector(random_state=seed, settings=FEW).fit(x_ND).score_samples(x_ND) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_it_works_in_a_pipeline_and_in_cross_validation():
    x_ND, is_odd_N = rows(), np.arange(300) >= 290
    x_ND[is_odd_N, 1] += 6
    pipeline = make_pipeline(StandardScaler(), VAEDetector(random_state=0, settings=FEW))
    assert set(pipeline.fit(x_ND).predict(x_ND)) == {-1, 1}

    def auroc(estimator, x, y):
        return roc_auc_score(y, -estimator.score_samples(x))

    order = np.random.default_rng(0).permutation(300)
    scores = cross_val_score(clone(pipeline), x_ND[order], is_odd_N[order], scoring=auroc, cv=2)
    assert scores.mean() > 0.6


@pytest.mark.parametrize("table", [rows(), frame()], ids=["array", "frame"])
def test_it_is_saved_and_loaded_without_a_pickle_and_with_the_same_scores(table, tmp_path):
    detector = VAEDetector(contamination=0.05, random_state=0, settings=FEW).fit(table)
    detector.save(tmp_path / "model")
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".pkl", ".pt")]
    again = VAEDetector.load(tmp_path / "model")
    for one in (again, pickle.loads(pickle.dumps(detector))):
        assert (one.decision_function(table) == detector.decision_function(table)).all()
        assert one.get_params() == detector.get_params()
    with pytest.raises(ValueError, match="has files; expected a new or an empty folder"):
        detector.save(tmp_path / "model")
    (tmp_path / "model" / "estimator.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected what VAEDetector\.save writes"):
        VAEDetector.load(tmp_path / "model")


def test_its_model_is_a_study_of_one_trial_with_a_report(tmp_path):
    detector = VAEDetector(random_state=0, settings=FEW).fit(rows())
    study = detector.study_
    assert study.trials["state"].tolist() == ["finished"]
    assert study.history["epoch"].tolist() == [1, 2, 3]
    assert study.history["val/elbo"].iloc[-1] == study.trials["val/elbo"].iloc[0]
    page = detector.report(tmp_path)
    assert "Trial 0, a variational autoencoder" in page.read_text(encoding="utf-8")


def test_a_setting_holds_unless_a_parameter_says_otherwise():
    settings = {**FEW, "anomaly.score": "elbo", "objective.beta": 2.0}
    asked = VAEDetector(settings=settings, random_state=0).fit(rows(60)).config_
    assert (asked.anomaly.score, asked.objective.beta) == ("elbo", 2.0)
    other = VAEDetector(settings=settings, anomaly_score="kl", random_state=0).fit(rows(60)).config_
    assert other.anomaly.score == "kl"


def test_by_default_the_detector_without_a_model_takes_part_and_with_a_score_the_model_is_alone():
    table = rows(200)
    together = VAEDetector(random_state=0, settings=FEW).fit(table).detector_
    alone = VAEDetector(random_state=0, settings=FEW, anomaly_score="residual_mahalanobis").fit(table).detector_
    found = together.score(features(together, table))
    alone_N = alone.score(features(alone, table))["score"].to_numpy()
    model_N = together.scales["trial-0000/residual_mahalanobis"](alone_N)
    assert found["score"].to_numpy() == pytest.approx(model_N + found["without_model"].to_numpy())


@pytest.mark.studies
def test_with_several_trials_it_is_the_model_that_a_study_chose(tmp_path, ray_session):
    table = frame()
    detector = VAEDetector(trials=2, random_state=0, settings={**FEW, "diagnostics.iwae_draws": 0}, home=tmp_path)
    assert set(detector.fit(table).predict(table)) <= {-1, 1}
    study = detector.study_
    assert len(study.trials) == 2
    assert study.trials["beta"].nunique() == 2
    held_out = study.detectors[study.detectors["split"] == "test"]
    found = -detector.score_samples(table.iloc[held_out["row"]])
    assert found == pytest.approx(held_out["ensemble_best"].to_numpy())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contamination": 0.7}, "contamination: got 0.7, expected 'auto' or a number above 0 and at most 0.5"),
        ({"trials": 0}, "trials: got 0, expected a whole number from 1 on"),
        ({"search": {"beta": {"low": 1, "high": 2}}}, "search: given with trials=1"),
        ({"anomaly_score": "elbow"}, "anomaly.score: .*'elbow'"),
        ({"settings": {"training.epoch": 3}}, "training.epoch"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_expected(changes, words):
    with pytest.raises(ValueError, match=words):
        VAEDetector(**{"settings": FEW, **changes}).fit(rows(40))


def test_too_few_rows_and_infinity_are_refused():
    with pytest.raises(ValueError, match="got n_samples = 9, expected at least 10 rows"):
        VAEDetector(settings=FEW).fit(rows(9))
    with pytest.raises(ValueError, match="contains infinity"):
        VAEDetector(settings=FEW).fit(np.where(np.arange(40)[:, None] == 3, np.inf, rows(40)))
    with pytest.raises(ValueError, match="column 'load'"):
        VAEDetector(settings=FEW).fit(frame().assign(load=lambda made: made["load"].mask(made.index == 3, np.inf)))
