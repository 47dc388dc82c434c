"""A packed detector as MLflow loads it (`loader_module` of the python_function flavor). It needs no MLflow itself."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.data.streams import frame_features
from pipeline.detector.detector import Detector


@dataclass(frozen=True)
class PackedModel:
    """What `mlflow.pyfunc` asks."""

    detector: Detector

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score the rows of a frame.

        Args:
            frame: The user's columns in any order; what the detector was not trained on is ignored.
            params: MLflow hands it over; there are none.

        Returns:
            What `Detector.score` gives.

        Raises:
            UserError: A column is missing or of another kind, or a value is missing and that is refused.
        """
        return self.detector.score(frame_features(frame, self.detector.preprocessing))


def _load_pyfunc(path: str) -> PackedModel:
    """The packed detector in a folder."""
    return PackedModel(Detector.load(path))
