"""The code that goes with a model, so that it loads where vae-study is not installed.

It goes by a name of its own, which its content determines. By the name `pipeline` it would take the place of an
installed vae-study (MLflow puts a model's code first on the path, and `pipeline.api` would be gone for the rest of the
process), or be hidden by one that is imported already, by a model of another version, or by a user's own `pipeline`.
"""

import ast
import hashlib
import importlib.metadata
import io
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRY = "pipeline.detector.pyfunc"
# One archive in place of a hundred files, since each of them would be a request to the server.
ARCHIVE = "modules.zip"
INIT = f'''"""The part of vae-study that this model needs; its modules are in the archive beside this file."""

from pathlib import Path

__path__.append(str(Path(__file__).with_name("{ARCHIVE}")))
'''
# A fixed time, the first that an archive can hold: the same modules make the same archive.
NO_TIME = (1980, 1, 1, 0, 0, 0)
IMPORT = re.compile(r"^(\s*(?:from|import) )pipeline(?=[. ])", re.MULTILINE)
# Where a package's name on PyPI is not that of its module; None where another requirement brings it along.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "ruamel": "ruamel.yaml", "pydantic_core": None}


@dataclass(frozen=True, kw_only=True)
class ShippedCode:
    """A package that a model takes along.

    Attributes:
        package: Its name.
        loader: The module in it that loads the model.
        requirements: What it imports from PyPI, each "name==version" as it is installed here.
        files: Its content by name.
    """

    package: str
    loader: str
    requirements: tuple[str, ...]
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> Path:
        """Write the package into a folder; returns the package's own."""
        place = folder / self.package
        place.mkdir()
        for name, content in self.files.items():
            (place / name).write_bytes(content)
        return place


@lru_cache
def shipped_code(entry: str = ENTRY) -> ShippedCode:
    """A module of ours and all that it imports, as a package that stands alone."""
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in _modules(entry)}
    package = f"vae_study_{hashlib.sha256(repr(sources).encode()).hexdigest()[:8]}"
    return ShippedCode(
        package=package,
        loader=entry.replace("pipeline", package, 1),
        requirements=_requirements(sources.values()),
        files={"__init__.py": INIT.encode(), ARCHIVE: _archive(sources, package)},
    )


def _archive(sources: Mapping[str, str], package: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, source in sources.items():
            renamed = IMPORT.sub(rf"\g<1>{package}", source)
            archive.writestr(zipfile.ZipInfo(name, NO_TIME), renamed, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _modules(entry: str) -> list[Path]:
    """The files of a module, of the packages around it, and of all that these import from us, in order."""
    found: set[Path] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if path is not None and path not in found:
            found.add(path)
            waiting += [name.rpartition(".")[0], *_imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))]
    return sorted(found)


def _path(module: str) -> Path | None:
    """A module's file; None for a name within a module, and for what is not ours."""
    first, *others = module.split(".")
    place = ROOT.joinpath(*others)
    known = (place / "__init__.py", place.with_suffix(".py")) if first == ROOT.name else ()
    return next((path for path in known if path.is_file()), None)


def _imports(statements: Iterable[ast.AST]) -> Iterator[str]:
    """The modules that are imported, and the names in them, which may be modules as well."""
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{name.name}" for name in statement.names)
        elif isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)


def _requirements(sources: Iterable[str]) -> tuple[str, ...]:
    """What is imported from elsewhere as soon as the modules are; what only some function wants is not needed here."""
    modules = {name.partition(".")[0] for source in sources for name in _imports(ast.parse(source).body)}
    names = {DISTRIBUTIONS.get(name, name) for name in modules - sys.stdlib_module_names - {ROOT.name}}
    return tuple(sorted(f"{name}=={_version(name)}" for name in names if name))


def _version(distribution: str) -> str:
    """The version installed, without what tells a build for one kind of machine from another, such as "+cpu"."""
    return importlib.metadata.version(distribution).partition("+")[0]
