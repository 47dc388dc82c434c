"""How to reproduce a study: the command that trains one trial again is valid, with its configuration and seed."""

import shlex
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from vae_study.config.loading import load_config
from vae_study.report.page import yaml_text
from vae_study.report.reproduce import code_grid, commands, configuration, seed_alone, seed_grid
from vae_study.report.tables import tidy
from vae_study.study.trial_run import trial_seed

from .golden import golden
from .odd import NASTY, in_state, nasty
from .studies import study


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31))
def test_alone_a_trial_has_the_seed_that_it_had_in_the_study(seed: int, trial: int) -> None:
    assert trial_seed(seed_alone(seed, trial), 0) == trial_seed(seed, trial)


def set_by(command: str) -> tuple[list[str], dict[str, Any]]:
    """The settings of a command line, and its other options."""
    words = shlex.split(command)
    settings = [value for word, value in pairwise(words) if word == "--set"]
    return settings, dict(zip(words[3::2], words[4::2], strict=True))


def test_the_command_for_one_trial_sets_its_configuration_in_the_study_s_own_config(tmp_path: Any) -> None:
    record = tidy(golden())
    config = {"data": {"source": "digits"}, "search": record.config["search"], "study": "golden", "seed": 5}
    assert record.champion is not None
    for trial in (21, 6):
        made = replace(record, config=config, champion=replace(record.champion, trial=trial))
        (line,) = (command for command, effect in commands(made) if "alone again" in effect)
        settings, options = set_by(line)
        (tmp_path / "config.yaml").write_text(yaml_text(config), encoding="utf-8")
        loaded = load_config(tmp_path / "config.yaml", [*settings, f"seed={options['--seed']}", "trials=1"])
        row = record.trials.set_index("trial").loc[trial].dropna()
        assert [dict(one) for one in loaded.enqueue] == [{name: row[name] for name in config["search"] if name in row}]
        assert trial_seed(loaded.seed, 0) == trial_seed(5, trial)
        assert (loaded.confirm.top, loaded.warm_start, options["--name"]) == (0, None, f"golden-trial-{trial}")


def test_values_are_of_the_config_s_types_and_a_branch_not_taken_is_left_out() -> None:
    record = study(trials=6, epochs=2)
    columns = {"wide": ["[256, 128]"] * 6, "size": [64.0] * 6, "sure": ["True"] * 6, "cycles": [3.0] * 5 + [None]}
    search = {
        **record.config["search"],
        "wide": {"choices": [[256, 128], [64]]},
        "size": {"choices": [32, 64]},
        "sure": {"choices": [True, False]},
        "cycles": {"low": 2, "high": 5, "type": "int"},
    }
    made = replace(record, config={**record.config, "search": search}, trials=record.trials.assign(**columns))
    first, last = configuration(made, 0), configuration(made, 5)
    assert first["wide"] == [256, 128]
    assert [(type(first[name]), first[name]) for name in ("size", "sure", "cycles")] == [
        (int, 64),
        (bool, True),
        (int, 3),
    ]
    assert isinstance(first["latent_dim"], int)
    assert "cycles" not in last


def test_without_a_finished_trial_there_is_none_to_train_again() -> None:
    assert [effect.split(" ")[0] for _, effect in commands(tidy(in_state("failed")))] == ["runs", "writes", "scores"]


def test_any_name_is_one_word_of_a_shell() -> None:
    for command, _ in commands(tidy(nasty())):
        words = shlex.split(command)
        assert words[0] == "vae-study"
        assert any(word in (NASTY, f"{NASTY}-trial-0") for word in words)


def test_seeds_and_commits_are_told_where_they_are_known() -> None:
    record = golden()
    assert [row[:2] for row in seed_grid(record).rows] == [
        ("study", "5"), ("sampler", "2"), ("split", "3"), ("further seeds", "1 to 3")
    ]  # fmt: skip
    bare = replace(record, config={}, confirmations=record.confirmations.head(0))
    assert [row[:2] for row in seed_grid(bare).rows] == [("study", "0"), ("sampler", "0")]
    assert code_grid(record.environment).rows == (("vae-study", "0f" * 20, "as it was committed"),)
    assert code_grid({"config_commit": "ab", "config_is_clean": "false"}).rows == (
        ("the study file", "ab", "with changes that were not committed"),
    )
    assert code_grid({"python": "3.11"}).rows == ()


def test_a_model_that_a_sweep_kept_is_reproduced_by_the_sweep() -> None:
    record = golden()
    assert record.champion is not None
    chosen = record.champion.trial
    kept = [2.0 if trial == chosen else None for trial in record.trials["trial"]]
    (line, effect) = commands(replace(record, trials=record.trials.assign(sweep=kept)))[1]
    assert (
        effect
        == f"trains trial 2, the sweep that kept trial {chosen}, alone again, with the seed that it had in the study"
    )
    assert shlex.split(line)[shlex.split(line).index("--seed") + 1] == str(seed_alone(5, 2))


def test_a_model_that_was_trained_again_is_reproduced_at_its_own_beta() -> None:
    record = golden()
    assert record.champion is not None
    chosen = record.champion.trial
    again = [2.0 if trial == chosen else None for trial in record.trials["trial"]]
    trials = record.trials.assign(retrains=again, beta=0.1 + record.trials["trial"] / 7)
    (line, effect) = commands(replace(record, trials=trials))[1]
    assert effect.startswith(f"trains trial {chosen} alone again")
    words = shlex.split(line)
    assert words[words.index("objective.kind=beta") - 1] == "--set"
    assert words[words.index(f"objective.beta={0.1 + chosen / 7!r}") - 1] == "--set"
    assert "objective.kind=beta" not in shlex.split(commands(record)[1][0])


def test_of_a_sweep_the_beta_that_it_came_to_is_not_set() -> None:
    record = study(trials=6, epochs=2)
    made = replace(record, trials=record.trials.assign(**{"objective.kind": ["sweep"] + ["beta"] * 5}))
    assert "beta" in configuration(made, 1)
    assert "beta" not in configuration(made, 0)
    assert configuration(made, 0) == {k: v for k, v in configuration(record, 0).items() if k != "beta"}
