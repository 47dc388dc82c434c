"""What the chosen model's code looks like: where the test examples lie in it, and what each dimension costs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.tables.frames import Floats, Missing, has_rate, row_of, scalar, setting, texts
from pipeline.report.tables.scored import NO_CHAMPION
from pipeline.tracking.record import ChampionRecord, StudyRecord

# As in the study: a dimension is active if its posterior mean varies by more than this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
MOST_LABELS = 12


@dataclass(frozen=True, kw_only=True)
class LatentMap:
    """The posterior means of the test examples, laid flat.

    Attributes:
        points: A row an example: `x`, `y`, `anomaly`, `label` (as text; empty where the labels are not told apart).
        labels: The labels of the normal examples, where they are at least two and at most MOST_LABELS.
        method: "pca", "tsne" or empty where unknown.
        on_a_line: Whether all lie on a line, as those of a single latent dimension do.
        left_out: Examples without a finite place.
    """

    points: pd.DataFrame
    labels: tuple[str, ...]
    method: str
    on_a_line: bool
    left_out: int


@dataclass(frozen=True, kw_only=True)
class LatentUse:
    """What each latent dimension costs, the dearest first.

    Attributes:
        dimension_R: Numbers of the dimensions, from 1.
        kl_nats_R: KL of each, nats per example, over the test's normal examples.
        is_active_R: Whether its posterior mean varies; None where that is unknown.
    """

    dimension_R: NDArray[np.int64]
    kl_nats_R: Floats
    is_active_R: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class CodeFacts:
    """Numbers about the chosen model's code; NaN where unknown.

    Attributes:
        probe_accuracy: Share of the normal test examples whose label a linear classifier on the posterior means finds.
        probe_share: Share of the training labels that it was shown.
        perplexity: How many codebook entries are in use, as exp of their usage's entropy: on test, else on validation.
        codebook_size: Entries that there are; 0 where unknown.
    """

    probe_accuracy: float
    probe_share: float
    perplexity: float
    codebook_size: int


def code_facts(record: StudyRecord) -> CodeFacts:
    """What the chosen trial measured of its code."""
    trial = record.champion.trial if record.champion else -1
    row = row_of(record, trial)
    perplexity = [scalar(row, f"{split}/perplexity") for split in ("test", "val")]
    share = (record.spec.get("diagnostics") or {}).get("probe_labels")
    return CodeFacts(
        probe_accuracy=scalar(row, "test/probe_accuracy"),
        probe_share=np.nan if share is None else float(share),
        perplexity=perplexity[0] if np.isfinite(perplexity[0]) else perplexity[1],
        codebook_size=int(setting(record, trial, "codebook.size") or 0),
    )


def latent_map(record: StudyRecord) -> LatentMap | Missing:
    """Normal examples by label where these are few, and anomalies."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    place_N2 = np.asarray(() if champion.latent_map_N2 is None else champion.latent_map_N2, np.float64)
    test = champion.scores[champion.scores["split"].eq("test")].reset_index(drop=True)
    known_N = np.isfinite(place_N2).all(axis=1) if place_N2.shape == (len(test), 2) else np.zeros(0, dtype=bool)
    if not known_N.any():
        return Missing("The chosen model stored no map of its code.")
    points = pd.DataFrame({"x": place_N2[:, 0], "y": place_N2[:, 1], "anomaly": test["anomaly"].eq(True)})
    points["label"] = texts(test["label"]) if "label" in test else ""
    points = points.loc[np.flatnonzero(known_N)].reset_index(drop=True)
    labels = _labels(points)
    return LatentMap(
        points=points if labels else points.assign(label=""),
        labels=labels,
        method=str((record.spec.get("diagnostics") or {}).get("latent_map") or ""),
        on_a_line=bool(np.ptp(points["y"]) == 0),
        left_out=int((~known_N).sum()),
    )


def _labels(points: pd.DataFrame) -> tuple[str, ...]:
    """Numbers in their order, then words in theirs."""
    found = sorted(set(points.loc[~points["anomaly"], "label"]), key=lambda text: (_number(text), text))
    return tuple(found) if 2 <= len(found) <= MOST_LABELS else ()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def latent_use(record: StudyRecord) -> LatentUse | Missing:
    """The KL of each dimension; for discrete codes, where all cost the same, that is said instead."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    kl_R = np.asarray(() if champion.kl_per_dimension_R is None else champion.kl_per_dimension_R, np.float64)
    if not has_rate(record, champion.trial):
        return Missing("A point code has no rate, so there is no KL to share out over its dimensions.")
    if not np.isfinite(kl_R).any():
        return Missing("The chosen model stored no KL of its latent dimensions.")
    if setting(record, champion.trial, "family") == "vector_quantized":
        return Missing(_discrete(kl_R))
    order = np.argsort(np.where(np.isfinite(kl_R), -kl_R, np.inf), kind="stable")[: np.isfinite(kl_R).sum()]
    is_active = _active(champion, len(kl_R))
    return LatentUse(
        dimension_R=order + 1, kl_nats_R=kl_R[order], is_active_R=None if is_active is None else is_active[order]
    )


def _discrete(kl_R: Floats) -> str:
    return (
        f"Each of the {len(kl_R)} discrete codes costs {np.nanmean(kl_R):.2f} nats whatever the example, the logarithm "
        "of the codebook’s size, so there is no KL to compare."
    )


def _active(champion: ChampionRecord, dimensions: int) -> NDArray[np.bool_] | None:
    variance_Z = champion.latent_variance_Z
    if variance_Z is None or len(variance_Z) != dimensions:
        return None
    return np.asarray(np.asarray(variance_Z) > ACTIVE_VARIANCE)
