"""How a table's columns become a model's features, fitted on the training rows only, and back."""

from pipeline.data.preprocessing.fitted import Preprocessing
from pipeline.data.preprocessing.missing import require_complete

__all__ = ["Preprocessing", "require_complete"]
