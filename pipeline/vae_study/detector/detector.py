"""Load a packed model and score rows with it, in batches, so that memory stays bounded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.anomaly.conformal import TailScale, p_values
from vae_study.anomaly.input_ensemble import InputEnsemble
from vae_study.anomaly.scores import ADDITIVE, Scorer, finite
from vae_study.config.model import TrialConfig
from vae_study.data.dataset import DatasetInfo
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.windows import Windows
from vae_study.detector.format import (
    BASELINE_FILE,
    CALIBRATION_FILE,
    FILE,
    NORMAL_SCORES,
    SCALES_FILE,
    Description,
    Shape,
    read_description,
    read_tensors,
    require_files,
    require_shapes,
    trial_folder,
)
from vae_study.errors import UserError
from vae_study.metrics import BASELINE, SCORES, need
from vae_study.vae.device import compute_in_float32
from vae_study.vae.families import make_family
from vae_study.vae.families.base import Family
from vae_study.vae.inference import (
    NOISE,
    SCORER_FILE,
    USUAL_COST,
    USUAL_INPUT,
    WEIGHTS_FILE,
    RowScorer,
    inference_model,
    rows_per_minibatch,
    whole_blocks,
)
from vae_study.vae.networks import shape_of

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
Places = slice | NDArray[np.int64]
#: The columns of a single trial beside its score.
PARTS = ("reconstruction", "kl", "squared_error")
#: The column of a model that learns labels with the likeliest one.
LABEL = "predicted_label"
#: The prefixes of the columns that flag rows, and that explain their scores; what a usual row has of a score in nats.
FLAG, PART, USUAL = "above_p", "part/", "usual"
#: What a row of a whole series adds to the score of that.
POINT = "point"
# How many rows a detector without a model takes at once.
ROWS_WITHOUT_MODEL = 4096


@dataclass(frozen=True, kw_only=True)
class TrialScorer:
    """One trial of a packed model.

    Attributes:
        rows: Its network and scorer.
        usual_D: The mean cost of each feature in the reconstruction term of training rows, nats.
        mean_D: The mean of each feature in training rows.
    """

    rows: RowScorer
    usual_D: Floats
    mean_D: Floats

    @classmethod
    def load(cls, folder: Path, config: TrialConfig, data: DatasetInfo, device: torch.device) -> Self:
        """Read a trial's two files. Raise UserError if they are truncated, or belong to another model."""
        model = _restored(folder / WEIGHTS_FILE, config, data).to(device)
        path, features, image = folder / SCORER_FILE, len(data.feature_names), model.shape.image
        tensors = read_tensors(path)
        noise_LZ = tensors.pop(NOISE, torch.zeros(0, 0))
        latents = int(model.code_mask_KZ.sum())
        require_shapes(path, {NOISE: noise_LZ}, torch.float32, {NOISE: (None, latents)})
        of_features: dict[str, Shape] = {USUAL_COST: (features,), USUAL_INPUT: (features,)}
        require_shapes(path, tensors, torch.float64, {**Scorer.shapes(features, latents, tensors), **of_features})
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(
            rows=RowScorer(
                model=inference_model(model),
                scorers_K=[Scorer.from_arrays(arrays, image)],
                noise_LKZ=noise_LZ[:, None].to(device),
            ),
            usual_D=arrays[USUAL_COST],
            mean_D=arrays[USUAL_INPUT],
        )

    def scores(self, x_BD: Tensor, names: Collection[str]) -> dict[str, Floats]:
        """Some of its scores of B rows."""
        return self.rows.scores(x_BD, names)[0]


