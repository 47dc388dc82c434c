"""Read a study file and what the command line sets on top of it: a checked StudyConfig, or every problem found."""

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.scalarbool import ScalarBoolean

from vae_study.config.base import Path, Problem, from_validation, shortened
from vae_study.config.search_space import PARAMETER_PATHS, canonical_name, spelled_in, takes_whole_numbers
from vae_study.config.study import StudyConfig
from vae_study.config.validation import problems_of
from vae_study.errors import UserError

# Study files have some thousands of bytes; enqueued trials may add to them.
MOST_BYTES, MOST_VALUES = 10_000_000, 1_000_000
# Of a whole number. Python writes out none of more than 4,300 digits, nor would a message.
MOST_BITS = 4_096

# One --set option: its text, and the key path that it set.
Override = tuple[str, Path]


def load_config(source: str | FilePath | Mapping[str, Any], overrides: Sequence[str] = ()) -> StudyConfig:
    """Read and check a study file once.

    Args:
        source: A YAML file, or its content as a dictionary.
        overrides: Settings on top of it, each "key=value" with a dotted key and a YAML value; null removes a key.

    Returns:
        The checked config, complete with defaults.

    Raises:
        UserError: With every problem found: file and line, key path, what was given, what was expected.
    """
    file, document = _read(source)
    settings = [(text, _override(document, text)) for text in overrides]
    config, problems = _checked(document)
    if config is None or problems:
        lines = [f"{_place(file, document, settings, problem.path)}{problem.text()}" for problem in problems]
        raise UserError("\n".join(dict.fromkeys(lines)))
    return config


def _read(source: str | FilePath | Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(source, Mapping):
        _require_small("config", source)
        return "config", _plain(source)
    try:
        text = _text(FilePath(source))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{source}: cannot read this study file: {reason}") from None
    try:
        document = YAML(typ="rt").load(text)
    except Exception as error:  # ruamel does not wrap every error in YAMLError.
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    _require_small(str(source), document)
    if not isinstance(document, Mapping):
        raise UserError(f"{source}: got {type(document).__name__}, expected a mapping with the keys study, data, ...")
    return str(source), document


def _text(path: FilePath) -> str:
    # A pipe with a name may never have a writer; what a shell makes of <(command) is in /dev/fd.
    if path.is_fifo() and not str(path).startswith(("/dev/fd/", "/dev/stdin")):
        raise OSError(0, "it is a pipe")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(0, f"it has more than {MOST_BYTES:,} bytes")
    return content.decode("utf-8")


def _require_small(where: str, content: Any) -> None:
    """Raise UserError if what was read is too large to be checked, or to be shown in a message."""
    try:
        size = _size(content, {})
    except OverflowError:
        raise UserError(f"{where}: has a whole number of more than a thousand digits; expected a smaller one") from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply") from None
    if size > MOST_VALUES:
        raise UserError(f"{where}: its aliases stand for more than {MOST_VALUES:,} values; expected them written out")


def _size(node: Any, known: dict[int, int]) -> int:
    """How many keys and values a document has with every alias written out; one that contains itself is found later."""
    if not isinstance(node, Mapping | list):
        if isinstance(node, int) and node.bit_length() > MOST_BITS:
            raise OverflowError
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        children = [*node, *node.values()] if isinstance(node, Mapping) else node
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _checked(document: Mapping[str, Any]) -> tuple[StudyConfig | None, list[Problem]]:
    """The config, if it could be built, and every problem found."""
    given = dict(document)
    problems: list[Problem] = []
    if isinstance(search := document.get("search", {}), Mapping):
        given["search"], problems = _canonical_search(search)
    if isinstance(enqueued := given.get("enqueue"), list | tuple):
        given["enqueue"] = [_by_short_names(one) if isinstance(one, Mapping) else one for one in enqueued]
        for index, (one, named) in enumerate(zip(enqueued, given["enqueue"], strict=True)):
            if isinstance(one, Mapping) and len(named) < len(one):
                problems.append(Problem(("enqueue", index), "names a parameter twice"))
    try:
        config = StudyConfig.model_validate(_plain(given))
    except ValidationError as error:
        return None, [*problems, *from_validation(error, StudyConfig)]
    except RecursionError:
        return None, [Problem((), "a value contains itself, or is nested too deeply")]
    return config, problems or problems_of(config)


def _canonical_search(search: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The search section with every parameter, also inside `when`, by its short name."""
    named: dict[str, Any] = {}
    problems: list[Problem] = []
    for given, parameter in search.items():
        path: Path = ("search", str(given))
        name = canonical_name(str(given))
        if name is None:
            problems.append(Problem(path, "unknown parameter", expected_one_of=tuple(PARAMETER_PATHS)))
        elif name in named:
            problems.append(Problem(path, f"{name} is searched twice"))
        elif not isinstance(parameter, Mapping):
            named[name] = parameter
        else:
            given_type = {"type": "int"} if "choices" not in parameter and takes_whole_numbers(name) else {}
            when = parameter.get("when")
            conditions = {"when": _by_short_names(when)} if isinstance(when, Mapping) else {}
            named[name] = {**given_type, **parameter, **conditions}
    return named, problems


def _by_short_names(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {canonical_name(str(name)) or str(name): value for name, value in values.items()}


def _plain(node: Any) -> Any:
    """The document in plain types: strict validation refuses ruamel's subclasses."""
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
    # The setting with the longest common path; of equal ones the last.
    for text, changed in sorted(reversed(settings), key=lambda setting: -len(setting[1])):
        if path[: len(changed)] == changed:
            return f"--set {shortened(text)}: "
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


def _override(document: Any, text: str) -> Path:
    """Put one "key=value" into a document, in place; a value of null removes the key. Return the key path."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {shortened(text)}: expected key=value, such as training.epochs=20")
    path = _path(key.strip())
    try:
        parsed = YAML(typ="safe").load(value)
    except Exception:  # ruamel does not wrap every error in YAMLError.
        raise UserError(f"--set {shortened(text)}: the value is not valid YAML") from None
    _require_small(f"--set {shortened(text)}", parsed)
    *parents, leaf = map(str, path)
    for parent in parents:
        parent = spelled_in(document, parent)
        if document.get(parent) is None:
            document[parent] = {}
        document = document[parent]
        if not isinstance(document, Mapping):
            raise UserError(f"--set {shortened(text)}: a part of {key} is not a section")
    leaf = spelled_in(document, leaf)
    if parsed is None:
        document.pop(leaf, None)
    else:
        document[leaf] = parsed
    return path


def _path(key: str) -> Path:
    """The key path of a dotted key. Inside `search`, a parameter's dotted name is a single key."""
    if key in PARAMETER_PATHS:
        return PARAMETER_PATHS[key]
    head, _, rest = key.partition(".")
    if head != "search" or not rest:
        return tuple(key.split("."))
    spellings = [*PARAMETER_PATHS, *map(".".join, PARAMETER_PATHS.values())]
    name = max((name for name in spellings if f"{rest}.".startswith(f"{name}.")), key=len, default=None)
    if name is None:
        return ("search", rest)
    # The rest is a key of a range or of choices; after `when`, the dotted name of another parameter.
    field, _, condition = rest[len(name) + 1 :].partition(".")
    return ("search", canonical_name(name) or name, *filter(None, (field, condition)))
