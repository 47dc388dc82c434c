"""The folder of a packed model: detector.json, a folder of tensors per trial, calibration scores.

It holds JSON and safetensors only, so opening it runs no code. Reading checks everything that is in it.
"""

import itertools
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from vae_study.config.base import ConfigPart, Fraction, FromList, ScoreName, from_validation
from vae_study.config.model import TrialConfig
from vae_study.data.dataset import DatasetInfo, info_from_plain
from vae_study.errors import UserError
from vae_study.metrics import PERCENTILES
from vae_study.vae.inference import SCORER_FILE, WEIGHTS_FILE

#: Changes whenever the folder, or the meaning of its numbers, changes.
VERSION = 3
FILE = "detector.json"
BASELINE_FILE = "baseline.safetensors"
CALIBRATION_FILE, NORMAL_SCORES = "calibration.safetensors", "normal_scores"
SCALES_FILE = "scales.safetensors"
#: How other formats start in which weights are often kept.
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it, which can hold a pickle",
    b"\x80": "a pickle, which would run code",
    b"\x93NUMPY": "a NumPy file",
}
#: None is any size but 0.
Shape = tuple[int | None, ...]


def percentile_name(percentile: float) -> str:
    """A percentile as a key of `thresholds`, such as "99"."""
    return f"{percentile:g}"


class Vote(ConfigPart):
    """One score of one trial."""

    trial: Annotated[int, Field(ge=0)]
    score: ScoreName

    @property
    def name(self) -> str:
        """Such as "trial-0007/elbo"."""
        return f"{trial_folder(self.trial)}/{self.score}"


class Description(ConfigPart):
    """The content of detector.json.

    Attributes:
        name: The rule, the ensemble or the trial that was packed.
        data: `DatasetInfo.plain()` of the data that it was trained on.
        trials: The complete configuration of each trial, by its number.
        votes: The scores that count.
        baseline: Whether the detector without a model is added to the mean of the votes.
        is_combined: Whether scores are averaged on a common scale; otherwise there is one vote, whose score counts as
            it is.
        thresholds: Percentiles of this detector's scores of normal validation rows.
        fdr: The false discovery rate at which rows are flagged unless a user asks for another.
    """

    version: Literal[3] = 3
    name: str
    data: dict[str, Any]
    trials: dict[Annotated[str, Field(pattern=r"^(0|[1-9]\d*)$")], TrialConfig]
    votes: Annotated[tuple[Vote, ...], FromList]
    baseline: bool = False
    is_combined: bool
    thresholds: dict[str, float]
    fdr: Fraction

    @property
    def scaled_votes(self) -> tuple[Vote, ...]:
        """The votes whose scores go to a common scale."""
        return self.votes if self.is_combined else ()

    def write(self, folder: Path) -> None:
        """Write detector.json."""
        (folder / FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=1), encoding="utf-8")


def read_description(folder: Path) -> tuple[Description, DatasetInfo]:
    """The content of detector.json, and the data that it describes.

    Raise UserError if it is missing, or not what `Description.write` writes.
    """
    path = folder / FILE
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no regular file; expected the description of a detector")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {FILE} is there; expected the folder of a packed detector") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); expected the description of a detector") from None
    version = plain.get("version") if isinstance(plain, dict) else None
    if version != VERSION:
        raise UserError(f"{path}: got version {version}, expected {VERSION}, the only one that this release reads")
    return _checked(path, plain)


