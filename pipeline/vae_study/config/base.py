"""The base class of every section of a study file, the types that sections share, and the texts of their errors."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from vae_study.metrics import RULES, SCORES, STEERING


class ConfigPart(BaseModel):
    """A section of a study file. Frozen and strict: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def at_most(most: int, why: str) -> AfterValidator:
    """A number's upper bound; the error of a larger one says the bound and why there is one."""

    def bounded(value: float) -> float:
        if value > most:
            raise ValueError(f"at most {most:,}, {why}")
        return value

    return AfterValidator(bounded)


# Training computes in float32, which has no room for the fourth power of a larger number.
_MOST = at_most(10**9, "since float32 has no room for the powers of a larger one")
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0), _MOST]
NotNegative = Annotated[float, Field(ge=0), _MOST]


def _countable(amount: float) -> float:
    """Raise ValueError if there are more than 4 decimals: Ray counts resources in steps of 0.0001."""
    if round(amount, 4) != amount:
        raise ValueError("a number with at most 4 decimals")
    return amount


Cpus = Annotated[NotNegative, AfterValidator(_countable)]
_ONE_GPU = "the nearest valid value: a worker trains on one GPU, or on a part such as 0.25"
Gpus = Annotated[Cpus, at_most(1, _ONE_GPU)]
Count = Annotated[int, Field(ge=1), at_most(1_000_000, "since a study with more would not end")]
# Of draws from a posterior, and of trainings that repeat one.
_MEAN = "since more would change their mean by nothing that is measured"
Draws = Annotated[int, Field(ge=0), at_most(100_000, _MEAN)]
Repeats = Annotated[int, Field(ge=0), at_most(1_000, _MEAN)]
# What is too wide for the machine is found when a network is made: that depends on the machine.
Width = Annotated[int, Field(ge=1)]
MOST_LAYERS = 256
MOST_CHOICES = 1_000
Seed = Annotated[int, Field(ge=0), at_most(2**63 - 1, "since databases keep no larger whole number")]

# Pydantic takes only the names in the tables; for mypy they are text.
if TYPE_CHECKING:
    MetricName = str
    ScoreName = str
    RuleName = str
else:
    MetricName = Literal[tuple(STEERING)]
    ScoreName = Literal[tuple(SCORES)]
    RuleName = Literal[tuple(RULES)]

# YAML gives lists; frozen objects hold tuples.
FromList = Strict(False)

Path = tuple[str | int, ...]
# Pydantic adds these to the key path of an error in a searched parameter, after its name.
RANGE_TAG, CHOICES_TAG = "a range", "choices of values"

# Replaces pydantic's messages that name Python types; users write YAML.
EXPECTED = {
    "model_type": "a mapping",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "at least one item",
}


@dataclass(frozen=True)
class Problem:
    """One error at one key path."""

    path: Path
    message: str
    expected_one_of: tuple[str, ...] = ()

    def text(self) -> str:
        """The error in one line, without the file."""
        words = [f"{dotted(self.path)}: {self.message}" if self.path else self.message]
        if self.expected_one_of:
            words.append(f"expected one of {', '.join(self.expected_one_of)}")
            got = self.message.partition("got ")[2] or str(self.path[-1])
            words += nearest(got.strip("'\""), self.expected_one_of)
        return "; ".join(words)


def dotted(path: Path) -> str:
    """A key path as the user would write it, such as enqueue[0].beta."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def nearest(given: str, valid: Sequence[str]) -> list[str]:
    """A suggestion (did you mean ...?) if a valid name is close to `given`, else an empty list."""
    close = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return [f"did you mean {close[0]!r}?"] if close else []


def from_validation(error: ValidationError, schema: type[BaseModel] | None = None) -> list[Problem]:
    """The errors that pydantic found, as Problems. One that only repeats an error further inside is left out."""
    problems = [_from_detail(dict(detail), schema) for detail in error.errors(include_url=False)]
    inner = {problem.path[:depth] for problem in problems for depth in range(len(problem.path))}
    return [problem for problem in problems if problem.path not in inner]


def _from_detail(detail: dict[str, Any], schema: type[BaseModel] | None) -> Problem:
    path = _untagged(detail["loc"])
    got = f"got {shortened(repr(detail['input']), 60)}"
    match detail["type"]:
        case "extra_forbidden":
            return Problem(path, "unknown key", _siblings(schema, path))
        case "missing":
            return Problem(path, "is missing; this key is required")
        case "literal_error":
            valid = detail["ctx"]["expected"].replace(" or ", ", ").split(", ")
            return Problem(path, got, tuple(value.strip("'") for value in valid))
        case "string_pattern_mismatch":
            return Problem(path, f"{got}, expected letters, digits, '.', '_' or '-', with a letter or digit first")
        case _:
            message = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            for words, plain in (("greater than or equal to", "at least"), ("less than or equal to", "at most")):
                message = message.replace(words, plain)
            expected = EXPECTED.get(detail["type"], f"{message[:1].lower()}{message[1:]}")
            return Problem(path, f"{got}, expected {expected}")


def _untagged(path: Path) -> Path:
    """A key path without the union tag that pydantic adds after a searched parameter's name."""
    return path[:2] + path[3:] if path[:1] == ("search",) and path[2:3] in ((RANGE_TAG,), (CHOICES_TAG,)) else path


def shortened(text: str, longest: int = 200) -> str:
    """Text of at most this many characters, the end of a longer one left out."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _siblings(schema: type[BaseModel] | None, path: Path) -> tuple[str, ...]:
    """The valid keys of the section that holds the last key of `path`."""
    parts = [] if schema is None else [schema]
    for key in map(str, path[:-1]):
        fields = [part.model_fields[key] for part in parts if key in part.model_fields]
        parts = [inner for field in fields for inner in parts_in(field.annotation)] if fields else parts
    return tuple(dict.fromkeys(name for part in parts for name in part.model_fields))


def parts_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections in the type of a key, such as in a list or a union of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from parts_in(inner)
