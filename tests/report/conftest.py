"""Studies that several tests look at, made once."""

from pathlib import Path

import pytest

from pipeline.report import write_report
from pipeline.tracking.record import StudyRecord

from .detectors import compared, in_units
from .families import confirmed, looked_into
from .studies import study, table_study


@pytest.fixture(scope="session")
def digits() -> StudyRecord:
    """A study of images with labelled anomalies, further seeds, a look into the code and detectors compared."""
    return confirmed(compared(looked_into(study())))


@pytest.fixture(scope="session")
def earlier() -> StudyRecord:
    """The same of a version that compared nothing and kept one score's AUROC only."""
    return confirmed(looked_into(study()))


@pytest.fixture(scope="session")
def table() -> StudyRecord:
    """A study of a table whose columns and units are known."""
    return in_units(compared(table_study(trials=20, epochs=12)))


@pytest.fixture(scope="session")
def report(digits: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the digits study's report."""
    return write_report(digits, tmp_path_factory.mktemp("reports") / "digits").parent
