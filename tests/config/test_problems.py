import pytest
from vae_study.config.loading import load_config
from vae_study.errors import UserError

from .files import DIGITS, edited, line_of

ROW, BETA, CYCLES = (
    "  beta:                  ",
    "{low: 0.05, high: 20, log: true}",
    "when: {kl_annealing.schedule: [cyclical]}",
)
WARMUP = "  kl_annealing.warmup:   {low: 0.1, high: 0.5, when: {kl_annealing.schedule: [linear, sigmoid]}}\n"
KINDS = "choices: [none, total, per_dimension]"

# What is replaced, by what, at which line's text the message points (None: the new text), and what it says.
WRONG = {
    "unknown key": ("trials: 64", "trails: 64", None, ["trails: unknown key", "did you mean 'trials'?"]),
    "unknown inner key": ("batch_size:", "batchsize:", None, ["training.batchsize: unknown", "mean 'batch_size'?"]),
    "unknown key of a range": ("high: 20,", "high: 20, whne: {},", None, ["beta.whne: unknown key", "mean 'when'?"]),
    "unknown key in a list": ("c: val/kl,", "c: val/kl, refrence: 1,", None, ["tives[1].refrence", "'reference'?"]),
    "unknown parameter": ("  latent_dim: ", "  latent_dmi: ", None, ["search.latent_dmi: unknown", "'latent_dim'?"]),
    "missing key": ("  source: digits\n", "", "data:", ["data.source: is missing"]),
    "word for a number": ("trials: 64", "trials: many", None, ["trials: got 'many', expected a valid integer"]),
    "truth for a number": ("trials: 64", "trials: true", None, ["trials: got True, expected a valid integer"]),
    "fraction of a count": ("trials: 64", "trials: 6.5", None, ["trials: got 6.5, expected a valid integer"]),
    "a GPU and a half": ("gpu: 0}", "gpu: 1.5}", None, ["resources.gpu: got 1.5, expected at most 1, the nearest"]),
    "two GPUs": ("gpu: 0}", "gpu: 2}", None, ["resources.gpu: got 2, expected at most 1, the nearest valid value"]),
    "too fine a part": ("gpu: 0}", "gpu: 0.33333}", None, ["resources.gpu: got 0.33333", "at most 4 decimals"]),
    "a worker of nothing": ("{cpu: 1,", "{cpu: 0,", None, ["resources: cpu and gpu are both 0"]),
    "a CPU's TF32": (
        "batch_size: 128", "batch_size: 128, precision: tf32", None, ["training.precision: got 'tf32' with resources"]
    ),
    "a CPU's TF32, searched": (
        f"{ROW}{BETA}", "  training.precision: {choices: [float32, tf32]}", None,
        ["search.training.precision.choices: got 'tf32' with", "expected 'float32' or 'bf16'"],
    ),
    "half a precision": (
        "batch_size: 128", "batch_size: 128, precision: bf61", None, ["precision: got 'bf61'", "mean 'bf16'?"]
    ),
    "no trials": ("trials: 64", "trials: 0", None, ["trials: got 0, expected at least 1"]),
    "learning rate beyond all": (
        "learning_rate: 1.0e-3", "learning_rate: 1.0e+30", None,
        ["training.learning_rate: got 1e+30, expected at most 10, since each step of Adam"],
    ),
    "draws without an end": (
        "confirm: {top: 3, seeds: 3}", "diagnostics: {iwae_draws: 100000000}", None,
        ["diagnostics.iwae_draws: got 100000000, expected at most 100,000, since more would change their mean"],
    ),
    "repeats without an end": (
        "confirm: {top: 3, seeds: 3}", "confirm: {top: 3, seeds: 3000}", None,
        ["confirm.seeds: got 3000, expected at most 1,000, since more would change their mean"],
    ),
    "more combinations than can be checked": (
        "search:", "search:\n"
        "  learned_sigma: {choices: [shared], when: {gamma: 1.0, delta_nats: 1.0}}\n"
        f"  delta_nats: {{choices: {[*range(1, 201)]}}}\n  gamma: {{choices: {[*range(1, 201)]}}}", "search:",
        ["the choices of learned_sigma, and of what their conditions name", "have 40,000 combinations; expected at"],
    ),
    "a sweep that falls": (
        "model: {fam", "objective: {sweep: {low: 3, high: 1}}\nmodel: {fam", None,
        ["sweep: ", "low below high, got low 3"],
    ),
    "float for whole numbers": (
        "high: 32, log: true, type: int", "high: 32, log: true, type: float", None,
        ["search.latent_dim.type: got 'float', expected 'int', as latent_dim takes whole numbers"],
    ),
    "negative seed": ("seed: 0}\nmodel", "seed: -1}\nmodel", None, ["data.split.seed: got -1, expected"]),
    "number for a mapping": (BETA, "3", "  beta: ", ["search.beta: got 3, expected a mapping"]),
    "word for a list": ("[8]", "eight", None, ["data.anomaly_labels: got 'eight', expected a list"]),
    "no number": ("low: 0.05", "low: .nan", None, ["search.beta.low: got nan", "finite number"]),
    "range upside down": ("low: 0.05", "low: 30", None, ["search.beta.low: got 30", "below high (20)"]),
    "full name": (f"{ROW}{BETA}", "  objective.beta: {low: 30, high: 20}", None, ["search.beta.low: got 30"]),
    "empty range": ("low: 0.05", "low: 20", None, ["search.beta.low: got 20", "below high (20)"]),
    "logarithm of zero": ("low: 0.05", "low: 0", None, ["search.beta.low: got 0", "above 0, as log is true"]),
    "fraction of an int": ("{low: 2, high: 32", "{low: 2.5, high: 32", None, ["latent_dim.low: got 2.5", "whole"]),
    "value that cannot be": ("{low: 2, high: 5", "{low: 0, high: 5", None, ["cycles.low: got 0, expected at least 1"]),
    "choice that cannot be": (KINDS, f"{KINDS[:-1]}, totl]", None, ["kind.choices: got 'totl'", "mean 'total'?"]),
    "no choices": (KINDS, "choices: []", None, ["free_bits.kind.choices: got [], expected at least one"]),
    "condition on nothing": (
        CYCLES, "when: {kl_annealing.schedul: [cyclical]}", None,
        ["cycles.when.kl_annealing.schedul: is not a searched parameter", "mean 'kl_annealing.schedule'?"],
    ),
    "condition on a range": (CYCLES, "when: {beta: [1]}", None, ["cycles.when.beta: is a range", "choices"]),
    "condition on no choice": (
        CYCLES, "when: {kl_annealing.schedule: [cyclicl]}", None,
        ["cycles.when.kl_annealing.schedule: got 'cyclicl'", "one of none, linear", "mean 'cyclical'?"],
    ),
    "circle of conditions": (
        KINDS, f"{KINDS}, when: {{free_bits.kind: total}}", "search:", ["search: the conditions of free_bits.kind"]
    ),
    "searched and fixed": (
        "training:", "objective: {beta: 1}\ntraining:", f"{ROW}{BETA}",
        ["search.beta: is searched, and also fixed at objective.beta", "search.beta=null"],
    ),
    "fixed warm-up of the whole budget": (
        WARMUP, "objective: {kl_annealing: {warmup: 1.0}}\n", None, ["kl_annealing.warmup: got 1.0", "the budget"]
    ),
    "searched warm-up of the whole budget": (
        "high: 0.5,", "high: 1.0,", None, ["search.kl_annealing.warmup.high: got 1.0", "inside the budget"]
    ),
    "slash in the name": ("study: digits", "study: a/b", None, ["study: got 'a/b', expected letters, digits"]),
    "name that climbs": ("study: digits", "study: ..", None, ["study: got '..', expected letters, digits"]),
    "split of more than all": ("validation: 0.2", "validation: 0.3", None, ["data.split: ", "up to 1.1, expected 1"]),
    "bernoulli unscaled": ("scale: unit", "scale: standard", None, ["data.scale: got 'standard'", "bernoulli"]),
    "choice without labels": ("[8]", "[]", "champion:", ["champion.by: got 'val/auroc'", "data.anomaly_labels"]),
    "unknown metric": ("metric: val/kl", "metric: val/kll", None, ["tives[1].metric: got 'val/kll'", "'val/kl'?"]),
    "rate of a deterministic code": (
        "family: vae", "family: autoencoder", "metric: val/kl", ["got 'val/kl'", "deterministic code"]
    ),
    "metric twice": (
        "metric: val/kl, ", "metric: val/reconstruction,  ", None, ["objectives[1].metric: got", "each metric once"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_one_message_names_the_line_the_key_what_came_and_what_was_expected(tmp_path, what):
    old, new, where, words = WRONG[what]
    if old == WARMUP:
        text = DIGITS.read_text(encoding="utf-8").replace(WARMUP, "") + new
        (file := tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    else:
        file = edited(tmp_path, (old, new))
    with pytest.raises(UserError) as caught:
        load_config(file)
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"{file}:{line_of(file, where or new)}: ")
    assert [word for word in words if word not in message] == []


def test_several_problems_come_together_each_with_its_line(tmp_path):
    file = edited(tmp_path, ("trials: 64", "trials: 0"), ("epochs: 60", "epochs: x"), ("unit", "unite"))
    with pytest.raises(UserError) as caught:
        load_config(file)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["data.scale", "training.epochs", "trials"]


def test_where_every_trial_is_a_sweep_a_beta_and_annealing_are_refused():
    with pytest.raises(UserError) as caught:
        load_config(DIGITS, ["objective.kind=sweep", "objective.beta=2", "search.beta=null"])
    lines = str(caught.value).splitlines()
    names = [line.split(": ")[1] for line in lines]
    assert names == ["objective.beta", *(f"search.kl_annealing.{name}" for name in ("schedule", "warmup", "cycles"))]
    assert all("not used by objective.kind sweep, whose betas are those of objective.sweep" in line for line in lines)
    kinds = "search.objective.kind={choices: [beta, sweep]}"
    assert load_config(DIGITS, [kinds]).trial({"objective.kind": "sweep"}).kept_betas()
    assert not load_config(DIGITS, [kinds]).trial({"objective.kind": "beta"}).kept_betas()


def test_objectives_on_auroc_need_labels(tmp_path):
    file = edited(tmp_path, ("[8]", "[]"), ("champion: {by: val/auroc}", ""), ("metric: val/kl", "metric: val/auroc"))
    with pytest.raises(UserError, match=r"objectives\[1\]\.metric: got 'val/auroc', .*data\.anomaly_labels"):
        load_config(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"study: [", "not valid YAML"),
        (b"study: a\nstudy: b", "duplicate key"),
        (b"trials: 2020-13-45", "not valid YAML: month"),
        (b"trials: !!int many", "not valid YAML: invalid literal"),
        (b"[" * 1_000, "not valid YAML"),
        (b"- study\n- data", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"study: \xff\xfe", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_what_is_no_study_file_is_said_to_be_none(tmp_path, content, says):
    file = tmp_path / "study.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(file)
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"{file}: ")
    assert says in message


def test_of_several_settings_the_one_that_went_wrong_is_named():
    settings = ["search=null", "search.beta={low: 1, high: 2}", "search.beta.low=3", "search.beta.low=4"]
    with pytest.raises(UserError, match=r"^--set search\.beta\.low=4: search\.beta\.low: got 4"):
        load_config(DIGITS, settings)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("trials=0", "trials: got 0"),
        ("trails=3", "did you mean 'trials'?"),
        ("search.beta.low=30", "search.beta.low: got 30, expected a number below high (20)"),
        ("search.kl_annealing.warmup.high=1.0", "inside the budget"),
        ("search.zeta={low: 1, high: 2}", "search.zeta: unknown parameter"),
        ("search.={}", "search.: unknown"),
        ("data.anomaly_labels=[.nan]", "got nan, expected a finite number"),
        ("trials", "expected key=value"),
        ("=3", "expected key=value"),
        ("trials=[", "not valid YAML"),
        ("trials=2020-13-45", "not valid YAML"),
        ("data.sequence={time: t, window: 1}", "data.sequence.window: got 1, expected the rows of a window, 2 or more"),
        (
            "data.sequence={time: t, window: 8, max_gap: 0s}",
            "data.sequence.max_gap: got '0s', expected a duration such",
        ),
        ("study.name=3", "a part of study.name is not a section"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_written(setting, says):
    with pytest.raises(UserError) as caught:
        load_config(DIGITS, ["seed=1", setting])
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"--set {setting}: ")
    assert says in message


def test_a_range_of_a_parameter_that_takes_whole_numbers_is_of_whole_numbers(tmp_path):
    whole = edited(tmp_path, (", type: int}\n  kl_annealing.schedule", "}\n  kl_annealing.schedule"))
    assert load_config(whole) == load_config(DIGITS)
    assert load_config(DIGITS, ["search.latent_dim={low: 2, high: 16.0}"]).search["latent_dim"].type == "int"
    assert load_config(DIGITS, ["search.beta={low: 2, high: 16}"]).search["beta"].type == "float"


def test_a_message_is_not_longer_than_a_page(tmp_path):
    with pytest.raises(UserError) as caught:
        load_config(DIGITS, [f"data.missing_values={[[]] * 300}", f"search.{'x' * 3000}=1"])
    *lines, last = str(caught.value).splitlines()
    assert len(str(caught.value)) < 2000
    assert last == f"... and {301 - len(lines)} lines more"
    with pytest.raises(UserError, match=r"^--set seed=0xffff.*: has a whole number of more than a thousand digits"):
        load_config(DIGITS, [f"seed=0x{'f' * 5000}"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "data.split.by: got 'random', expected with data.sequence 'group', which keeps each series in one split"),
        (["data.split.by=group"], "data.sequence.series: is missing; split.by group needs the column with the series"),
        (
            ["data.split.by=time", "data.split.column=t"],
            "data.split.column: got 't', expected none: data.sequence names",
        ),
        (["data.split.by=time", "data.missing=median"], "data.missing: got 'median', expected 'refuse' or 'mask' with"),
    ],
)
def test_windows_are_split_by_series_or_time_and_lack_no_value(settings, says):
    with pytest.raises(UserError) as caught:
        load_config(DIGITS, ["data.sequence={time: t, window: 8}", *settings])
    assert says in str(caught.value)
