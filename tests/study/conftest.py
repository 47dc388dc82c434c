from dataclasses import dataclass
from pathlib import Path

import pytest
from vae_study.api import run_study
from vae_study.tracking.record import StudyRecord

CONFIG = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"
SHORT = ["training.epochs=4", "model.network.hidden=[32, 16]", "confirm=null"]


@dataclass
class Study:
    """A finished study and where it lies."""

    record: StudyRecord
    home: Path


@pytest.fixture(scope="session")
def study(ray_session, tmp_path_factory) -> Study:
    """Ten real trials on two workers; among them configurations that diverge."""
    home = tmp_path_factory.mktemp("home")
    rates = "search.training.learning_rate={choices: [0.001, 10]}"
    overrides = [*SHORT, "trials=10", "sampler.seed=1", "training.learning_rate=null", rates]
    return Study(run_study(CONFIG, overrides, home=home), home)
