"""The files that a trial leaves at its end, in HOME/STUDY/trials/trial-0007/."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save

from pipeline.folders import Folder
from pipeline.vae.outcome import SCORER_FILE, WEIGHTS_FILE, Outcome

SCORES, EXAMPLES, WEIGHTS, SCORER = "scores.parquet", "examples.npz", WEIGHTS_FILE, SCORER_FILE
#: What a trial that will not be chosen needs no longer.
OF_FINALISTS = (EXAMPLES, WEIGHTS, SCORER)


def write_outcome(folder: Folder, outcome: Outcome) -> None:
    """Write all files of a trial, or none: who reads them looks for the scores, which come last and go first.

    Raises:
        OSError: They cannot be written.
    """
    folder.remove(SCORES)
    folder.clear()
    examples, scores = io.BytesIO(), io.BytesIO()
    np.savez(examples, allow_pickle=False, **outcome.arrays)
    folder.write(EXAMPLES, examples.getbuffer())
    for name, tensors in ((WEIGHTS, outcome.weights), (SCORER, outcome.scorer)):
        folder.write(name, save({part: value.contiguous().cpu() for part, value in tensors.items()}))
    outcome.scores.to_parquet(scores)
    folder.write(SCORES, scores.getbuffer())


def read_scores(folder: Folder) -> pd.DataFrame:
    """A trial's scores, a row an example.

    Raises:
        FileNotFoundError: The trial has left no files.
    """
    return pd.read_parquet(io.BytesIO(folder.read(SCORES)))


def fetch(folder: Folder, names: Sequence[str], into: Path) -> list[Path]:
    """Local paths of some of a trial's files: their own where they are local, else copies.

    Args:
        folder: The trial's.
        names: Of its files.
        into: Where copies go, under the same names.

    Raises:
        FileNotFoundError: The trial has left no files.
        OSError: They cannot be read, or not be copied.
    """
    if SCORES not in folder.names():
        raise FileNotFoundError(f"{folder}: no trial has left its files here")
    if folder.local:
        return [folder.local / name for name in names]
    for name in names:
        folder.fetch(name, into / name)
    return [into / name for name in names]
