"""Packed detectors as MLflow's models: written, attached to their runs, registered, found again."""

from pipeline.tracking.models.finding import fetch_model, find_model, known_models, model_place
from pipeline.tracking.models.logged import log_model
from pipeline.tracking.models.pyfunc import as_pyfunc
from pipeline.tracking.models.registry import crown, promote

__all__ = ["as_pyfunc", "crown", "fetch_model", "find_model", "known_models", "log_model", "model_place", "promote"]
