"""Compare what each rule selects, the ensembles and the detector without a model, on the same rows."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.anomaly.conformal import TailScale
from vae_study.anomaly.detection import auroc, interval, operating_points
from vae_study.anomaly.paired import ScoredRows, verdict
from vae_study.anomaly.scores import reference_rows
from vae_study.metrics import AREA_LABELS, BASELINE, BASELINES, RULES, SCORES, difference_columns
from vae_study.selection.ranking import Selection, ranked

if TYPE_CHECKING:
    from vae_study.anomaly.input_ensemble import InputEnsemble
    from vae_study.data import Dataset

Floats = NDArray[np.float64]
#: The score that each trial of an ensemble without labels votes with: what the model cannot reconstruct.
VOTE = "residual_mahalanobis"


def votes(trials: Sequence[int], score: str | None = None) -> tuple[Selection, ...]:
    """Each of some trials with the score VOTE, or with the one that a study prescribes if only images have that."""
    vote = score if score is not None and SCORES[score].of_images else VOTE
    return tuple(Selection(trial, vote, float("nan")) for trial in trials)


def is_normal(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows of a trial's scores are normal validation rows, to which scores are standardized."""
    return (frame["split"].eq("validation") & ~frame["anomaly"]).to_numpy()


def combined(frames: Mapping[int, pd.DataFrame], selections: Sequence[Selection], raw_N: Floats | None) -> Floats:
    """The mean of several scores on their TailScale, one value per row of the frames; higher is more anomalous.

    Args:
        frames: Each trial's scores, all with the same rows: `split`, `anomaly` and the scores.
        selections: What is averaged, at least one.
        raw_N: The scores of the detector without a model, which are added, so that the mean counts as one more of its
            members; None leaves them out.
    """
    is_normal_N = is_normal(frames[selections[0].trial])
    columns = [frames[one.trial][one.score].to_numpy(np.float64) for one in selections]
    mean_N = np.asarray(np.mean([TailScale.of(column[is_normal_N])(column) for column in columns], axis=0))
    return mean_N if raw_N is None else mean_N + raw_N


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The detector without a model.

    Attributes:
        ensemble: Fitted to the training rows, its scales to the normal validation rows.
        scores: One row per validation or test row, in the order in which trials score them: `split`, `row`, `label`,
            `anomaly` and `without_model`.
    """

    ensemble: "InputEnsemble"
    scores: pd.DataFrame

    @classmethod
    def of(cls, data: "Dataset") -> Self:
        """Score the validation and test rows of a study."""
        from vae_study.anomaly.input_ensemble import INPUT_REFERENCE_ROWS, REFERENCE_VALUES, InputEnsemble
        from vae_study.data.pixels import slices_of

        train_ND = data.splits["train"].x_ND
        most = min(INPUT_REFERENCE_ROWS, max(REFERENCE_VALUES // train_ND.shape[1], 2))
        reference_RD = train_ND[reference_rows(len(train_ND), most)]
        held_out_MD = data.splits["validation"].normal_sample()
        ensemble = InputEnsemble.fit(reference_RD.astype(np.float64), held_out_MD.astype(np.float64), data.image_shape)
        frames = []
        for name in ("validation", "test"):
            split = data.splits[name]
            x_ND = split.x_ND
            score_N = np.concatenate([ensemble.score(x_ND[rows].astype(np.float64)) for rows in slices_of(x_ND)])
            frames.append(pd.DataFrame({**split.about(name), BASELINE: score_N}))
        return cls(ensemble=ensemble, scores=pd.concat(frames, ignore_index=True))


#: What a table of scores says of a row beside its scores; only images have files.
ABOUT = ("split", "row", "label", "anomaly", "file")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that scores rows: a selected trial, an ensemble, or the baseline.

    Attributes:
        name: The rule, one of `metrics.ENSEMBLES`, or `without_model`.
        needs_labels: Whether labelled validation anomalies took part in the choice.
        selections: Its trials with their scores; none for the baseline.
        with_baseline: Whether the detector without a model is part of it.
    """

    name: str
    needs_labels: bool
    selections: tuple[Selection, ...]
    with_baseline: bool = False

    @property
    def is_combined(self) -> bool:
        """Whether it averages scores on a common scale; otherwise it has one score, which counts as it is."""
        return len(self.selections) > 1 or self.with_baseline

    def score(self, frames: Mapping[int, pd.DataFrame], raw_N: Floats | None) -> Floats:
        """Its score of each row, higher is more anomalous.

        Args:
            frames: The scores of its trials, one row per validation or test row.
            raw_N: The scores of the detector without a model for the same rows; needed if it is part of it.
        """
        if self.with_baseline:
            assert raw_N is not None, "the detector without a model takes part"
        if not self.selections:
            return np.asarray(raw_N)
        if self.is_combined:
            return combined(frames, self.selections, raw_N if self.with_baseline else None)
        return frames[self.selections[0].trial][self.selections[0].score].to_numpy(np.float64)


