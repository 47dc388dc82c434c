"""Studies that have just begun, went wrong, or lack something; and what the report says of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from vae_study.metrics import SCORES
from vae_study.tracking.record import StudyRecord

from .detectors import compared, in_units
from .eventful import ACTIVE_UNITS, KL, eventful
from .families import confirmed, discrete, looked_into, mixed_families, without_rate
from .studies import CONFIG, study, table_study

NASTY = 'λ <script>alert(1)</script> | `x` "q" & $\\frac{1}$ 数'


def changed(**changes: Any) -> StudyRecord:
    return replace(study(trials=10, epochs=6), **changes)


def in_state(state: str, failure: str | None = None) -> StudyRecord:
    record = study(trials=10, epochs=6)
    trials = record.trials.assign(state=state, failure=failure)
    return replace(record, trials=trials, champion=None)


def collapsed() -> StudyRecord:
    record = study(trials=10, epochs=6)
    return replace(record, trials=record.trials.assign(**{"val/kl": 0.0, "val/active_units": 0.0, "val/auroc": 0.5}))


def without_metrics() -> StudyRecord:
    record = study(trials=10, epochs=6)
    lost = ["val/kl", "val/active_units", "val/auroc", "time/epoch_seconds", "train/kl_weight"]
    return replace(record, trials=record.trials.drop(columns=lost), history=record.history.drop(columns=lost))


def nasty() -> StudyRecord:
    record = study(trials=10, epochs=6)
    assert record.champion is not None
    inputs = record.champion.inputs_ND[:, :3]
    champion = replace(record.champion, inputs_ND=inputs, reconstructions_ND=inputs, samples_MD=inputs)
    champion = replace(champion, scores=champion.scores.rename(columns={"elbo": NASTY}), rule=NASTY)
    trials = record.trials.assign(**{"free_bits.kind": NASTY, "failure": NASTY, "state": "failed", NASTY: 1.0})
    trials.loc[:4, "state"] = "finished"
    config = {**CONFIG, "study": NASTY, "search": {**CONFIG["search"], NASTY: {"low": 1, "high": 2}}}
    data = {**record.data, "source": NASTY, "image_shape": None, "feature_names": [NASTY] * 3}
    return replace(
        record, name=NASTY, config=config, data=data, trials=trials, champion=champion, environment={NASTY: NASTY}
    )


def mixed() -> StudyRecord:
    record = study(trials=4, epochs=3)
    return replace(record, trials=record.trials.assign(a=[[1, 2], "x", None, 3], b=[True, "auto", 2.5, None]))


def constant() -> StudyRecord:
    record = study(trials=6, epochs=3)
    assert record.champion is not None
    flat = np.zeros_like(record.champion.inputs_ND)
    scores = record.champion.scores.assign(elbo=1.0)
    champion = replace(record.champion, inputs_ND=flat, reconstructions_ND=flat, samples_MD=flat, scores=scores)
    same = {"val/reconstruction": 3.0, "val/kl": 2.0, "beta": 1.0, "latent_dim": 4}
    return replace(record, trials=record.trials.assign(**same), champion=champion)


def bare() -> StudyRecord:
    record = study(trials=3, epochs=3)
    assert record.champion is not None
    none = np.empty((0, 0), np.float32)
    champion = replace(record.champion, scores=record.champion.scores.head(0), inputs_ND=none, reconstructions_ND=none,
                       input_is_anomaly_N=np.empty(0, bool), samples_MD=none)  # fmt: skip
    return replace(record, champion=champion, config={}, data={}, environment={}, reference={})


def empty() -> StudyRecord:
    return changed(trials=pd.DataFrame(), history=pd.DataFrame(), champion=None)


def infinite() -> StudyRecord:
    record = study(trials=10, epochs=6)
    trials = record.trials.copy()
    trials.loc[trials.index[:5], ["val/reconstruction", "val/elbo", "val/auroc"]] = [np.inf, -np.inf, np.nan]
    return replace(record, trials=trials)


def one_class(anomaly: bool) -> StudyRecord:
    record = study(trials=6, epochs=3)
    assert record.champion is not None
    scores = record.champion.scores.assign(anomaly=anomaly)
    return replace(record, champion=replace(record.champion, scores=scores))


def cut() -> StudyRecord:
    """Arrays of one row less than there are test examples, and walks that are no images of this size."""
    record = looked_into(study(trials=4, epochs=3))
    assert record.champion is not None
    assert record.champion.latent_map_N2 is not None
    assert record.champion.traversals_LSD is not None
    walks = record.champion.traversals_LSD[:, :, :5]
    place = record.champion.latent_map_N2[1:]
    champion = replace(record.champion, latent_map_N2=place, traversals_LSD=walks, interpolations_PSD=walks[0],
                       latent_variance_Z=np.ones(3))  # fmt: skip
    return replace(record, champion=champion)


def unknown() -> StudyRecord:
    record = looked_into(study(trials=4, epochs=3))
    assert record.champion is not None
    lost = {"latent_map_N2": np.full((411, 2), np.nan), "kl_per_dimension_R": np.full(8, np.nan),
            "traversals_LSD": np.full((2, 3, 64), np.nan, np.float32)}  # fmt: skip
    trials = record.trials.assign(**{"test/probe_accuracy": np.nan})
    return replace(record, trials=trials, champion=replace(record.champion, **lost))


def lost_seeds(all_of_them: bool) -> StudyRecord:
    """The chosen trial has lost one of its seeds, or all seeds of all trials have no values."""
    record = confirmed(study(trials=10, epochs=6))
    rows = record.confirmations.copy()
    metrics = [name for name in rows if "/" in str(name)]
    rows.loc[rows.index if all_of_them else rows.index[:1], metrics] = np.nan
    return replace(record, confirmations=rows)


def unlabelled_test() -> StudyRecord:
    """Anomalies in validation, so that a rule with labels chooses, and none in test."""
    record = study(trials=10, epochs=6)
    assert record.champion is not None
    scores = record.champion.scores
    normal = scores.assign(anomaly=scores["anomaly"] & scores["split"].eq("validation"))
    return compared(replace(record, champion=replace(record.champion, scores=normal)))


def huge() -> StudyRecord:
    """Rows that overflowed: their scores are the largest float32, their inputs and costs no better."""
    record = compared(table_study(trials=10, epochs=6))
    assert record.champion is not None
    scores, largest = record.champion.scores.copy(), np.finfo(np.float32).max
    scores.loc[scores.index % 15 == 0, list(SCORES)] = largest
    record = in_units(replace(record, champion=replace(record.champion, scores=scores)))
    assert record.champion is not None
    assert record.champion.top_inputs_TD is not None
    inputs = np.full_like(record.champion.top_inputs_TD, largest)
    costs = np.where(np.arange(len(inputs)) % 2, np.inf, largest)[:, None] * np.ones_like(inputs)
    champion = replace(record.champion, top_inputs_TD=inputs, top_reconstructions_TD=-inputs)
    return replace(record, champion=replace(champion, top_contributions_TD=costs.astype(np.float32)))


def huge_images() -> StudyRecord:
    record = compared(study(trials=6, epochs=3))
    assert record.champion is not None
    assert record.champion.top_inputs_TD is not None
    inputs = record.champion.top_inputs_TD.copy()
    inputs[::2] = np.finfo(np.float32).max
    champion = replace(record.champion, top_inputs_TD=inputs, top_contributions_TD=inputs * np.float32(0.9))
    return replace(record, champion=champion)


def one_row() -> StudyRecord:
    """A test split and a validation split of a single row each, so that nothing about detection is known."""
    record = study(trials=6, epochs=3, labels=False)
    assert record.champion is not None
    return compared(replace(record, champion=replace(record.champion, scores=record.champion.scores.iloc[[0, 411]])))


def strange_labels() -> StudyRecord:
    record = in_units(compared(table_study(trials=6, epochs=3)))
    assert record.champion is not None
    labels = [NASTY, "a\nb\n\nc", "", "x" * 500, "| --- |", " "] * 137
    champion = replace(record.champion, scores=record.champion.scores.assign(label=labels, row=labels))
    data = {**record.data, "notes": [NASTY, "line\nbreak"]}
    return replace(record, champion=champion, data=data)


def garbled() -> StudyRecord:
    """What the record keeps of the data and of the choices is of no version that the report knows."""
    record = compared(table_study(trials=6, epochs=3))
    data = {**record.data, "preprocessing": {"numbers": 3}, "notes": "one sentence"}
    choices = pd.DataFrame({"rule": ["val/elbo", NASTY, "without_model"], "auroc": [0.9, np.nan, "x"]})
    return replace(record, data=data, choices=choices)


def infeasible() -> StudyRecord:
    """No finished trial keeps the constraints, so that all were chosen among."""
    record = confirmed(compared(eventful(study(trials=10, epochs=6), ({**KL, "at_most": -1.0},))))
    assert not record.trials["feasible"].any()
    return record


def failing() -> StudyRecord:
    """More reasons to fail than anyone reads, some of them no line at all."""
    record = eventful(study(trials=20, epochs=6))
    reasons = [NASTY, "x" * 999, "\n\n", None, "a | b", "\x1b[31mred\x1b[0m", "\x00\u202e", *"abcdefg"]
    trials = record.trials.astype({"reason": object})
    trials.loc[6:19, ["state", "failure"]] = ["failed", "error"]
    trials.loc[6:19, "reason"] = reasons
    return replace(record, trials=trials)


def interrupted() -> StudyRecord:
    record = eventful(study(trials=10, epochs=6))
    trials = record.trials.assign(state=["finished"] * 4 + ["waiting"] * 4 + ["running"] * 2)
    return replace(record, trials=trials, champion=None)


def many() -> StudyRecord:
    """So many trials that a page can neither draw nor print them all, most of them on the frontier."""
    record = study(trials=40, epochs=3)
    frames = {
        name: pd.concat([frame.assign(trial=frame["trial"] + 40 * i) for i in range(125)], ignore_index=True)
        for name, frame in (("trials", record.trials), ("history", record.history))
    }
    place = np.arange(5000) * 0.6180339887 % 1
    steps = {"beta": 0.05 * 400**place, "val/kl": 20 * (1 - place), "val/reconstruction": 15 + 10 * place}
    trials = frames["trials"].assign(**steps, **{"val/elbo": -15 - 10 * place - 20 * (1 - place)})
    config = {**CONFIG, "search": {name: CONFIG["search"][name] for name in ("beta", "latent_dim")}}
    return replace(record, config=config, trials=trials, history=frames["history"])


def just_begun() -> StudyRecord:
    """Of this version, with constraints and early stopping, and with no trial yet."""
    record = eventful(study(trials=1, epochs=2))
    return replace(record, trials=record.trials.head(0), history=record.history.head(0), champion=None)


ODD: dict[str, tuple[Callable[[], StudyRecord], str]] = {
    "one trial": (lambda: study(trials=1, epochs=4), "1 of 1 finished trial is on the frontier"),
    "none finished": (lambda: in_state("pruned"), "No trial is on the frontier yet"),
    "all failed": (lambda: in_state("failed", "diverged"), "10 of 10 trials failed"),
    "running": (lambda: in_state("running"), "10 trials still running"),
    "no labels": (lambda: study(trials=10, epochs=6, labels=False), "labelled anomalies are needed"),
    "collapsed": (collapsed, "collapsed (no active unit"),
    "missing metrics": (without_metrics, "No trial has measured val/reconstruction and val/kl"),
    "nasty names": (nasty, "λ <script>alert(1)</script>"),
    "mixed parameters": (mixed, "finished"),
    "constant": (constant, "finished"),
    "bare": (bare, "no reference point"),
    "empty": (empty, "No trial has started yet."),
    "infinite": (infinite, "finished"),
    "deterministic code": (lambda: without_rate(trials=10, epochs=6), "of an autoencoder on digits"),
    "one objective and no labels": (
        lambda: without_rate(("val/reconstruction",), trials=10, epochs=6, labels=False),
        "the chosen trial’s mean validation reconstruction is",
    ),
    "discrete": (lambda: discrete(trials=10, epochs=6), "37.2 of 64 entries"),
    "families": (lambda: mixed_families(trials=10, epochs=6), "2 model families (a variational autoencoder and an"),
    "one dimension and one label": (
        lambda: looked_into(study(trials=4, epochs=3), labels=1, dimensions=1),
        "1 of 1 is active",
    ),
    "arrays of other sizes": (cut, "stored no map of its code"),
    "nothing finite in the code": (unknown, "stored no KL of its latent dimensions"),
    "one further seed": (lambda: confirmed(study(trials=10, epochs=6), top=2, seeds=1), "Over 2 seeds"),
    "seeds without values": (lambda: lost_seeds(all_of_them=True), "trained once"),
    "seeds with a value lost": (lambda: lost_seeds(all_of_them=False), "Over 3 seeds"),
    "no anomaly in test": (unlabelled_test, "It has no test AUROC: no labelled anomaly among the examples"),
    "no labels, compared": (
        lambda: compared(study(trials=10, epochs=6, labels=False)),
        "was chosen by validation ELBO. Its anomaly score is negative ELBO",
    ),
    "huge scores": (huge, "overflow (3.4e+38)"),
    "huge images": (huge_images, "The rows of the table"),
    "one row": (one_row, "no labelled anomaly among the examples"),
    "strange labels": (strange_labels, "Values are in the units of the data"),
    "garbled": (garbled, "Values are as the network sees them, scaled"),
    "deterministic code, compared": (
        lambda: compared(without_rate(trials=10, epochs=6)),
        "the scores that contain a KL are left out",
    ),
    "none feasible": (infeasible, "No finished trial satisfies the constraints (validation KL at most −1 nats). Every"),
    "none feasible, one objective": (
        lambda: eventful(
            without_rate(("val/reconstruction",), trials=10, epochs=6), ({**ACTIVE_UNITS, "at_least": 99},)
        ),
        "No finished trial satisfies the constraints, so there is no hypervolume yet.",
    ),
    "many reasons": (failing, "other reasons"),
    "interrupted": (interrupted, "4 trials waiting to be resumed"),
    "5,000 trials": (many, "Of the searched parameters, beta matters most"),
    "just begun": (just_begun, "No trial has started yet."),
    "only normals": (lambda: one_class(False), "No anomaly is labelled in the test split."),
    "only anomalies": (lambda: one_class(True), "not known on the test split: no normal example."),
}


def odd(name: str) -> StudyRecord:
    return ODD[name][0]()
