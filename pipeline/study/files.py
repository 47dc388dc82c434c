"""The files that a trial leaves at its end, in HOME/STUDY/trials/trial-0007/."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from pipeline.vae.outcome import Outcome

SCORES, EXAMPLES, WEIGHTS = "scores.parquet", "examples.npz", "model.safetensors"


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write all files of a trial, or none."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    outcome.scores.to_parquet(unfinished / SCORES)
    np.savez(unfinished / EXAMPLES, allow_pickle=False, **outcome.arrays)
    save_file({name: value.contiguous().cpu() for name, value in outcome.weights.items()}, unfinished / WEIGHTS)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
