import pytest
from vae_study.config.loading import load_config
from vae_study.config.search_space import Choices, Range, canonical_name, in_branch_order, is_active
from vae_study.config.study import StudyConfig
from vae_study.errors import UserError

from .files import DIGITS, edited

BRANCHES = ("kl_annealing.warmup", "kl_annealing.cycles", "free_bits.nats")


def test_the_digits_config_means_what_it_says():
    config = load_config(DIGITS)
    assert (config.study, config.trials, config.data.anomaly_labels, config.champion.by) == (
        "digits",
        64,
        (8,),
        "val/auroc",
    )
    assert config.search["beta"] == Range(low=0.05, high=20, log=True)
    assert config.search["latent_dim"] == Range(low=2, high=32, log=True, type="int")
    assert config.search["kl_annealing.cycles"].when == {"kl_annealing.schedule": ("cyclical",)}
    assert (config.model.network.hidden, config.model.likelihood) == ((256, 128), "bernoulli")
    assert [(o.metric, o.direction) for o in config.objectives] == [
        ("val/reconstruction", "minimize"),
        ("val/kl", "minimize"),
    ]


@pytest.mark.parametrize("settings", [[], ["search.network.hidden={choices: [[8], [8, 4]]}", "model.network=null"]])
def test_a_resolved_config_survives_plain_and_json(settings):
    config = load_config(DIGITS, settings)
    for again in (
        StudyConfig.model_validate(config.plain()),
        StudyConfig.model_validate_json(config.model_dump_json()),
    ):
        assert again == config
        assert again.sha256() == config.sha256()
    assert load_config(DIGITS, [*settings, "training.epochs=61"]).sha256() != config.sha256()


def test_a_trial_is_the_fixed_part_with_the_searched_values_in_it():
    trial = load_config(DIGITS).trial({"latent_dim": 3, "kl_annealing.schedule": "linear", "kl_annealing.warmup": 0.2})
    assert (trial.model.latent_dim, trial.model.likelihood, trial.training.epochs) == (3, "bernoulli", 60)
    assert (trial.objective.kl_annealing.schedule, trial.objective.kl_annealing.warmup) == ("linear", 0.2)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("beta", "beta"),
        ("objective.beta", "beta"),
        ("model.latent_dim", "latent_dim"),
        ("objective.kl_annealing.warmup", "kl_annealing.warmup"),
        ("model.network.hidden", "network.hidden"),
        ("training.epochs", "training.epochs"),
        ("epochs", None),
        ("training", None),
        ("model.beta", None),
    ],
)
def test_a_parameter_goes_by_its_short_or_its_full_name(given, canonical):
    assert canonical_name(given) == canonical


def test_full_names_in_a_file_mean_the_same_study(tmp_path):
    full = edited(
        tmp_path,
        ("  beta: ", "  objective.beta: "),
        ("  free_bits.kind: ", "  objective.free_bits.kind: "),
        ("when: {free_bits.kind: ", "when: {objective.free_bits.kind: "),
    )
    assert load_config(full) == load_config(DIGITS)
    settings = ["search.beta.low=1", "search.free_bits.nats=null", "search.free_bits.kind=null"]
    assert load_config(full, settings) == load_config(DIGITS, settings)


def test_conditions_come_before_what_depends_on_them():
    search = load_config(DIGITS).search
    for given in (list(search), list(reversed(search))):
        order = in_branch_order({name: search[name] for name in given})
        assert sorted(order) == sorted(search)
        for name, parameter in search.items():
            assert all(order.index(parent) < order.index(name) for parent in parameter.when)


@pytest.mark.parametrize(
    ("values", "active"),
    [
        ({"kl_annealing.schedule": "linear", "free_bits.kind": "none"}, ["kl_annealing.warmup"]),
        ({"kl_annealing.schedule": "cyclical", "free_bits.kind": "none"}, ["kl_annealing.cycles"]),
        ({"kl_annealing.schedule": "none", "free_bits.kind": "total"}, ["free_bits.nats"]),
        ({}, []),
    ],
)
def test_a_branch_is_active_where_its_condition_holds(values, active):
    search = load_config(DIGITS).search
    assert [name for name in BRANCHES if is_active(search[name], values)] == active


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.epochs=7", lambda config: config.training.epochs == 7),
        ("seed=3", lambda config: config.seed == 3),
        ("data.anomaly_labels=[1, 2]", lambda config: config.data.anomaly_labels == (1, 2)),
        ("sigma=0.5", lambda config: config.model.sigma == 0.5),
        ("kl_annealing.ramp=0.9", lambda config: config.objective.kl_annealing.ramp == 0.9),
        ("sampler.seed=null", lambda config: config.sampler.seed is None),
        ("trials=null", lambda config: config.trials == StudyConfig.model_fields["trials"].default),
        ("search.beta=null", lambda config: "beta" not in config.search),
        ("search=null", lambda config: not config.search),
        ("search.kl_annealing.warmup.high=0.4", lambda config: config.search["kl_annealing.warmup"].high == 0.4),
        ("search.objective.beta.low=1", lambda config: config.search["beta"].low == 1),
        (
            "search.kl_annealing.warmup.when.kl_annealing.schedule=linear",
            lambda config: config.search["kl_annealing.warmup"].when == {"kl_annealing.schedule": ("linear",)},
        ),
        ("search.sigma={choices: [0.5, 1]}", lambda config: config.search["sigma"] == Choices(choices=(0.5, 1))),
        ("search.network.activation={choices: [relu, tanh]}", lambda config: len(config.search) == 8),
    ],
)
def test_a_setting_changes_its_key_and_nothing_else(setting, value):
    before, after = load_config(DIGITS), load_config(DIGITS, [setting])
    assert value(after)
    part = setting.split("=")[0].split(".")[0]
    part = {"sigma": "model", "kl_annealing": "objective"}.get(part, part)
    assert {name for name in StudyConfig.model_fields if getattr(before, name) != getattr(after, name)} <= {part}


