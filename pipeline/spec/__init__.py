"""What the user asked for, checked once: a study file becomes a frozen StudySpec."""

from pipeline.spec.data import DataSpec
from pipeline.spec.reading import load_spec
from pipeline.spec.schema import SPEC_FILE, StudySpec
from pipeline.spec.searching import Choices, Range
from pipeline.spec.trial import KlAnnealing, ModelSpec, ObjectiveSpec, TrainingSpec, TrialSpec

__all__ = [
    "SPEC_FILE",
    "Choices",
    "DataSpec",
    "KlAnnealing",
    "ModelSpec",
    "ObjectiveSpec",
    "Range",
    "StudySpec",
    "TrainingSpec",
    "TrialSpec",
    "load_spec",
]