def candidates(
    trials: pd.DataFrame,
    frontier: Sequence[int],
    rules: tuple[str, str],
    score: str | None,
    members: int,
    classes: tuple[int, int] | None = None,
) -> list[Candidate]:
    """Everything that a finished study can detect anomalies with.

    Args:
        trials: One row per trial.
        frontier: The trials of the frontier.
        rules: Those that rank trials for the ensemble of the best that needs no label, and for the one that needs some.
        score: The anomaly score that the study prescribes, or None.
        members: How many trials an ensemble of the best has.
        classes: How many anomalies and normal rows validation has, see `ranked`.
    """
    ranks = {rule: ranked(trials, rule, score, classes) for rule in RULES}
    singles = [
        Candidate(name=rule, needs_labels=RULES[rule].needs_labels, selections=(ranks[rule][0],))
        for rule in RULES
        if ranks[rule]
    ]
    label_free, labelled = rules
    best = votes([one.trial for one in ranks[label_free][:members]], score)
    groups = (
        ("ensemble_best", False, best),
        ("ensemble_frontier", False, votes(frontier, score)),
        ("ensemble_labels", True, tuple(ranks[labelled][:members])),
    )
    ensembles = [
        Candidate(name=name, needs_labels=labels, selections=selections, with_baseline=not labels)
        for name, labels, selections in groups
        if selections
    ]
    return [*singles, *ensembles, Candidate(name=BASELINE, needs_labels=False, selections=(), with_baseline=True)]


def compare(
    found: Sequence[Candidate],
    frame_of: Callable[[int], pd.DataFrame],
    baseline: pd.DataFrame,
    chosen: str | None = None,
    alarms: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure candidates on validation and test.

    Args:
        found: The candidates.
        frame_of: A trial's scores: one row per validation or test row, all in one order.
        baseline: The same rows with the column `without_model`.
        chosen: The name of the candidate that the study chose.
        alarms: How many test rows may be flagged.

    Returns:
        A table with one row per candidate: `rule`, `needs_labels`, `trial` (missing unless it has one selection),
        `score`, `value` (of the rule's metric), `selections` (JSON: trial and score of each), `val_auroc`, and of test
        `auroc`, `auroc_low`, `auroc_high` and `operating_points`, NaN without labels. Its columns
        `metrics.difference_columns` say how much larger each of AREA_LABELS is than that of `chosen` and of the
        baseline.
        And each candidate's scores, one row per row of `baseline` and one column per candidate.
    """
    frames = {one.trial: frame_of(one.trial) for candidate in found for one in candidate.selections}
    raw_N = baseline[BASELINE].to_numpy(np.float64)
    scores = {candidate.name: candidate.score(frames, raw_N) for candidate in found}
    is_test_N = baseline["split"].eq("test").to_numpy()
    is_anomaly_T = baseline["anomaly"].to_numpy(np.bool_)[is_test_N]
    tested = {name: ScoredRows(is_anomaly_T, score_N[is_test_N], alarms) for name, score_N in scores.items()}
    others = {"baseline": ScoredRows(is_anomaly_T, raw_N[is_test_N], alarms)}
    if chosen in tested:
        others["chosen"] = tested[chosen]
    table = pd.DataFrame(
        _row(one, scores[one.name], baseline, alarms) | _differences(tested[one.name], others) for one in found
    )
    return table, pd.concat([baseline.filter(items=ABOUT), pd.DataFrame(scores, index=baseline.index)], axis=1)


def baseline_verdicts(rows: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    """How the chosen model compares with the baseline: what it is better, worse or a tie in.

    Args:
        rows: Of the table that `compare` gives.

    Returns:
        Such as "worse in average precision [-0.270, -0.100]", with the paired interval of the difference to the
        baseline; none where it is not known.
    """
    words = {"better": "better in", "worse": "worse in", "tie": "a tie in"}
    baseline: Mapping[Any, Any] = next((one for one in rows if one["rule"] in BASELINES), {})
    found = []
    for metric, label in AREA_LABELS.items():
        _, low, high = (baseline.get(column, float("nan")) for column in difference_columns(metric, "chosen"))
        if word := verdict(-high, -low):
            # A zero has no sign.
            found.append(f"{words[word]} {label} [{0.0 - high:.3f}, {0.0 - low:.3f}]")
    return tuple(found)


def _differences(tested: ScoredRows, others: Mapping[str, ScoredRows]) -> dict[str, float]:
    """How much better than each of others it is, by each area, with the paired interval."""
    found: dict[str, float] = {}
    for reference, other in others.items():
        for metric in AREA_LABELS:
            one = tested.minus(other, metric)
            columns = difference_columns(metric, reference)
            found |= dict(zip(columns, (one.value, one.low, one.high), strict=True))
    return found


def _row(candidate: Candidate, score_N: Floats, rows: pd.DataFrame, alarms: int) -> dict[str, object]:
    single = candidate.selections[0] if len(candidate.selections) == 1 else None
    parts = {split: rows["split"].eq(split).to_numpy() for split in ("validation", "test")}
    is_anomaly_N = rows["anomaly"].to_numpy(np.bool_)
    test = is_anomaly_N[parts["test"]], score_N[parts["test"]]
    low, high = interval("auroc", *test)
    return {
        "rule": candidate.name,
        "needs_labels": candidate.needs_labels,
        "trial": single.trial if single else None,
        "score": single.score if single else None,
        "value": single.value if single else float("nan"),
        "selections": json.dumps([[one.trial, one.score] for one in candidate.selections]),
        "val_auroc": auroc(is_anomaly_N[parts["validation"]], score_N[parts["validation"]]),
        "auroc": auroc(*test),
        "auroc_low": low,
        "auroc_high": high,
        **operating_points(*test, alarms),
    }