def test_the_last_of_equal_settings_counts_and_the_callers_dictionary_stays():
    given = {"study": "a", "data": {"source": "digits"}, "search": {"beta": {"low": 1, "high": 2}}}
    assert load_config(given, ["search.beta.low=1.5", "search.beta.low=1.6"]).search["beta"].low == 1.6
    assert given["search"] == {"beta": {"low": 1, "high": 2}}


def test_a_budget_may_be_raised_without_becoming_another_study():
    assert load_config(DIGITS, ["trials=100"]).sha256() == load_config(DIGITS).sha256()


def test_a_config_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        load_config(DIGITS).trials = 3
    with pytest.raises(UserError):
        load_config({})


def test_a_resolved_config_can_be_read_again_as_it_is_kept():
    config = load_config(DIGITS)
    again = load_config(config.plain())
    assert again.plain() == config.plain()
    assert again.sha256() == config.sha256()


@pytest.mark.parametrize("family", ["vector_quantized", "adversarial", "autoencoder"])
def test_a_target_for_the_kl_is_refused_where_no_kl_trains(family):
    settings = [f"model.family={family}", "objective.kind=constrained"]
    settings += ["objectives=[{metric: val/reconstruction, direction: minimize}]"]
    with pytest.raises(UserError, match=rf"objective\.kind: got 'constrained', expected 'beta' for {family}"):
        load_config(DIGITS, settings)


@pytest.mark.parametrize("kind", ["beta_tc", "dip"])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["model.family=hierarchical"], "expected another kind for hierarchical"),
        (["model.family=adversarial"], "expected 'beta' for adversarial, whose loss has no KL"),
        (["model.latent=step", "model.network.kind=recurrent"], "expected another kind for latent step"),
        (["search.latent={choices: [window, step]}", "model.network.kind=recurrent"], "another kind for latent step"),
        (["model.latent=map", "model.network.kind=conv"], "latent map, which has a code for each place"),
        (["training.batch_size=1"], r"training\.batch_size: got 1, expected at least 2 for objective\.kind"),
        (["training.batch_size=null", "search.training.batch_size={choices: [1, 64]}"], "got 1, expected at least 2"),
    ],
)
def test_a_kind_that_compares_rows_is_refused_where_there_is_nothing_to_compare(kind, settings, says):
    with pytest.raises(UserError, match=says):
        load_config(DIGITS, [*settings, f"objective.kind={kind}"])
    with pytest.raises(UserError, match=says):
        load_config(DIGITS, [*settings, f"search.objective.kind={{choices: [beta, {kind}]}}"])
    assert load_config(DIGITS, ["model.family=conditional", f"objective.kind={kind}"]).objective.compares_rows


def test_the_weights_of_the_terms_are_searched_by_their_names():
    kinds = "search.objective.kind={choices: [beta, beta_tc, dip]}"
    weights = ["tc_weight={low: 1, high: 20, when: {objective.kind: beta_tc}}"]
    weights += ["objective.dip_weight={low: 1, high: 50, log: true, when: {objective.kind: dip}}"]
    config = load_config(DIGITS, [kinds, *(f"search.{one}" for one in weights)])
    assert {"tc_weight", "dip_weight"} <= {*config.search}
    assert config.trial({"objective.kind": "beta_tc", "tc_weight": 4.0}).objective.tc_weight == 4


def test_a_target_for_the_kl_may_hang_on_the_family_that_it_suits():
    settings = ["model.family=null", "search.family={choices: [vae, vector_quantized]}"]
    kinds = "search.objective.kind={choices: [beta, constrained], when: {family: vae}}"
    assert load_config(DIGITS, [*settings, kinds]).search["objective.kind"].when == {"family": ("vae",)}
    with pytest.raises(UserError, match="expected 'beta' for vector_quantized"):
        load_config(DIGITS, [*settings, "search.objective.kind={choices: [beta, constrained]}"])
