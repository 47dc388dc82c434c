"""How MLflow loads a packed model (`loader_module` of its python_function flavor). It needs no MLflow itself."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from vae_study.data import frame_features
from vae_study.detector.detector import Detector


@dataclass(frozen=True)
class PackedModel:
    """What `mlflow.pyfunc` calls."""

    detector: Detector

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score the rows of a frame, as `Detector.score` does: with p-values, but without flags.

        A flag is a decision about many rows at once, and a request may hold a single one.

        Raise UserError if a column is missing or of another type, or if a value is missing and the model takes none.

        Args:
            frame: The user's columns in any order; columns that the model was not trained on are ignored.
            params: MLflow passes it; there are none.
        """
        return self.detector.score(frame_features(frame, self.detector.preprocessing))


def _load_pyfunc(path: str) -> PackedModel:
    """The packed model in a folder."""
    return PackedModel(Detector.load(path))
