"""A packed detector at work: rows in, scores out, a bounded number of rows at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import BASELINE, Neighbours
from pipeline.data import Preprocessing
from pipeline.data.dataset import Facts
from pipeline.detector.columns import column_names, per_column
from pipeline.detector.description import FILE, Description, Voice, read_description
from pipeline.detector.folder import (
    BASELINE_FILE,
    REFERENCE,
    read_tensors,
    require_exactly,
    require_shapes,
    trial_files,
    trial_folder,
)
from pipeline.detector.trial import TrialScorer
from pipeline.errors import UserError
from pipeline.vae.passes import rows_per_pass, whole_blocks

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
#: What a single trial says beside its score.
PARTS = ("reconstruction", "kl", "squared_error")


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What scores rows of the columns that it was trained on.

    Attributes:
        description: What detector.json says.
        facts: Of the data that it was trained on.
        trials: Its trials, by number.
        baseline: The raw nearest neighbours, where they vote.
        device: Where the networks are.
    """

    description: Description
    facts: Facts
    trials: Mapping[int, TrialScorer]
    baseline: Neighbours | None
    device: torch.device

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read the folder that `pack` wrote. Only JSON and safetensors are read, and no code is run.

        Args:
            folder: On a local disk.
            device: Where to compute: "cpu", "cuda" or "cuda:1".

        Raises:
            UserError: A file is missing, torn, unknown or of another version, or there is no such device.
        """
        folder, place = Path(folder), _device(device)
        description, facts = read_description(folder)
        numbers = [int(number) for number in description.trials]
        names = [FILE, *(name for number in numbers for name in trial_files(number))]
        require_exactly(folder, [*names, BASELINE_FILE] if description.baseline else names)
        trials = {
            number: TrialScorer.load(folder / trial_folder(number), description.trials[str(number)], facts, place)
            for number in numbers
        }
        baseline = _neighbours(folder / BASELINE_FILE, facts) if description.baseline else None
        return cls(description=description, facts=facts, trials=trials, baseline=baseline, device=place)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the user's columns become features."""
        return self.facts.preprocessing

    def score(self, x_ND: NDArray[np.float32], explain: bool = False) -> pd.DataFrame:
        """Score rows, some at a time: beside the result, memory does not grow with their number.

        Args:
            x_ND: Features, as `preprocessing` makes them.
            explain: Whether to tell what each column costs.

        Returns:
            A row for each row: `score`, higher is more anomalous; `above_p90`, `above_p95` and `above_p99`, whether it
            is above that percentile of normal validation rows. Of a single trial `reconstruction` and `kl`, nats, and
            `squared_error`; of an ensemble each voice's standardized score, such as `trial-0007/elbo` or `input_knn`.
            To explain, `nats/COLUMN` of each of the user's columns that is a feature, or of each pixel: what it costs
            in the reconstruction term above its mean in training rows, the mean over the trials.

        Raises:
            UserError: There are more or fewer features than it was trained on.
        """
        features = len(self.facts.feature_names)
        if x_ND.ndim != 2 or x_ND.shape[1] != features:
            raise UserError(f"features: came an array of shape {x_ND.shape}, expected (rows, {features})")
        rows = max(rows_per_pass(trial.rows.model) for trial in self.trials.values())
        # No rows are a chunk, too, whose columns are those of all.
        starts = range(0, max(len(x_ND), 1), rows)
        return _frame([self._chunk(x_ND[start : start + rows], explain) for start in starts])

    def _chunk(self, x_BD: NDArray[np.float32], explain: bool) -> Columns:
        # Zeros behind the rows, so that the last digit of none depends on how many are asked about.
        rows_BD = whole_blocks(torch.as_tensor(x_BD, dtype=torch.float32))
        columns = self._scores(rows_BD.to(self.device), rows_BD)
        if explain:
            columns |= self._explanation(rows_BD.to(self.device))
        return {name: column_B[: len(x_BD)] for name, column_B in columns.items()}

    def _scores(self, device_BD: Tensor, host_BD: Tensor) -> Columns:
        spoken = {number: trial.scores(device_BD, self._asked(number)) for number, trial in self.trials.items()}
        if not self.description.is_combined:
            voice = self.description.voices[0]
            own = spoken[voice.trial]
            return self._flagged(own[voice.score], {name: own[name] for name in PARTS})
        votes = {_name(one): one.standard(spoken[one.trial][one.score]) for one in self.description.voices}
        score_B = np.asarray(np.mean([*votes.values()], axis=0))
        if self.baseline is not None and self.description.baseline is not None:
            raw_B = self.baseline.distance(host_BD.double().numpy())
            votes[BASELINE] = self.description.baseline.standard(raw_B)
            share = self.description.baseline.share
            score_B = (1 - share) * score_B + share * votes[BASELINE]
        return self._flagged(score_B, votes)

    def _asked(self, number: int) -> set[str]:
        own: set[str] = {voice.score for voice in self.description.voices if voice.trial == number}
        return own if self.description.is_combined else own | {*PARTS}

    def _flagged(self, score_B: Floats, rest: Mapping[str, Floats]) -> Columns:
        flags = {f"above_p{name}": score_B > value for name, value in self.description.thresholds.items()}
        return {"score": score_B, **flags, **rest}

    def _explanation(self, x_BD: Tensor) -> Columns:
        nats_BD = np.mean([trial.excess(x_BD) for trial in self.trials.values()], axis=0)
        names = [f"nats/{name}" for name in column_names(self.preprocessing)]
        return dict(zip(names, per_column(self.preprocessing, nats_BD), strict=True))


def _name(voice: Voice) -> str:
    return f"{trial_folder(voice.trial)}/{voice.score}"


def _frame(chunks: Sequence[Columns]) -> pd.DataFrame:
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return pd.DataFrame(joined, copy=False)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device: came {name!r}, which cannot be used here ({reason}); expected 'cpu' or a GPU"
        ) from None
    return device


def _neighbours(path: Path, facts: Facts) -> Neighbours:
    tensors = read_tensors(path)
    require_shapes(path, tensors, torch.float32, {REFERENCE: (None, len(facts.feature_names))})
    return Neighbours(tensors[REFERENCE].double().numpy())
