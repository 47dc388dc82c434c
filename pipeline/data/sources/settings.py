"""Which settings of the data section mean something to which source; none is ignored in silence."""

from collections.abc import Mapping
from operator import attrgetter

from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

#: The settings that choose among the columns of a table.
TABLE_SETTINGS = ("columns", "label", "categories", "split.column")
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "digits": (),
    "breast_cancer": (),
    "mnist_sample": (),
    "parquet": ("path", *TABLE_SETTINGS),
    "csv": ("path", *TABLE_SETTINGS),
    "npz": ("path", "label"),
    "idx": ("path", "label"),
    "images": ("path",),
    "python": TABLE_SETTINGS,
}
_PATHS = {"parquet": "a file, a folder or s3://...", "csv": "a file or s3://...", "images": "a folder"}
_DEFAULTS = DataSpec(source="digits")


def require_settings(spec: DataSpec, source: str) -> None:
    """Nothing, where a source is given what it needs and nothing that it would ignore.

    Args:
        spec: The data section.
        source: Its source's name; `python` for all functions.

    Raises:
        UserError: The path is missing, or a setting has no meaning for the source.
    """
    known = _KNOWN[source]
    if "path" in known and not spec.path:
        raise UserError(f"data.path: missing, expected {_PATHS.get(source, 'a file')} for source {spec.source}")
    for name in ("path", *TABLE_SETTINGS):
        if name not in known:
            forbid_setting(spec, name, f"source {spec.source}")


def forbid_setting(spec: DataSpec, name: str, reader: str) -> None:
    """Nothing, where a setting is left at its default.

    Args:
        spec: The data section.
        name: The setting's key path in it.
        reader: What would ignore it, in words.

    Raises:
        UserError: It is set.
    """
    came = attrgetter(name)(spec)
    if came != attrgetter(name)(_DEFAULTS):
        raise UserError(f"data.{name}: came {_shown(came)}, which has no meaning for {reader}; leave it out")


def _shown(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
