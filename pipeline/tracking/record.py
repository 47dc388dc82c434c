"""What a past study looks like once it is read back: plain frames and arrays, no tracking library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The metrics of one epoch; `timestamp_ms` is when it ended, made once so that a replay writes the same point."""

    epoch: int
    timestamp_ms: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ChampionRecord:
    """The chosen trial and what it stored at its end.

    Attributes:
        trial: The trial's number.
        rule: How it was chosen, such as "val/auroc".
        score: The anomaly score that it was chosen with; None in a study of an earlier version.
        scores: A row an example of the validation and test splits: `split` ("validation" or "test"),
            `row` (in the source), `label`, `anomaly` (bool) and a column for each anomaly score
            (higher is more anomalous).
        inputs_ND, reconstructions_ND: Some test examples, as the network sees them, and their
            reconstructions.
        input_is_anomaly_N: Which of those are anomalies.
        samples_MD: Draws from the prior, decoded; none for a family without a prior.
        kl_per_dimension_R: KL of each latent dimension on test's normal rows, nats; none for a family without a rate.
        latent_mean_Z, latent_variance_Z: Of the posterior means of test's normal rows.
        latent_map_N2: The posterior means of the test rows, in the order of `scores`, laid flat.
        traversals_LSD: For images, one example with one latent dimension moved in S steps, for L dimensions.
        interpolations_PSD: For images, P straight lines of S steps between the codes of two examples.
        top_place_T: Places among the test rows, in the order of `scores`, of the ten highest rows of each score.
        top_inputs_TD, top_reconstructions_TD: Those rows as the network sees them, and their reconstructions.
        top_contributions_TD: What each feature costs in their reconstruction term, nats above its mean in train.
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
    traversals_LSD: NDArray[np.float32] | None = None
    interpolations_PSD: NDArray[np.float32] | None = None
    score: str | None = None
    top_place_T: NDArray[np.int64] | None = None
    top_inputs_TD: NDArray[np.float32] | None = None
    top_reconstructions_TD: NDArray[np.float32] | None = None
    top_contributions_TD: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as its tracking store holds it.

    Attributes:
        name: The study's name.
        spec: The resolved spec, as plain dictionaries and lists.
        data: The data summary: `source`, `sha256`, `features`, `image_shape` (or None), `feature_names`, `splits`, a
            mapping from split name to {"rows", "anomalies"}, `columns`, `notes`, and `preprocessing`, from which
            `pipeline.data.Preprocessing.from_plain` makes the way back to the user's units.
        environment: Package versions and the like, by name.
        trials: A row a trial: `trial`, `state` (finished, stopped, failed, running, waiting), `failure` and its last
            line `reason`, `feasible` (whether it keeps the spec's constraints), `preemptions` (how often it lost its
            worker and went on), `run_id`, the dotted parameters (missing where a branch does not have one), the slashed
            metrics at their last value. A study of an earlier version lacks some of these columns.
        history: A row a trial and epoch: `trial`, `epoch`, the slashed metrics.
        reference: The hypervolume's fixed reference point: objective metric to value.
        champion: The chosen trial, None while there is none.
        confirmations: A row a trial and further seed that the best trials were trained with again: `trial`, `seed` and
            the slashed metrics; no rows where that was not asked for.
        choices: A row a detector: each rule's choice, the ensembles and the raw nearest neighbours, as
            `pipeline.choosing.comparison.compare` gives them; no rows in a study of an earlier version.
        detectors: Their scores: a row a validation or test example, with `split`, `row`, `label`, `anomaly` and a
            column for each detector.
        tracking_uri, experiment_id, run_id: Where the parent run lives.
        promoted: The registry's champion now, such as "trial-0007", which a user may have put in the place of the
            study's own; None where there is none.
    """

    name: str
    spec: Mapping[str, Any]
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
