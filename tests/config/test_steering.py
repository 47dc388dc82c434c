import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.config.loading import load_config
from vae_study.config.study import LARGEST_VIOLATION, Constraint, StudyConfig
from vae_study.errors import UserError
from vae_study.metrics import STEERING

from .files import DIGITS, edited, line_of

SMALL = {"study": "a", "data": {"source": "digits"}, "search": {"beta": {"low": 0.5, "high": 2.0}}}
LARGER = {
    **SMALL,
    "data": {"source": "digits", "anomaly_labels": [8]},
    "sampler": {"kind": "nsga2", "seed": 3},
    "resources": {"cpu": 2},
    "trials": 5,
    "champion": {"by": "val/auroc"},
}


def refusal(*settings):
    with pytest.raises(UserError) as caught:
        load_config(DIGITS, settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("early_stopping.kind=paretto", "early_stopping.kind: got 'paretto'; .* of none, pareto, asha, median"),
        ("early_stopping.metric=val/elb", "early_stopping.metric: got 'val/elb'; expected one of val/reconstruction"),
        ("early_stopping.reduction=3", "early_stopping.reduction: unknown key; .*did you mean 'reduction_factor'"),
        ("early_stopping.reduction_factor=1", "early_stopping.reduction_factor: got 1, expected at least 2"),
        ("early_stopping={kind: asha, min_epochs: 60}", "min_epochs: got 60, expected fewer than training.epochs .60"),
        ("early_stopping.min_epochs=0", "early_stopping.min_epochs: got 0, expected"),
        ("sampler.kind=nsgaii", "sampler.kind: got 'nsgaii'; expected one of tpe, nsga2, nsga3, gp, random; did you"),
        ("checkpoints.every_seconds=-1", "checkpoints.every_seconds: got -1, expected at least 0"),
        ("checkpoints.every=3", "checkpoints.every: unknown key; .*did you mean 'every_seconds'"),
        ("warm_start=a/b", "warm_start: got 'a/b', expected letters, digits"),
        ("constraints=[{metric: val/kl}]", r"constraints\[0\]: got .*, expected exactly one of at_least and at_most"),
        ("constraints=[{metric: val/kl, at_least: 1, at_most: 2}]", r"constraints\[0\]: .*, expected exactly one of"),
        ("constraints=[{metric: val/kl, at_mots: 2}]", r"constraints\[0\].at_mots: unknown key; .*mean 'at_most'"),
        ("constraints=[{metric: val/k, at_most: 2}]", r"constraints\[0\].metric: got 'val/k'; .*mean 'val/kl'"),
        (
            "constraints=[{metric: val/kl, at_most: 2}, {metric: val/kl, at_most: 3}]",
            r"constraints\[1\]: got 'val/kl at_most' again",
        ),
        (
            "constraints=[{metric: val/kl, at_most: 2}, {metric: val/kl, at_least: 3}]",
            r"constraints\[1\].at_least: got 3, expected no more than at_most .2",
        ),
        ("enqueue={beta: 1}", "enqueue: got .*, expected a list"),
        ("enqueue=[{}]", r"enqueue\[0\]: got {}, expected at least one item"),
        ("enqueue=[3]", r"enqueue\[0\]: got 3, expected a mapping"),
        ("enqueue=[{latent_dim: 4}, {betta: 1}]", r"enqueue\[1\].betta: unknown parameter; .*did you mean 'beta'"),
        ("enqueue=[{sigma: 1}]", r"enqueue\[0\].sigma: is not searched; expected one of beta, "),
        ("enqueue=[{beta: 21}]", r"enqueue\[0\].beta: got 21, expected a number from 0.05 to 20"),
        ("enqueue=[{beta: true}]", r"enqueue\[0\].beta: got True, expected a number"),
        ("enqueue=[{beta: many}]", r"enqueue\[0\].beta: got 'many', expected a number"),
        ("enqueue=[{beta: .nan}]", r"enqueue\[0\].beta: got nan, expected a finite number"),
        ("enqueue=[{model.latent_dim: 2.5}]", r"enqueue\[0\].latent_dim: got 2.5, expected a whole number from 2 to"),
        ("enqueue=[{free_bits.kind: totl}]", r"enqueue\[0\].free_bits.kind: got 'totl'; .*did you mean 'total'"),
        ("enqueue=[{beta: 1, objective.beta: 2}]", r"enqueue\[0\]: names a parameter twice"),
        ("enqueue=[{free_bits.nats: 0.1}]", r"free_bits.nats: got 0.1, which is used only .*kind total or per_dim"),
        (
            "enqueue=[{kl_annealing.schedule: none, kl_annealing.warmup: 0.2}]",
            r"enqueue\[0\].kl_annealing.warmup: got 0.2, which is used only with .*schedule linear or sigmoid",
        ),
    ],
)  # fmt: skip
def test_a_wrong_key_is_refused_in_one_message_with_its_place(setting, says):
    message = refusal(setting)
    assert "\n" not in message
    with pytest.raises(UserError, match=says):
        load_config(DIGITS, [setting])


