"""Pack a selected trial or an ensemble, with everything that it needs to score rows elsewhere."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from vae_study.anomaly.conformal import calibration_scores
from vae_study.anomaly.scores import ScoreScale
from vae_study.config.model import TrialConfig
from vae_study.data import DatasetInfo
from vae_study.detector.format import (
    BASELINE_FILE,
    CALIBRATION_FILE,
    NORMAL_SCORES,
    REFERENCE,
    Description,
    percentile_name,
    trial_folder,
)
from vae_study.errors import UserError
from vae_study.metrics import BASELINE, PERCENTILES
from vae_study.selection.comparison import BASELINE_SHARE, Baseline, Candidate, is_normal
from vae_study.vae.inference import SCORER_FILE, WEIGHTS_FILE


def pack(
    folder: Path,
    data: DatasetInfo,
    configs: Mapping[int, TrialConfig],
    candidate: Candidate,
    files: Callable[[int], Mapping[str, Path]],
    scores: Callable[[int], pd.DataFrame],
    fdr: float,
    baseline: Baseline | None = None,
) -> None:
    """Write a folder for `Detector.load`. Raise UserError if a trial has not left a file that scoring needs.

    Args:
        folder: Created if it is missing; otherwise it must be empty.
        data: The study's data.
        configs: Configurations by trial number, at least those of the candidate's trials.
        candidate: What to pack: a trial with its score, or an ensemble.
        files: Local paths of a trial's WEIGHTS_FILE and SCORER_FILE, by name.
        scores: A trial's scores: one row per validation or test row, all in one order.
        fdr: The false discovery rate at which it flags rows.
        baseline: The nearest neighbours on the input; needed if they take part.
    """
    trials = sorted({one.trial for one in candidate.selections})
    frames = {number: scores(number) for number in trials}
    is_normal_N = is_normal(frames[trials[0]])
    raw_N = None if baseline is None else baseline.scores[BASELINE].to_numpy(np.float64)
    normal_M = candidate.score(frames, raw_N)[is_normal_N]

    def scale(score_N: NDArray[np.float64]) -> dict[str, float]:
        return ScoreScale.of(score_N[is_normal_N]).model_dump()

    thresholds = np.percentile(normal_M, PERCENTILES)
    plain = {
        "name": candidate.name,
        "data": data.plain(),
        "trials": {str(number): configs[number] for number in trials},
        "votes": [
            {"trial": one.trial, "score": one.score, **scale(frames[one.trial][one.score].to_numpy(np.float64))}
            for one in candidate.selections
        ],
        "is_combined": candidate.is_combined,
        "thresholds": {percentile_name(p): float(value) for p, value in zip(PERCENTILES, thresholds, strict=True)},
        "fdr": fdr,
    }
    if candidate.with_baseline and raw_N is not None:
        plain["baseline"] = {"share": BASELINE_SHARE, **scale(raw_N)}
    description = Description.model_validate(plain)
    for number in trials:
        _copy(files(number), folder / trial_folder(number))
    if candidate.with_baseline and baseline is not None:
        save_file({REFERENCE: torch.tensor(baseline.reference_RD)}, folder / BASELINE_FILE)
    save_file({NORMAL_SCORES: torch.tensor(calibration_scores(normal_M))}, folder / CALIBRATION_FILE)
    description.write(folder)


def _copy(paths: Mapping[str, Path], into: Path) -> None:
    into.mkdir(parents=True)
    for name in (WEIGHTS_FILE, SCORER_FILE):
        if name not in paths or not paths[name].exists():
            raise UserError(f"{into.name}: has left no {name}; expected the files of a finished trial")
        shutil.copyfile(paths[name], into / name)
