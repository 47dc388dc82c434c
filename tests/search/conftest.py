from pathlib import Path

import pytest
from vae_study.config.loading import load_config
from vae_study.search.study_store import StudyStore

DIGITS = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"
GOOD = {"val/reconstruction": 30.0, "val/kl": 5.0}
LISTS = ["model.network.hidden=null", "search.network.hidden={choices: [[64, 32], [128]]}"]


@pytest.fixture
def open_store(tmp_path):
    """Opens the study of a SQLite file, as each new driver does."""

    def open_it(*settings, name="a", file="study.db"):
        return StudyStore(load_config(DIGITS, [*LISTS, *settings]), name, f"sqlite:///{tmp_path / file}")

    return open_it
