"""A study as plain frames and arrays, without MLflow, as a report reads it; and a single run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.tracking import schema

TRIAL_COLUMNS = ["trial", "state", "failure", "reason", "feasible", "preemptions", "device", "run_id"]
HISTORY_COLUMNS = ["trial", "epoch"]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The metrics of one epoch; `timestamp_ms`, when it ended, is made once so that a replay writes the same point."""

    epoch: int
    timestamp_ms: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ChampionRecord:
    """The chosen trial and what it stored at its end.

    Attributes:
        trial: The trial's number.
        rule: How it was chosen, such as "val/auroc".
        score: The anomaly score that it was chosen with.
        scores: One row per example of the validation and test splits: `split` ("validation" or "test"),
            `row` (in the source), `label`, `anomaly` (bool), of a folder of images `file`, and a column for each
            anomaly score (higher is more anomalous).
        inputs_ND, reconstructions_ND: Some test examples, as the network sees them, and their
            reconstructions.
        input_is_anomaly_N: Which of those are anomalies.
        samples_MD: Draws from the prior, decoded; none for a family without a prior.
        kl_per_dimension_R: KL of each latent dimension on test's normal rows, nats; none for a family without a rate.
        latent_mean_Z, latent_variance_Z: Of the posterior means of test's normal rows.
        latent_map_N2: The posterior means of the test rows, in the order of `scores`, projected to two dimensions.
        factor_names_F: Known factors of variation, where the study has some.
        factor_information_ZF: The mutual information of each latent dimension and each of them, nats.
        factor_entropy_F: The entropy of each of them, nats.
        traversals_LSD: For images, one example with one latent dimension moved in S steps, for L dimensions.
        interpolations_PSD: For images, P straight lines of S steps between the codes of two examples.
        top_place_T: Indices of test rows, in the order of `scores`: the ten highest rows of each score.
        top_inputs_TD, top_reconstructions_TD: Those rows as the network sees them, and their reconstructions.
        top_contributions_TD: Each feature's reconstruction term, nats above its mean in train.
        top_maps_THW: Of images, the anomaly maps of those rows.
        top_masks_THW: Of images with masks, which of their pixels are anomalous.
        series: What it makes of test's series, as `vae_study.detector.series.series_frame` gives it; no rows where rows
            are examples, or while the study runs.
    """

    trial: int
    rule: str
    scores: pd.DataFrame
    inputs_ND: NDArray[np.float32]
    reconstructions_ND: NDArray[np.float32]
    input_is_anomaly_N: NDArray[np.bool_]
    samples_MD: NDArray[np.float32]
    kl_per_dimension_R: NDArray[np.float64] | None = None
    latent_mean_Z: NDArray[np.float64] | None = None
    latent_variance_Z: NDArray[np.float64] | None = None
    latent_map_N2: NDArray[np.float64] | None = None
    factor_names_F: NDArray[np.str_] | None = None
    factor_information_ZF: NDArray[np.float64] | None = None
    factor_entropy_F: NDArray[np.float64] | None = None
    traversals_LSD: NDArray[np.float32] | None = None
    interpolations_PSD: NDArray[np.float32] | None = None
    score: str | None = None
    top_place_T: NDArray[np.int64] | None = None
    top_inputs_TD: NDArray[np.float32] | None = None
    top_reconstructions_TD: NDArray[np.float32] | None = None
    top_contributions_TD: NDArray[np.float32] | None = None
    top_maps_THW: NDArray[np.float32] | None = None
    top_masks_THW: NDArray[np.bool_] | None = None
    series: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], **about: Any) -> Self:
        """Take each array by its field's name without the axes. Not every family of models or kind of data has all."""
        known = {one.name: one.name.rpartition("_")[0] for one in fields(cls)}
        found: dict[str, Any] = {field: arrays[name] for field, name in known.items() if name in arrays}
        return cls(**about, **found)


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as its tracking store holds it.

    Attributes:
        name: The study's name.
        config: The resolved config, as plain dictionaries and lists.
        data: The data summary: `source`, `sha256`, `features`, `image_shape` (or None), `feature_names`, `splits`, a
            mapping from split name to {"rows", "anomalies"}, `columns`, `notes`, and `preprocessing`, from which
            `vae_study.data.Preprocessing.from_plain` makes the way back to the user's units.
        environment: Package versions and the like, by name.
        trials: One row per trial: `trial`, `state` (finished, pruned, failed, running, waiting), `failure` and its last
            line `reason`, `feasible` (whether it keeps the config's constraints), `preemptions` (how often it lost its
            worker and continued), `device` (what it was last trained on, such as "cuda, NVIDIA L4"), `run_id`, where
            there are sweeps `sweep` (the number of the one that kept this trial's model; else missing) and `retrains`
            (the number of the kept model that this trial has trained again; else missing), the
            dotted parameters (missing if a branch does not have one), the slashed metrics at their last value.
        history: One row per trial and epoch: `trial`, `epoch`, the slashed metrics.
        reference: The hypervolume's fixed reference point: objective metric to value.
        champion: The chosen trial; None while there is none.
        confirmations: One row per further seed that one of the best trials was trained with: `trial`, `seed` and the
            slashed metrics; no rows without confirmation.
        choices: One row per detector: each rule's choice, the ensembles and the detector without a model, as
            `vae_study.selection.comparison.compare` gives them; no rows while there is no champion.
        detectors: Their scores: one row per validation or test example, with `split`, `row`, `label`, `anomaly` and a
            column for each detector.
        tracking_uri, experiment_id, run_id: Of the parent run.
        promoted: The registry's champion now, such as "trial-0007"; a user may have promoted another one than the
            study's own. None if there is none.
        stopped: Why the study ended with fewer trials than its config asks for; empty if it did not.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, str]
    trials: pd.DataFrame
    history: pd.DataFrame
    reference: Mapping[str, float]
    champion: ChampionRecord | None
    tracking_uri: str
    experiment_id: str
    run_id: str
    confirmations: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["trial", "seed"]))
    choices: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["rule"]))
    detectors: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["split", "row", "label", "anomaly"]))
    promoted: str | None = None
    stopped: str = ""


