"""What is wrong with a spec, in words: the key path, what came, what was expected and the nearest valid name."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.spec.searching import CHOICES_TAG, RANGE_TAG

Path = tuple[str | int, ...]

# Where pydantic's own words speak of Python and not of YAML.
EXPECTED = {
    "model_type": "a mapping",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "at least one item",
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one key path."""

    path: Path
    message: str
    expected_one_of: tuple[str, ...] = ()

    def text(self) -> str:
        """The problem in one line, without the file."""
        words = [f"{dotted(self.path)}: {self.message}" if self.path else self.message]
        if self.expected_one_of:
            words.append(f"expected one of {', '.join(self.expected_one_of)}")
            came = self.message.partition("came ")[2] or str(self.path[-1])
            words += nearest(came.strip("'\""), self.expected_one_of)
        return "; ".join(words)


def dotted(path: Path) -> str:
    """A key path as the user would write it, such as enqueue[0].beta."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def nearest(given: str, valid: Sequence[str]) -> list[str]:
    """A suggestion, where one of the valid names is close to what was given."""
    close = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return [f"did you mean {close[0]!r}?"] if close else []


def from_validation(error: ValidationError, schema: type[BaseModel] | None = None) -> list[Problem]:
    """The problems that pydantic found, in our words."""
    problems = [_from_detail(dict(detail), schema) for detail in error.errors(include_url=False)]
    inner = {problem.path[:depth] for problem in problems for depth in range(len(problem.path))}
    return [problem for problem in problems if problem.path not in inner]


def _from_detail(detail: dict[str, Any], schema: type[BaseModel] | None) -> Problem:
    path = _untagged(detail["loc"])
    came = f"came {_shown(detail['input'])}"
    match detail["type"]:
        case "extra_forbidden":
            return Problem(path, "unknown key", _siblings(schema, path))
        case "missing":
            return Problem(path, "is missing; this key is required")
        case "literal_error":
            valid = detail["ctx"]["expected"].replace(" or ", ", ").split(", ")
            return Problem(path, came, tuple(value.strip("'") for value in valid))
        case "string_pattern_mismatch":
            return Problem(path, f"{came}, expected letters, digits, '.', '_' or '-', with a letter or digit first")
        case _:
            message = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            expected = EXPECTED.get(detail["type"], f"{message[:1].lower()}{message[1:]}")
            return Problem(path, f"{came}, expected {expected}")


def _untagged(path: Path) -> Path:
    """A key path without the name of the kind of parameter, which pydantic puts after the parameter's own."""
    return path[:2] + path[3:] if path[:1] == ("search",) and path[2:3] in ((RANGE_TAG,), (CHOICES_TAG,)) else path


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _siblings(schema: type[BaseModel] | None, path: Path) -> tuple[str, ...]:
    """The valid keys beside the last of a path; the keys of a mapping and the numbers of a list lead no deeper."""
    parts = [] if schema is None else [schema]
    for key in map(str, path[:-1]):
        fields = [part.model_fields[key] for part in parts if key in part.model_fields]
        parts = [inner for field in fields for inner in _parts_in(field.annotation)] if fields else parts
    return tuple(dict.fromkeys(name for part in parts for name in part.model_fields))


def _parts_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts_in(inner)
