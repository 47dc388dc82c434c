"""The tables of vae_study.metrics agree with what computes their rows."""

import numpy as np
from vae_study.anomaly.scores import FITTED, SIMPLE
from vae_study.metrics import METRICS, RULES, SCORES, SIMPLE_SCORES, STEERING, metric_of, need, shown_in, sign_of
from vae_study.vae.evaluation import Measurement, metrics_of


def test_every_score_has_a_formula_and_every_formula_a_row():
    assert set(SIMPLE) == set(SIMPLE_SCORES)
    drawn = {name for name in SCORES if need([name], "draws")}
    assert {*SIMPLE, *FITTED, *drawn} == set(SCORES)
    assert all(need([name], "residual") or need([name], "code") for name in FITTED)


def test_every_metric_of_a_split_is_listed_and_those_that_steer_are_measured_each_epoch():
    random = np.random.default_rng(0)
    nats_N = random.random(20)
    measured = Measurement(
        sampled_reconstruction_N=nats_N,
        sampled_kl_N=nats_N,
        reconstruction_N=nats_N,
        kl_NR=random.random((20, 2)),
        squared_error_N=nats_N,
        mean_NZ=random.random((20, 2)),
        is_anomaly_N=np.arange(20) > 15,
    )
    found = metrics_of(measured, "val", "elbo")
    assert {name.removeprefix("val/") for name in found} <= set(METRICS)
    assert set(STEERING) <= set(found)


def test_every_metric_that_steers_has_a_direction_and_a_reference():
    from_the_data = {"val/reconstruction", "val/kl", "val/elbo", "val/squared_error"}
    assert {name for name, metric in STEERING.items() if metric.worst is None} == from_the_data
    assert all(metric.direction for metric in STEERING.values())


def test_a_metric_is_found_by_its_full_name():
    assert metric_of("test_auroc/kl") is metric_of("val/auroc") is METRICS["auroc"]
    assert metric_of("val_auprc/kl") is METRICS["auprc"]
    assert sign_of("val/kl") == sign_of("study/something") == 1
    assert all(sign_of(RULES[name].metric) == -1 for name in ("val/auroc", "val/auprc", "val/elbo", "pseudo"))
    assert metric_of("study/frontier_size").label == "frontier size"
    assert shown_in("model")[-3:] == ("val/auprc", "test/auprc", "test/precision_at_n")
