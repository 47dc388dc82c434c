"""Packing a chosen model, or an ensemble, with all that it needs to score rows elsewhere."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline.anomaly import BASELINE, reference_rows
from pipeline.anomaly.operating import PERCENTILES
from pipeline.choosing.baseline import baseline_scores
from pipeline.choosing.comparison import Detector as Choice
from pipeline.choosing.ensemble import BASELINE_SHARE, Standard, combined
from pipeline.data import Dataset
from pipeline.data.dataset import Facts
from pipeline.detector.description import Description
from pipeline.detector.folder import BASELINE_FILE, REFERENCE, trial_folder
from pipeline.errors import UserError
from pipeline.spec.trial import TrialSpec
from pipeline.vae.outcome import SCORER_FILE, WEIGHTS_FILE

Floats = NDArray[np.float64]
Frames = Mapping[int, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The raw nearest neighbours of a study.

    Attributes:
        reference_RD: The training rows that distances are measured to.
        scores: What `choosing.baseline.baseline_scores` gives, a row a validation or test example.
    """

    reference_RD: NDArray[np.float32]
    scores: pd.DataFrame


def baseline_of(data: Dataset) -> Baseline:
    """The raw nearest neighbours of a study's data."""
    train_ND = data.splits["train"].x_ND
    return Baseline(reference_RD=train_ND[reference_rows(len(train_ND))], scores=baseline_scores(data))


def pack(
    folder: Path,
    facts: Facts,
    specs: Mapping[int, TrialSpec],
    detector: Choice,
    files: Callable[[int], Mapping[str, Path]],
    scores: Callable[[int], pd.DataFrame],
    baseline: Baseline | None = None,
) -> None:
    """Write the folder of a detector, which `Detector.load` reads.

    Args:
        folder: Made where it is not there; else it has to be empty.
        facts: Of the study's data.
        specs: The configurations of its trials at least, by their numbers.
        detector: What to pack: a trial with its score, or an ensemble.
        files: Local paths of the files that a trial left, by name: WEIGHTS_FILE and SCORER_FILE.
        scores: The scores that a trial left: a row a validation or test example, all in one order.
        baseline: Needed where the raw nearest neighbours vote.

    Raises:
        UserError: A trial has not left the files that scoring needs, as in a study of an earlier version.
    """
    trials = sorted({pick.trial for pick in detector.picks})
    frames = {number: scores(number) for number in trials}
    description = _description(facts, specs, detector, frames, baseline)
    for number in trials:
        _copy(files(number), folder / trial_folder(number))
    if detector.with_baseline and baseline is not None:
        save_file({REFERENCE: torch.tensor(baseline.reference_RD)}, folder / BASELINE_FILE)
    description.write(folder)


def _copy(paths: Mapping[str, Path], into: Path) -> None:
    into.mkdir(parents=True)
    for name in (WEIGHTS_FILE, SCORER_FILE):
        if name not in paths or not paths[name].exists():
            raise UserError(f"{into.name}: has left no {name}; expected a trial of a study by this release")
        shutil.copyfile(paths[name], into / name)


def _description(
    facts: Facts, specs: Mapping[int, TrialSpec], detector: Choice, frames: Frames, baseline: Baseline | None
) -> Description:
    frame = next(iter(frames.values()))
    is_normal_N = (frame["split"].eq("validation") & ~frame["anomaly"]).to_numpy()
    raw_N = None
    if detector.with_baseline:
        assert baseline is not None, "the raw nearest neighbours vote"
        raw_N = baseline.scores[BASELINE].to_numpy(np.float64)
    voices = [(pick, frames[pick.trial][pick.score].to_numpy(np.float64)) for pick in detector.picks]
    is_combined = len(voices) > 1 or raw_N is not None
    score_N = combined(frames, detector.picks, raw_N) if is_combined else voices[0][1]
    plain = {
        "name": detector.name,
        "facts": facts.plain(),
        "trials": {str(number): specs[number] for number in frames},
        "voices": [
            {"trial": pick.trial, "score": pick.score, **asdict(Standard.of(own_N[is_normal_N]))}
            for pick, own_N in voices
        ],
        "baseline": None if raw_N is None else {"share": BASELINE_SHARE, **asdict(Standard.of(raw_N[is_normal_N]))},
        "is_combined": is_combined,
        "thresholds": _thresholds(score_N[is_normal_N]),
    }
    return Description.model_validate(plain)


def _thresholds(normal_M: Floats) -> dict[str, float]:
    values = np.percentile(normal_M, PERCENTILES)
    return {f"{percentile:g}": float(value) for percentile, value in zip(PERCENTILES, values, strict=True)}
