"""Made-up studies that compared their detectors: each score of each trial, what each rule takes, top rows explained."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer, load_digits
from vae_study.anomaly.detection import auroc, interval, operating_points
from vae_study.config.data import DataConfig
from vae_study.data import Preprocessing
from vae_study.data.table import Table
from vae_study.metrics import BASELINE, SCORES
from vae_study.report.frontier import frontier
from vae_study.selection.comparison import ABOUT, candidates, compare
from vae_study.selection.ranking import choose
from vae_study.tracking.record import ChampionRecord, StudyRecord

# How far apart each score puts anomalies and normals, in parts of how far the model could.
GAIN = dict(zip(SCORES, (0.9, 1.0, 0.25, 1.0, 0.95, 1.3, 0.4, -0.2, 1.15), strict=True))
TOP = 10
CONFIG: dict[str, Any] = {"source": "breast_cancer", "missing": "median", "categories": {"rare": 0.0}}
Rows = NDArray[np.float32]


def compared(record: StudyRecord, score: str | None = None, by: str | None = None) -> StudyRecord:
    """The same study with all eight scores, from which it chose anew, and without what it had stored of another choice.

    Args:
        record: A study.
        score: The anomaly score that the config insists on.
        by: The champion's rule; by default as it was.
    """
    assert record.champion is not None
    rule = by or record.champion.rule
    rows = record.champion.scores.filter(items=ABOUT).reset_index(drop=True)
    finished = record.trials[record.trials["state"] == "finished"]
    frames = {int(row["trial"]): scored(rows, row) for row in finished.to_dict("records")}
    trials = with_areas(record.trials, frames, score or "elbo")
    config = {**record.config, "anomaly": {"score": score}, "champion": {"by": rule}}
    best = choose(trials, rule, score)
    assert best is not None
    members = frontier(replace(record, trials=trials))["trial"].tolist()
    raw = rows.assign(**{BASELINE: scored(rows, {"trial": 9999, "val/auroc": 0.86})["reconstruction"]})
    choices, scores = compare(
        candidates(trials, members, ("val/elbo", "val/auroc"), score, 5), frames.__getitem__, raw, rule
    )
    champion = replace(record.champion, trial=best.trial, rule=rule, score=best.score, scores=frames[best.trial])
    return replace(
        record, config=config, trials=trials, choices=choices, detectors=scores, champion=explained(champion, images_of)
    )


def scored(rows: pd.DataFrame, trial: dict[str, Any]) -> pd.DataFrame:
    """Scores of a trial about as good as its validation AUROC says."""
    random, shared = np.random.default_rng(int(trial["trial"])), np.random.default_rng(77)
    shift = np.sqrt(2) * norm.ppf(np.clip(trial.get("val/auroc", 0.8), 0.05, 0.97))
    common = shared.normal(size=len(rows))
    columns = {
        name: 20
        * np.exp(0.25 * (0.9 * common + 0.436 * random.normal(size=len(rows)) + shift * gain * rows["anomaly"]))
        for name, gain in GAIN.items()
    }
    return rows.assign(**columns)


def with_areas(trials: pd.DataFrame, frames: dict[int, pd.DataFrame], followed: str) -> pd.DataFrame:
    """What trials measure of their scores."""
    lost = ["val/auroc", "test/auroc", "test/auroc_low", "test/auroc_high", "test/auprc"]
    rows = [{"trial": trial, **areas(frame, followed)} for trial, frame in frames.items()]
    kept = trials.drop(columns=[name for name in lost if name in trials])
    return kept.merge(pd.DataFrame(rows).dropna(axis=1, how="all"), on="trial", how="left")


def areas(frame: pd.DataFrame, followed: str) -> dict[str, float]:
    split = {short: frame[frame["split"] == name] for short, name in (("val", "validation"), ("test", "test"))}
    found = {
        f"{short}_auroc/{score}": auroc(part["anomaly"].to_numpy(), part[score].to_numpy())
        for short, part in split.items()
        for score in SCORES
    }
    test = split["test"]["anomaly"].to_numpy(), split["test"][followed].to_numpy()
    low, high = interval("auroc", *test)
    pseudo = {f"pseudo_auroc/{name}": 0.6 + 0.2 * gain + frame[name].iloc[0] / 1000 for name, gain in GAIN.items()}
    return {
        **found,
        **pseudo,
        "val/auroc": found[f"val_auroc/{followed}"],
        "test/auroc": found[f"test_auroc/{followed}"],
        "test/auroc_low": low,
        "test/auroc_high": high,
        "test/auprc": operating_points(*test)["average_precision"],
    }


def explained(champion: ChampionRecord, inputs_of: Any) -> ChampionRecord:
    """The ten highest rows of each score with what a too plain model makes of them."""
    test = champion.scores[champion.scores["split"] == "test"]
    highest = [np.argsort(-test[name].to_numpy(), kind="stable")[:TOP] for name in SCORES]
    place_T = np.unique(np.concatenate(highest))
    inputs_TD, usual_D = inputs_of(place_T)
    back_TD = (0.3 * inputs_TD + 0.7 * usual_D).astype(np.float32)
    return replace(
        champion,
        top_place_T=place_T,
        top_inputs_TD=inputs_TD,
        top_reconstructions_TD=back_TD,
        top_contributions_TD=(2 * (inputs_TD - back_TD) ** 2 - 0.05).astype(np.float32),
    )


def images_of(place_T: NDArray[np.int64]) -> tuple[Rows, Rows]:
    images = (load_digits().data / 16).astype(np.float32)
    return images[place_T], images.mean(axis=0)


def in_units(record: StudyRecord, **config: Any) -> StudyRecord:
    """A compared study of a table, whose record keeps the way back to the user's units."""
    assert record.champion is not None
    table = tumours()
    fitted = Preprocessing.fit(table, np.arange(200, 400), DataConfig(**{**CONFIG, **config}))
    x_ND = fitted.transform(table)
    data = {
        **record.data,
        "features": x_ND.shape[1],
        "feature_names": list(fitted.feature_names),
        "preprocessing": fitted.plain(),
        "notes": ["column 'id' is left out: all training rows have 1", *fitted.notes],
    }
    champion = explained(record.champion, lambda place_T: (x_ND[place_T], x_ND[200:400].mean(axis=0)))
    return replace(record, data=data, champion=champion)


def tumours() -> Table:
    """Thirty numbers, some of them missing, and a column of text."""
    data = load_breast_cancer()
    x_ND = data.data.astype(np.float32)
    x_ND[::7, 4] = np.nan
    size_N = np.digitize(x_ND[:, 3], np.quantile(x_ND[:, 3], [0.3, 0.8])).astype(np.int32)
    return Table(
        x_ND=x_ND,
        feature_names=tuple(map(str, data.feature_names)),
        code_NC=size_N[:, None],
        category_names=("size <b>",),
        categories=(("large\nand | wide", "middle", "small"),),
        where="tumours",
    )
