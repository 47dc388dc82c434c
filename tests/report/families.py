"""Made-up studies of what a plain one does not have: further seeds, a look into the code, families without a KL."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from vae_study.selection.ranking import ranked
from vae_study.tracking.record import ChampionRecord, StudyRecord

from .studies import CONFIG, study

RATES = ("train/kl", "val/kl", "val/elbo", "test/kl", "test/elbo", "test/iwae", "train/kl_weight")


def confirmed(record: StudyRecord, top: int = 4, seeds: int = 3) -> StudyRecord:
    """The best trials trained again with further seeds."""
    assert record.champion is not None
    random, rule = np.random.default_rng(5), record.champion.rule
    finished = record.trials[record.trials["state"] == "finished"]
    best = finished.sort_values(rule, ascending=rule == "val/reconstruction").head(top)
    if record.champion.score is not None:
        picks = ranked(finished, rule, record.config["anomaly"]["score"])[:top]
        best = finished.set_index("trial", drop=False).loc[[pick.trial for pick in picks]]
    metrics = [name for name in best.columns if name.startswith(("val", "test")) and best[name].notna().all()]
    rows = [
        {"trial": row["trial"], "seed": seed, **{m: float(row[m]) * random.normal(0.99, 0.008) for m in metrics}}
        for _, row in best.iterrows()
        for seed in range(1, seeds + 1)
    ]
    config = {**record.config, "confirm": {"top": top, "seeds": seeds}}
    return replace(record, config=config, confirmations=pd.DataFrame(rows))


def looked_into(record: StudyRecord, labels: int = 9, dimensions: int = 8) -> StudyRecord:
    """With the arrays and metrics that describe the chosen model's code."""
    assert record.champion is not None
    config = {**record.config, "diagnostics": {"latent_map": "pca", "probe_labels": 0.1}}
    trials = record.trials.assign(**{"test/probe_accuracy": 0.9132})
    return replace(record, config=config, trials=trials, champion=_with_code(record.champion, labels, dimensions))


def _with_code(champion: ChampionRecord, labels: int, dimensions: int) -> ChampionRecord:
    random = np.random.default_rng(6)
    label = np.where(champion.scores["anomaly"], labels, champion.scores["row"] % max(labels, 1)).astype(str)
    scores = champion.scores.assign(label=label)
    test = scores[scores["split"] == "test"]
    angle = test["label"].astype(int).to_numpy() / (labels + 1) * 2 * np.pi
    middle = np.column_stack([np.cos(angle), np.sin(angle)]) * np.where(test["anomaly"], 1.2, 3)[:, None]
    kl = np.where(np.arange(dimensions) % 3 == 2, 0.003, random.gamma(6, 0.4, dimensions))
    images = champion.inputs_ND
    share = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    walks = np.stack([(1 - share) * images[i] + share * images[-1 - i] for i in range(8)])
    return replace(
        champion,
        scores=scores,
        kl_per_dimension_R=kl,
        latent_mean_Z=random.normal(0, 0.1, dimensions),
        latent_variance_Z=np.where(kl > 0.01, 1 - np.exp(-2 * kl), 0.002),
        latent_map_N2=middle + random.normal(0, 0.6, middle.shape),
        traversals_LSD=walks,
        interpolations_PSD=walks[:4],
    )


def without_rate(
    objectives: tuple[str, ...] = ("val/reconstruction", "val/squared_error"), **options: Any
) -> StudyRecord:
    """Point codes: no KL, no ELBO, no prior."""
    record = looked_into(study(**options))
    assert record.champion is not None
    goals = [{"metric": metric, "direction": "minimize"} for metric in objectives]
    config = {**record.config, "objectives": goals, "champion": {"by": "val/reconstruction"}}
    search = {"latent_dim": CONFIG["search"]["latent_dim"]}
    config |= {"model": {**CONFIG["model"], "family": "autoencoder"}, "search": search}
    trials, history = (
        frame.drop(columns=[*RATES, "beta"], errors="ignore") for frame in (record.trials, record.history)
    )
    trials["val/squared_error"] += (trials["trial"] * 37 % 11) * 0.2
    finished = trials[trials["state"] == "finished"]
    best = int(finished.loc[finished["val/reconstruction"].idxmin(), "trial"])
    champion = replace(
        record.champion, trial=best, rule="val/reconstruction", samples_MD=np.zeros((0, 64), np.float32),
        kl_per_dimension_R=np.zeros(0),
    )  # fmt: skip
    reference = dict(zip(objectives, (60.0, 12.0), strict=False))
    record = replace(record, config=config, trials=trials, history=history, champion=champion, reference=reference)
    return confirmed(record)


def discrete(**options: Any) -> StudyRecord:
    """Discrete codes: the KL is the same for every example and every code."""
    record = looked_into(study(**options))
    assert record.champion is not None
    family = {"family": "vector_quantized", "codebook": {"size": 64, "dim": 4}}
    trials = record.trials.assign(**{"val/kl": np.log(64) * record.trials["latent_dim"]})
    trials = trials.assign(**{"val/elbo": -trials["val/reconstruction"] - trials["val/kl"]})
    trials = trials.assign(**{"test/perplexity": 37.2, "val/perplexity": 36.0, "val/collapsed": 0.0})
    champion = replace(record.champion, kl_per_dimension_R=np.full(8, np.log(64)))
    config = {**record.config, "model": {**CONFIG["model"], **family}}
    return replace(record, config=config, trials=trials, champion=champion)


def mixed_families(**options: Any) -> StudyRecord:
    """A search over families of which one has no rate."""
    record = without_rate(**options)
    random = np.random.default_rng(7)
    family = random.choice(["vae", "autoencoder"], len(record.trials))
    kl = np.where(family == "vae", random.uniform(3, 20, len(record.trials)), np.nan)
    trials = record.trials.assign(
        family=family, **{"val/kl": kl, "val/elbo": -record.trials["val/reconstruction"] - kl}
    )
    config = {**record.config, "search": {"family": {"choices": ["vae", "autoencoder"]}, **record.config["search"]}}
    return replace(record, config=config, trials=trials)
