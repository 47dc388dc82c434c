"""The most anomalous test rows, and what the chosen model did not expect of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.tables.explained import Pictures, Reason, columns_of, explained, pictures, reasons
from pipeline.report.tables.frames import Missing, texts
from pipeline.report.tables.images import image_shape
from pipeline.report.tables.scored import NO_CHAMPION, meaning, split_scores
from pipeline.tracking.record import ChampionRecord, StudyRecord

MOST_ROWS = 10
# Scores that look at the code only: what a feature costs in the reconstruction is no part of them.
OF_THE_CODE = ("kl", "latent_mahalanobis", "latent_knn")
NOT_EXPLAINED = "The chosen model stored no explanation of its highest scores."


@dataclass(frozen=True, kw_only=True)
class Top:
    """The test rows with the highest scores, the highest first.

    Attributes:
        score: Which score.
        rows: Columns `row` (in the source), `label` (as text), `anomaly`, `score`.
        reasons: For each of them, the columns with the largest cost above usual; none where they are images.
        pictures: Where they are images.
        in_user_units: Whether the reasons are in the user's units; else in scaled ones.
        missing: Why there are neither reasons nor pictures; empty where there are.
    """

    score: str
    rows: pd.DataFrame
    reasons: tuple[tuple[Reason, ...], ...]
    pictures: Pictures | None
    in_user_units: bool
    missing: str

    @property
    def of_the_code(self) -> bool:
        """Whether the score looks at the code only, so that the reasons are not what made it."""
        return self.score in OF_THE_CODE


def top(record: StudyRecord) -> Top | Missing:
    """The ten test rows that the chosen score puts highest; of equals, the first."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test = split_scores(record, champion, "test")
    if test.empty:
        return Missing("The chosen model stored no anomaly score of a test example.")
    highest = test.iloc[np.argsort(-test["score"].to_numpy(), kind="stable")[:MOST_ROWS]]
    found = explained(champion, highest.index.to_numpy(np.int64))
    shape = image_shape(record.data, found.inputs_TD.shape[1]) if found else None
    columns, in_user_units = ([], False) if found is None or shape else columns_of(record.data, found)
    return Top(
        score=meaning(record, champion),
        rows=_rows(champion, highest),
        reasons=tuple(reasons(columns, place) for place in range(len(highest))) if columns else (),
        pictures=pictures(found, shape) if found and shape else None,
        in_user_units=in_user_units,
        missing="" if found else NOT_EXPLAINED,
    )


def _rows(champion: ChampionRecord, highest: pd.DataFrame) -> pd.DataFrame:
    about = champion.scores[champion.scores["split"].eq("test")].reset_index(drop=True).loc[highest.index]
    label = texts(about["label"]) if "label" in about else [""] * len(about)
    rows = {"row": texts(about["row"]), "label": label, "anomaly": highest["anomaly"], "score": highest["score"]}
    return pd.DataFrame(rows).reset_index(drop=True)