def test_a_first_try_is_refused_with_its_line_however_it_names_the_parameter(tmp_path):
    tries = "enqueue:\n  - {beta: 1}\n  - latent_dim: 4\n    objective.beta: 30\n"
    file = edited(tmp_path, ("trials: 64", f"{tries}trials: 64"))
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}:{line_of(file, 'objective.beta: 30')}: enqueue[1].beta: got 30")


POINT_CODE = ["model.family=autoencoder", "objectives=[{metric: val/reconstruction, direction: minimize}]"]


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("early_stopping.kind=asha", "early_stopping.metric: got 'val/elbo'"),
        ("early_stopping={kind: median, metric: val/kl}", "early_stopping.metric: got 'val/kl'"),
        ("constraints=[{metric: val/kl, at_most: 20}]", "constraints[0].metric: got 'val/kl'"),
    ],
)
def test_what_a_point_code_lacks_can_neither_stop_nor_bound_its_trials(setting, place):
    message = refusal(*POINT_CODE, setting)
    assert f"{place}, which a deterministic code" in message
    assert "\n" not in message
    load_config(DIGITS, [setting])
    load_config(DIGITS, [*POINT_CODE, "early_stopping={kind: asha, metric: val/reconstruction}"])


def test_one_metric_is_looked_at_only_where_the_rule_compares_one():
    load_config(DIGITS, [*POINT_CODE, "early_stopping={kind: pareto, metric: val/elbo}"])


@pytest.mark.parametrize(
    "setting", ["early_stopping={kind: asha, metric: val/auroc}", "constraints=[{metric: val/auroc, at_least: 0.8}]"]
)
def test_auroc_neither_stops_nor_bounds_without_labels(setting):
    assert "got 'val/auroc', expected a rule that needs no labels" in refusal(
        "champion.by=val/elbo", "data.anomaly_labels=[]", setting
    )
    load_config(DIGITS, [setting])


def test_the_first_rung_is_compared_with_the_longest_budget_of_the_search():
    searched = ["training.epochs=null", "search.training.epochs={low: 10, high: 40, type: int}"]
    load_config(DIGITS, [*searched, "early_stopping={kind: asha, min_epochs: 39}"])
    assert "min_epochs: got 40, expected" in refusal(*searched, "early_stopping={kind: asha, min_epochs: 40}")
    load_config(DIGITS, ["early_stopping={kind: none, min_epochs: 60}"])


@pytest.mark.parametrize("document", [SMALL, LARGER])
def test_a_default_that_is_spelled_out_changes_no_identity(document):
    same = ["early_stopping.kind=none", "constraints=[]", "enqueue=[]", "warm_start=null", "checkpoints={}"]
    assert load_config(document, same).sha256() == load_config(document).sha256()


