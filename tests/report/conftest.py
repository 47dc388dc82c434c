"""Studies that several tests look at, made once."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vae_study.report import figure, write_report
from vae_study.report.figure import Figure
from vae_study.tracking.record import StudyRecord

from .detectors import compared, in_units
from .families import confirmed, looked_into
from .studies import study, table_study


@pytest.fixture(scope="session", autouse=True)
def picture() -> Iterator[Callable[[Figure[Any], Any], bytes]]:
    """The product's own way to draw; during the tests, figures of equal numbers are drawn once."""
    draw, drawn = figure.picture, dict[tuple[str, bytes], bytes]()

    def once(one: Figure[Any], numbers: Any) -> bytes:
        key = one.name, pickle.dumps(numbers)
        if key not in drawn:
            drawn[key] = draw(one, numbers)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "picture", once)
        yield draw


@pytest.fixture(scope="session")
def digits() -> StudyRecord:
    """A study of images with labelled anomalies, further seeds, a look into the code and detectors compared."""
    return confirmed(compared(looked_into(study())))


@pytest.fixture(scope="session")
def table() -> StudyRecord:
    """A study of a table whose columns and units are known."""
    return in_units(compared(table_study(trials=20, epochs=12)))


@pytest.fixture(scope="session")
def report(digits: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the digits study's report."""
    return write_report(digits, tmp_path_factory.mktemp("reports") / "digits").parent
