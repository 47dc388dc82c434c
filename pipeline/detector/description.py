"""detector.json: what a packed detector is made of, apart from its numbers."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.choosing.ensemble import Standard
from pipeline.data.dataset import Facts, facts_from
from pipeline.errors import UserError
from pipeline.spec.base import Fraction, FromList, Positive, SpecPart
from pipeline.spec.problems import from_validation
from pipeline.spec.schema import AnomalyScore
from pipeline.spec.trial import TrialSpec

# Raised whenever the folder, or what its numbers mean, changes.
VERSION = 1
FILE = "detector.json"


class Scaled(SpecPart):
    """Scores that are brought to a `Standard` before they are averaged with others'.

    Attributes:
        median, width: The standard's.
    """

    median: float
    width: Positive

    @property
    def standard(self) -> Standard:
        """The scale itself."""
        return Standard(median=self.median, width=self.width)


class Voice(Scaled):
    """A trial, and the score that it votes with."""

    trial: Annotated[int, Field(ge=0)]
    score: AnomalyScore


class BaselineVoice(Scaled):
    """The raw nearest neighbours.

    Attributes:
        share: Of the vote.
    """

    share: Fraction


class Description(SpecPart):
    """What detector.json holds.

    Attributes:
        version: Of the folder's layout.
        name: The rule, the ensemble or the trial that this is.
        facts: `Facts.plain()` of the data that it was trained on.
        trials: Each trial's complete configuration, by its number.
        voices: Who votes, one at least.
        baseline: The raw nearest neighbours, where they vote.
        is_combined: Whether standardized scores are averaged; else there is one voice, and its own score counts.
        thresholds: Percentiles of this detector's scores of normal validation rows.
    """

    version: Literal[1] = 1
    name: str
    facts: dict[str, Any]
    trials: dict[Annotated[str, Field(pattern=r"^(0|[1-9]\d*)$")], TrialSpec]
    voices: Annotated[tuple[Voice, ...], FromList, Field(min_length=1)]
    baseline: BaselineVoice | None = None
    is_combined: bool
    thresholds: Annotated[dict[Literal["90", "95", "99"], float], Field(min_length=3)]

    def write(self, folder: Path) -> None:
        """Write detector.json."""
        (folder / FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=1), encoding="utf-8")


def read_description(folder: Path) -> tuple[Description, Facts]:
    """What detector.json says.

    Raises:
        UserError: It is not there, or not what `Description.write` writes.
    """
    path = folder / FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {FILE} is there; expected the folder of a packed detector") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: came what is no JSON ({error}); expected the description of a detector") from None
    version = plain.get("version") if isinstance(plain, dict) else None
    if version != VERSION:
        raise UserError(f"{path}: came version {version}, expected {VERSION}, the only one that this release reads")
    return _checked(path, plain)


def _checked(path: Path, plain: dict[str, Any]) -> tuple[Description, Facts]:
    try:
        found = Description.model_validate(plain)
    except ValidationError as error:
        raise UserError(f"{path}: {from_validation(error, Description)[0].text()}") from None
    if {str(voice.trial) for voice in found.voices} != set(found.trials):
        raise UserError(f"{path}: voices and trials do not belong together; expected a voice of each trial")
    if not found.is_combined and (len(found.voices) > 1 or found.baseline):
        raise UserError(f"{path}: is_combined: came false with several voices, expected true")
    try:
        return found, facts_from(found.facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: facts: came what cannot be used ({error!r}); expected what `pack` writes") from None
