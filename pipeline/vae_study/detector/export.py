"""Pack a selected trial or an ensemble, with everything that it needs to score rows elsewhere."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from vae_study.anomaly.conformal import TailScale, calibration_scores
from vae_study.config.model import TrialConfig
from vae_study.data import DatasetInfo
from vae_study.detector.format import (
    BASELINE_FILE,
    CALIBRATION_FILE,
    NORMAL_SCORES,
    SCALES_FILE,
    Description,
    Vote,
    percentile_name,
    trial_folder,
)
from vae_study.errors import UserError
from vae_study.metrics import BASELINE, PERCENTILES
from vae_study.selection.comparison import Baseline, Candidate, is_normal
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
        candidate: What to pack: a trial with its score, an ensemble, or the detector without a model.
        files: Local paths of a trial's WEIGHTS_FILE and SCORER_FILE, by name.
        scores: A trial's scores: one row per validation or test row, all in one order.
        fdr: The false discovery rate at which it flags rows.
        baseline: The detector without a model; needed if it takes part.
    """
    trials = sorted({one.trial for one in candidate.selections})
    frames = {number: scores(number) for number in trials}
    rows = frames[trials[0]] if trials else _scores_of(baseline)
    is_normal_N = is_normal(rows)
    raw_N = None if baseline is None else baseline.scores[BASELINE].to_numpy(np.float64)
    normal_M = candidate.score(frames, raw_N)[is_normal_N]
    thresholds = np.percentile(normal_M, PERCENTILES)
    votes = [Vote(trial=one.trial, score=one.score) for one in candidate.selections]
    description = Description.model_validate(
        {
            "name": candidate.name,
            "data": data.plain(),
            "trials": {str(number): configs[number] for number in trials},
            "votes": votes,
            "baseline": candidate.with_baseline,
            "is_combined": candidate.is_combined,
            "thresholds": {percentile_name(p): float(value) for p, value in zip(PERCENTILES, thresholds, strict=True)},
            "fdr": fdr,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for number in trials:
        _copy(files(number), folder / trial_folder(number))
    if description.baseline and baseline is not None:
        _save(baseline.ensemble.arrays(), folder / BASELINE_FILE)
    if description.scaled_votes:
        columns = {one.name: frames[one.trial][one.score].to_numpy(np.float64) for one in description.scaled_votes}
        scales = {name: TailScale.of(score_N[is_normal_N]).normal_M for name, score_N in columns.items()}
        _save(scales, folder / SCALES_FILE)
    _save({NORMAL_SCORES: calibration_scores(normal_M)}, folder / CALIBRATION_FILE)
    description.write(folder)


def _scores_of(baseline: Baseline | None) -> pd.DataFrame:
    assert baseline is not None, "the detector without a model takes part"
    return baseline.scores


def _save(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    # Unlike save_file, it leaves a file's permissions to the user's umask.
    path.write_bytes(save({name: torch.tensor(array) for name, array in arrays.items()}))


def _copy(paths: Mapping[str, Path], into: Path) -> None:
    into.mkdir(parents=True)
    for name in (WEIGHTS_FILE, SCORER_FILE):
        if name not in paths or not paths[name].exists():
            raise UserError(f"{into.name}: has left no {name}; expected the files of a finished trial")
        shutil.copyfile(paths[name], into / name)