@dataclass
class RunRecord:
    """What is known of one run: its tags, its parameters as text, and each metric's last value.

    Attributes:
        run_id, experiment_id: MLflow's; None while MLflow does not have the run.
    """

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    experiment_id: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        """The trial's number, and which of its further seeds."""
        return int(self.tags[schema.TRIAL]), int(self.tags.get(schema.SEED, 0))

    @property
    def row(self) -> dict[str, Any]:
        """The trial as a row of `StudyRecord.trials`."""
        tags = self.tags
        about = {
            "trial": int(tags[schema.TRIAL]),
            "state": tags[schema.STATE],
            "failure": tags.get(schema.FAILURE),
            "reason": tags.get(schema.REASON),
            "feasible": tags.get(schema.FEASIBLE, "true") == "true",
            "preemptions": int(tags.get(schema.PREEMPTIONS, 0)),
            "device": tags.get(schema.DEVICE),
            "run_id": self.run_id,
        }
        metrics = {name: value for name, value in self.metrics.items() if not name.startswith(schema.LOG10)}
        about |= {key: int(tags[tag]) for key, tag in schema.OF_SWEEPS.items() if tag in tags}
        return {**about, **{name: _number(text) for name, text in self.params.items()}, **metrics}


def trials_frame(runs: Iterable[RunRecord]) -> pd.DataFrame:
    """`StudyRecord.trials`, from the runs of the trials."""
    rows = [run.row for run in runs]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=TRIAL_COLUMNS)


def confirmations_frame(runs: Iterable[RunRecord]) -> pd.DataFrame:
    """`StudyRecord.confirmations`, from the runs of the confirmations that finished."""
    finished = [run for run in runs if run.tags[schema.STATE] == "finished"]
    rows = [dict(zip(("trial", "seed"), run.order, strict=True)) | run.metrics for run in finished]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "seed"])


def history_frame(number: int, history: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """A trial's part of `StudyRecord.history`, from the metrics of each epoch."""
    rows = [{"trial": number, "epoch": epoch, **history[epoch]} for epoch in sorted(history)]
    return pd.DataFrame(rows, columns=None if rows else HISTORY_COLUMNS)


def joined(histories: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The histories of several trials in one frame."""
    frames = [frame for frame in histories if not frame.empty]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=HISTORY_COLUMNS)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