HINTS = ["enqueue=[{beta: 1}]", "warm_start=older", "checkpoints.every_seconds=0", "anomaly.fdr=0.2"]
HINTS += ["anomaly.alarms=50", "anomaly.alarms={per_1000: 1}", "anomaly.prevalence=0.001"]


@pytest.mark.parametrize("setting", HINTS)
def test_hints_checkpoints_and_the_rate_of_alarms_are_no_part_of_a_studys_identity(setting):
    assert load_config(SMALL, [setting]).sha256() == load_config(SMALL).sha256()


def test_how_trials_are_stopped_and_what_they_must_keep_are_part_of_a_studys_identity():
    settings = [
        "early_stopping.kind=pareto",
        "early_stopping={kind: pareto, reduction_factor: 4}",
        "early_stopping.kind=asha",
        "constraints=[{metric: val/kl, at_most: 20}]",
        "constraints=[{metric: val/kl, at_most: 21}]",
        "sampler.kind=gp",
        "resources.cpu=2",
        "objective.tc_weight=5",
        "objective.dip_weight=5",
    ]
    hashes = {load_config(SMALL, [setting]).sha256() for setting in settings}
    assert len(hashes | {load_config(SMALL).sha256()}) == len(settings) + 1


def test_a_config_with_every_new_key_survives_plain_and_json():
    settings = [
        "early_stopping={kind: median, metric: val/kl, min_epochs: 3}",
        "constraints=[{metric: val/kl, at_most: 20}, {metric: val/active_units, at_least: 2}]",
        "enqueue=[{objective.beta: 1, model.latent_dim: 8.0}, {network.hidden: [8, 4]}]",
        "model.network=null",
        "search.model.network.hidden={choices: [[8], [8, 4]]}",
        "warm_start=older",
        "checkpoints.every_seconds=0",
    ]
    config = load_config(DIGITS, settings)
    assert config.enqueue == ({"beta": 1, "latent_dim": 8.0}, {"network.hidden": (8, 4)})
    for again in (load_config(config.plain()), StudyConfig.model_validate_json(config.model_dump_json())):
        assert again == config
        assert again.sha256() == config.sha256()


metrics = st.sampled_from(sorted(STEERING))
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3).map(float)


@given(metrics, st.sampled_from(["at_least", "at_most"]), numbers, numbers | st.sampled_from([math.nan, math.inf]))
def test_a_constraint_is_kept_up_to_its_bound_and_its_violation_is_always_finite(metric, bound, limit, value):
    constraint = Constraint.model_validate({"metric": metric, bound: limit})
    violation = constraint.violation({metric: value, "val/other": 0.0})
    kept = math.isfinite(value) and (value >= limit if bound == "at_least" else value <= limit)
    assert (violation <= 0) == kept
    assert abs(violation) <= LARGEST_VIOLATION
    assert constraint.violation({}) == LARGEST_VIOLATION


@given(metrics, numbers, numbers, numbers)
def test_farther_beyond_a_bound_is_never_a_smaller_violation(metric, limit, one, other):
    constraint = Constraint.model_validate({"metric": metric, "at_most": limit})
    low, high = sorted([one, other])
    assert constraint.violation({metric: low}) <= constraint.violation({metric: high})


def test_a_trial_is_feasible_where_it_keeps_every_constraint():
    config = load_config(
        DIGITS, ["constraints=[{metric: val/kl, at_most: 20}, {metric: val/active_units, at_least: 2}]"]
    )
    assert config.is_feasible({"val/kl": 20, "val/active_units": 2})
    for worse in ({"val/kl": 20.1}, {"val/active_units": 1}, {"val/kl": math.nan}):
        assert not config.is_feasible({"val/kl": 20, "val/active_units": 2} | worse)
    assert not config.is_feasible({"val/kl": 20})
    assert load_config(DIGITS).is_feasible({})


def test_every_metric_has_a_direction():
    assert all(metric.direction is not None for metric in STEERING.values())