def _checked(path: Path, plain: dict[str, Any]) -> tuple[Description, DatasetInfo]:
    try:
        found = Description.model_validate(plain)
    except ValidationError as error:
        raise UserError(f"{path}: {from_validation(error, Description)[0].text()}") from None
    names = [*map(percentile_name, PERCENTILES)]
    if set(found.thresholds) != set(names):
        raise UserError(f"{path}: thresholds: got {sorted(found.thresholds)}, expected {names}")
    values = [found.thresholds[name] for name in names]
    if not all(one <= other for one, other in itertools.pairwise(values)) or not all(map(math.isfinite, values)):
        raise UserError(f"{path}: thresholds: got {values}, expected finite numbers that do not fall")
    if {str(vote.trial) for vote in found.votes} != set(found.trials):
        raise UserError(f"{path}: votes and trials do not match; expected at least one vote of each trial")
    if not found.votes and not found.baseline:
        raise UserError(f"{path}: votes: got none, expected one at least")
    if found.is_combined != (len(found.votes) != 1 or found.baseline):
        got = str(found.is_combined).lower()
        raise UserError(f"{path}: is_combined: got {got}, expected true exactly where several scores count")
    try:
        return found, info_from_plain(found.data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: data: got what cannot be used ({error!r}); expected what `pack` writes") from None


def trial_folder(number: int) -> str:
    """The name of the folder with the tensors of a trial."""
    return f"trial-{number:04d}"


def require_files(folder: Path, description: Description) -> None:
    """Raise UserError if a file that the description implies is missing, or the folder holds anything else."""
    of_trials = [f"{trial_folder(int(n))}/{name}" for n in description.trials for name in (WEIGHTS_FILE, SCORER_FILE)]
    of_scales = ([BASELINE_FILE] if description.baseline else []) + ([SCALES_FILE] if description.scaled_votes else [])
    names = {FILE, CALIBRATION_FILE, *of_trials, *of_scales}
    there = {path.relative_to(folder).as_posix(): path.is_dir() for path in folder.rglob("*")}
    parents = {parent.as_posix() for name in names for parent in Path(name).parents}
    unknown = sorted(name for name, is_folder in there.items() if not is_folder and name not in names)
    unknown = unknown or sorted(name for name, is_folder in there.items() if is_folder and name not in parents)
    if unknown:
        raise UserError(f"{folder / unknown[0]}: got a file that belongs to no detector; expected {_listed(names)}")
    special = sorted(name for name in names if name in there and not (folder / name).is_file())
    if special:
        raise UserError(f"{folder / special[0]}: is no regular file; expected {_listed(names)}")
    missing = sorted(name for name in names if there.get(name, True))
    if missing:
        raise UserError(f"{folder / missing[0]}: is missing; expected {_listed(names)}")


def _listed(names: Collection[str]) -> str:
    shown = [*itertools.islice(sorted(names), 5)]
    return f"{', '.join(shown)} and {len(names) - len(shown)} more" if len(names) > len(shown) else ", ".join(shown)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name. Raise UserError if it is truncated, or of another format."""
    try:
        content = path.read_bytes()
        # Copies: where a tensor starts in memory can decide the last bits of a product.
        return {name: tensor.clone() for name, tensor in load(content).items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a safetensors file") from None
    except (SafetensorError, ValueError, KeyError) as error:
        others = (other for start, other in OTHER_FORMATS.items() if content.startswith(start))
        got = next(others, f"a truncated file, or not safetensors ({error})")
        raise UserError(f"{path}: got {got}; expected a whole safetensors file") from None


def require_shapes(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, shapes: Mapping[str, Shape]) -> None:
    """Raise UserError unless the tensors have exactly these names and shapes, and this type."""
    odd = sorted(tensors.keys() ^ shapes.keys())
    if odd:
        raise UserError(f"{path}: {odd[0]}: missing or unexpected; expected the tensors of this trial's model")
    for name, shape in shapes.items():
        got = tensors[name]
        fits = got.ndim == len(shape) and all(
            size > 0 if wanted is None else size == wanted for size, wanted in zip(got.shape, shape, strict=True)
        )
        if not fits or got.dtype != dtype:
            kind = f"{dtype} {tuple('any' if size is None else size for size in shape)}"
            raise UserError(f"{path}: {name}: got {got.dtype} {tuple(got.shape)}, expected {kind}")
