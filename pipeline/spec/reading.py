"""A study file, and what the command line sets on top of it, becomes a StudySpec, or one message of what is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.scalarbool import ScalarBoolean

from pipeline.errors import UserError
from pipeline.spec.checks import canonical_search, problems_of
from pipeline.spec.overrides import Override, apply_override
from pipeline.spec.problems import Path, Problem, from_validation
from pipeline.spec.schema import StudySpec
from pipeline.spec.searching import spelled_in
from pipeline.spec.steering import canonical_enqueue


def load_spec(source: str | FilePath | Mapping[str, Any], overrides: Sequence[str] = ()) -> StudySpec:
    """Read and check a study file once.

    Args:
        source: A YAML file, or its content as a dictionary.
        overrides: Settings on top of it, each "key=value" with a dotted key and a YAML value; null removes a key.

    Returns:
        The checked spec, complete with defaults.

    Raises:
        UserError: With every problem found: file and line, key path, what came, what was expected.
    """
    file, document = _read(source)
    settings = [apply_override(document, text) for text in overrides]
    try:
        return _build(document)
    except _Invalid as error:
        lines = [f"{_place(file, document, settings, problem.path)}{problem.text()}" for problem in error.problems]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


class _Invalid(Exception):
    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems


def _read(source: str | FilePath | Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(source, Mapping):
        return "spec", _plain(source)
    try:
        text = FilePath(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{source}: cannot read this study file: {reason}") from None
    try:
        document = YAML(typ="rt").load(text)
    except Exception as error:  # Beside YAMLError, ruamel lets pass what a constructor or Python itself throws.
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, Mapping):
        raise UserError(f"{source}: came {type(document).__name__}, expected a mapping with the keys study, data, ...")
    return str(source), document


def _build(document: Mapping[str, Any]) -> StudySpec:
    search = document.get("search", {})
    given = dict(document)
    problems: list[Problem] = []
    if isinstance(search, Mapping):
        given["search"], problems = canonical_search(search)
    if "enqueue" in given:
        given["enqueue"], twice = canonical_enqueue(given["enqueue"])
        problems += twice
    try:
        spec = StudySpec.model_validate(_plain(given))
    except ValidationError as error:
        raise _Invalid([*problems, *from_validation(error, StudySpec)]) from None
    except RecursionError:
        raise _Invalid([Problem((), "a value contains itself, or is nested too deeply")]) from None
    problems = problems or problems_of(spec)
    if problems:
        raise _Invalid(problems)
    return spec


def _plain(node: Any) -> Any:
    """The document as the plain types that strict validation wants; ruamel's own are subclasses of them."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(item) for item in node]
    if isinstance(node, ScalarBoolean):
        return bool(node)
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _place(file: str, document: Any, settings: Sequence[Override], path: Path) -> str:
    # The one that says most of the path, and the last of equal ones.
    for setting in sorted(reversed(settings), key=lambda setting: -len(setting.path)):
        if path[: len(setting.path)] == setting.path:
            return f"--set {setting.text}: "
    line = _line(document, path)
    return f"{file}:{line}: " if line else f"{file}: "


def _line(document: Any, path: Path) -> int | None:
    """The 1-based line of the deepest part of a key path that the document has."""
    found: int | None = None
    node: Any = document
    for key in path:
        try:
            marks: Any = node.lc
            key = spelled_in(node, key) if isinstance(node, Mapping) else key
            place = marks.key(key) if isinstance(node, Mapping) else marks.item(key)
            found, node = place[0] + 1, node[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return found