def _restored(path: Path, config: TrialConfig, data: DatasetInfo) -> Family:
    tensors = read_tensors(path)
    held, least = sum(one.numel() for one in tensors.values()), config.model.least_weights(len(data.feature_names))
    if held < least:
        raise UserError(f"{path}: got {held:,} weights, expected at least the {least:,} of the model in {FILE}")
    model = make_family([config.model], shape_of(data), [torch.Generator()])
    state = model.state_dict()
    require_shapes(path, tensors, torch.float32, {name: tuple(value.shape[1:]) for name, value in state.items()})
    _require_finite(path, tensors, "weights")
    model.load_state_dict({name: value[None] for name, value in tensors.items()})
    return model


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A packed model that scores rows with the columns that it was trained on.

    Attributes:
        description: The content of detector.json.
        data: The data that it was trained on.
        trials: Its trials, by number.
        scales: Of the votes that are averaged, by their names.
        baseline: The detector without a model, if it takes part.
        calibration_M: Its scores of held-out normal rows, ascending, for p-values.
        device: Where the networks are.
    """

    description: Description
    data: DatasetInfo
    trials: Mapping[int, TrialScorer]
    scales: Mapping[str, TailScale]
    baseline: InputEnsemble | None
    calibration_M: Floats
    device: torch.device

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read the folder that `pack` wrote. Only JSON and safetensors are read, and no code is run.

        Raise UserError if a file is missing, truncated, unknown or of another version, or if there is no such device.

        Args:
            folder: On a local disk.
            device: Where to compute: "cpu", "cuda" or "cuda:1".
        """
        folder, place = Path(folder), _device(device)
        description, data = read_description(folder)
        require_files(folder, description)
        trials = {
            int(number): TrialScorer.load(folder / trial_folder(int(number)), config, data, place)
            for number, config in description.trials.items()
        }
        baseline, scales = None, {}
        if description.baseline:
            shapes = InputEnsemble.shapes(len(data.feature_names))
            baseline = InputEnsemble.from_arrays(_read(folder / BASELINE_FILE, shapes), data.image_shape)
        if description.scaled_votes:
            of_votes: dict[str, Shape] = {one.name: (None,) for one in description.scaled_votes}
            arrays = _read(folder / SCALES_FILE, of_votes)
            scales = {name: TailScale(normal_M=np.sort(normal_M)) for name, normal_M in arrays.items()}
        calibration = _read(folder / CALIBRATION_FILE, {NORMAL_SCORES: (None,)})
        return cls(
            description=description,
            data=data,
            trials=trials,
            scales=scales,
            baseline=baseline,
            calibration_M=np.sort(calibration[NORMAL_SCORES]),
            device=place,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """How the user's columns become features."""
        return self.data.preprocessing

    @property
    def mean_D(self) -> Floats:
        """The mean of each feature in training rows."""
        if self.description.votes:
            return self.trials[self.description.votes[0].trial].mean_D
        assert self.baseline is not None
        return np.asarray(self.baseline.reference_RD.mean(axis=0))

    @property
    def summands(self) -> tuple[str, ...] | None:
        """The columns that, with those in PART, add up to the score of an explained row; None if they cannot."""
        if self.description.is_combined or (score := self.description.votes[0].score) not in ADDITIVE:
            return None
        return (*([USUAL] if SCORES[score].unit == "nats" else []), *(["kl"] if need([score], "rate") else []))

    @property
    def explanation(self) -> str:
        """What the columns of an explanation are, in a sentence."""
        if self.summands is None:
            what = f"each {PART}COLUMN is how much lower the score is with the training mean in that column"
            return f"the columns do not add up to the score: {what}"
        return f"the columns add up to the score: {', '.join((*self.summands, f'{PART}COLUMN'))}"

    def score(self, x_ND: Any, explain: bool = False) -> pd.DataFrame:
        """Score N rows, some at a time: besides the result, memory does not grow with N.

        Raise UserError if there are more or fewer features than it was trained on.

        Args:
            x_ND: Features, as `preprocessing` makes them: an array, or Windows. A whole series is scored once, and each
                of its rows has its score.
            explain: Whether to add what each column does to the score. If `summands` is None, this takes one more
                scoring for each column.

        Returns:
            A frame with one row for each row of `x_ND`:
            `score`: Higher is more anomalous.
            `p_value`: The share of held-out normal rows that score as high, this row counted in: a normal row gets at
            most 0.01 with a probability of at most 0.01.
            `above_p90`, `above_p95`, `above_p99`: Whether it is above that percentile of normal validation rows.
            `reconstruction` and `kl` (nats), `squared_error`: Of a single trial.
            `predicted_label`: Of a single trial that learns labels, the likeliest one; text.
            `trial-0007/elbo`: Of an ensemble, each vote: -log of how rare it is among held-out normal rows.
            `without_model`: The score of the detector without a model, if it takes part.
            `part/COLUMN`: To explain, for each of the user's columns that is a feature, or for each pixel: what it adds
            to the score, of a score in nats what it adds above its mean in training rows, of which `usual` is the sum;
            or, if `summands` is None, how much lower the score is with the training mean in this column. Of a missing
            value that is masked, 0.
            `point`: Of the rows of whole series, where `summands` is not None, what the row adds to its series' score:
            the values of `part/COLUMN` of the series are the sums of such parts.
        """
        if isinstance(x_ND, Windows) and x_ND.step_N is not None:
            return self._score_rows(x_ND, explain)
        features = len(self.data.feature_names)
        if len(x_ND.shape) != 2 or x_ND.shape[1] != features:
            raise UserError(f"features: got an array of shape {x_ND.shape}, expected (rows, {features})")
        rows = max((rows_per_minibatch(one.rows.model) for one in self.trials.values()), default=ROWS_WITHOUT_MODEL)
        # Without rows there is one empty minibatch, so that the columns are the same.
        starts = range(0, max(len(x_ND), 1), rows)
        parts = [self._minibatch(x_ND[start : start + rows], explain) for start in starts]
        joined = {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}
        return pd.DataFrame(joined, copy=False)

    def _score_rows(self, x_ND: Windows, explain: bool) -> pd.DataFrame:
        """The score of each row's series, and what the row adds to it."""
        series, place_N = x_ND.each_once()
        found = self.score(series, explain).iloc[place_N].reset_index(drop=True)
        if self.summands is not None and len(found):
            point_N, rows = np.empty(len(found)), rows_per_minibatch(self._own.rows.model)
            order_N = np.argsort(place_N, kind="stable")
            for start in range(0, len(series), rows):
                own_n = order_N[slice(*np.searchsorted(place_N[order_N], (start, start + rows)))]
                x_BD = series[start : start + rows]
                part_BD, _ = self._parts(whole_blocks(torch.as_tensor(x_BD)))
                part_BT = part_BD[: len(x_BD)].reshape(len(x_BD), series.steps, -1).sum(axis=2)
                point_N[own_n] = finite(part_BT[place_N[own_n] - start, x_ND.step_N[own_n]])
            found[POINT] = point_N
        return found

    @property
    def _own(self) -> TrialScorer:
        """The trial whose score alone is the detector's."""
        return self.trials[self.description.votes[0].trial]

    def _parts(self, rows_BD: Tensor) -> tuple[Floats, Columns]:
        """What each feature adds to a score with summands, above its usual cost, (B, D); and that of all features."""
        part_BD = self._own.rows.contributions(rows_BD.to(self.device), self.description.votes[0].score)
        if USUAL not in (self.summands or ()):
            return part_BD, {}
        # What is missing costs nothing, as usual.
        usual_BD = np.where(rows_BD.isnan().numpy(), 0, self._own.usual_D)
        if (values_B := self._own.rows.values(rows_BD)) is not None:
            usual_BD /= values_B[:, None]
        return part_BD - usual_BD, {USUAL: usual_BD.sum(axis=1)}

    def _minibatch(self, x_BD: NDArray[np.float32], explain: bool) -> Columns:
        # Whole blocks, so that the last digit of a row does not depend on how many rows are scored.
        rows_BD = whole_blocks(torch.as_tensor(x_BD, dtype=torch.float32))
        score_B, parts = self._scores(rows_BD)
        columns: Columns = {"score": score_B, "p_value": p_values(self.calibration_M, score_B)}
        columns |= {f"{FLAG}{name}": score_B > value for name, value in self.description.thresholds.items()}
        columns |= parts
        if explain:
            columns |= self._explained(rows_BD, score_B)
        return {name: column_B[: len(x_BD)] for name, column_B in columns.items()}

    def _explained(self, rows_BD: Tensor, score_B: Floats) -> Columns:
        features = _features(self.preprocessing)
        if self.summands is None:
            lower = {name: self._scores(_with_mean(rows_BD, self.mean_D, places))[0] for name, places in features}
            return {f"{PART}{name}": score_B - lower_B for name, lower_B in lower.items()}
        part_BD, rest = self._parts(rows_BD)
        return {**{f"{PART}{name}": finite(part_BD[:, places].sum(axis=1)) for name, places in features}, **rest}

    def _scores(self, rows_BD: Tensor) -> tuple[Floats, Columns]:
        """The scores of whole blocks of rows, and what they are made of."""
        device_BD = rows_BD.to(self.device)
        parts = () if self.description.is_combined else PARTS
        wanted = {n: {*parts, *(vote.score for vote in self.description.votes if vote.trial == n)} for n in self.trials}
        found = {number: trial.scores(device_BD, wanted[number]) for number, trial in self.trials.items()}
        if not self.description.is_combined:
            vote = self.description.votes[0]
            own = found[vote.trial]
            labels = self.trials[vote.trial].rows.labels(device_BD, self.data.classes)
            told: Columns = {} if labels is None else {LABEL: labels}
            return own[vote.score], {**{name: own[name] for name in PARTS}, **told}
        raw = {one.name: found[one.trial][one.score] for one in self.description.votes}
        votes: Columns = {name: self.scales[name](score_B) for name, score_B in raw.items()}
        score_B = np.asarray(np.mean([*votes.values()], axis=0)) if votes else np.zeros(len(rows_BD))
        if self.baseline is not None:
            votes[BASELINE] = self.baseline.score(rows_BD.double().numpy())
            score_B = score_B + votes[BASELINE]
        return score_B, votes


def _read(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Floats]:
    """The arrays of a file, all of float64. Raise UserError if it is not such a file."""
    tensors = read_tensors(path)
    require_shapes(path, tensors, torch.float64, shapes)
    _require_finite(path, tensors, "values")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _require_finite(path: Path, tensors: Mapping[str, Tensor], what: str) -> None:
    odd = next((name for name, value in tensors.items() if not bool(torch.isfinite(value).all())), None)
    if odd:
        raise UserError(f"{path}: {odd}: got {what} that are not finite numbers")


def _features(preprocessing: Preprocessing) -> list[tuple[str, Places]]:
    """The columns that are features, or the pixels, with the places of their features, of windows in all steps."""
    if preprocessing.pixels is not None:
        return [(name, slice(place, place + 1)) for place, name in enumerate(preprocessing.feature_names)]
    found: list[tuple[str, Places]] = []
    first = 0
    for column in preprocessing.columns:
        width = len(column.features)
        if width:
            found.append((column.name, slice(first, first + width)))
        first += width
    if preprocessing.sequence is None:
        return found
    place_TF = np.arange(first * preprocessing.sequence.steps).reshape(-1, first)
    return [(name, place_TF[:, places].ravel()) for name, places in found]


def _with_mean(rows_BD: Tensor, mean_D: Floats, places: Places) -> Tensor:
    """The rows with the mean in some features; what is missing stays so."""
    other_BD = rows_BD.clone()
    mean_P, values_BP = torch.as_tensor(mean_D[places], dtype=rows_BD.dtype), rows_BD[:, places]
    other_BD[:, places] = torch.where(values_BP.isnan(), values_BP, mean_P)
    return other_BD


def _device(name: str) -> torch.device:
    compute_in_float32()
    try:
        device = torch.device(name)
        # "meta" has no values.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device: got {name!r}, which cannot be used here ({reason}); expected 'cpu' or a GPU"
        ) from None
    return device
