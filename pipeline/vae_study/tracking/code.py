"""A packed detector as a model that MLflow can load and serve, with the code that it needs.

With the code, the model loads without vae-study being installed. The package has a name of its own, which its
content determines. With the name `vae_study` it would take the place of an installed vae-study (MLflow puts a model's
code first on the path, and `vae_study.api` would be gone for the rest of the process), or be hidden by one that is
imported already, or by a model of another version.
"""

import ast
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types.schema import ColSpec, DataType, Schema

from vae_study.data.windows import SequenceInput
from vae_study.tracking.schema import DETECTOR_FOLDER

# MLflow would ask pip, for seconds, whether the installed versions go together; and it would take the uv project in
# whose folder a study happens to be started for the model's own.
os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")

EXAMPLE_ROWS = 3
# By the kind of a column's dtype.
TYPES = {"b": DataType.boolean, "i": DataType.long, "f": DataType.double, "M": DataType.datetime, "O": DataType.string}
ROOT = Path(__file__).parents[1]
ENTRY = "vae_study.detector.pyfunc"
# One archive in place of a hundred files, since each of them would be a request to the server.
ARCHIVE = "modules.zip"
INIT = f'''"""The part of vae-study that this model needs; its modules are in the archive beside this file."""

from pathlib import Path

__path__.append(str(Path(__file__).with_name("{ARCHIVE}")))
'''
# A fixed time, the first that an archive can hold: the same modules make the same archive.
NO_TIME = (1980, 1, 1, 0, 0, 0)
IMPORT = re.compile(r"^(\s*(?:from|import) )vae_study(?=[. ])", re.MULTILINE)
# Modules whose package has another name on PyPI; None if another requirement installs it.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "ruamel": "ruamel.yaml", "pydantic_core": None}


def write_pyfunc(
    detector_folder: Path,
    example: pd.DataFrame,
    output: pd.DataFrame,
    into: Path,
    sequence: SequenceInput | None = None,
) -> None:
    """Write a folder that `mlflow.pyfunc.load_model` loads: JSON, safetensors and source code, no pickle.

    Args:
        detector_folder: Of a packed detector.
        example: Rows of the user's columns in their types, which become those of the signature; the first few rows are
            saved with the model.
        output: What the detector returns for any rows.
        into: The folder; it is replaced once the new one is complete.
        sequence: How the detector takes rows as series; None if each is an example.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    code = shipped_code()
    first = example.head(EXAMPLE_ROWS) if sequence is None else sequence.example(example, EXAMPLE_ROWS)
    inputs, outputs = (Schema([*map(_column, frame.columns, frame.dtypes)]) for frame in (example, output))
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unfinished-") as scratch:
        # MLflow names the folder in the model after the one that it is copied from.
        named = Path(scratch) / Path(DETECTOR_FOLDER).name
        named.symlink_to(detector_folder.resolve(), target_is_directory=True)
        save_model(
            path=Path(scratch) / "model",
            loader_module=code.loader,
            data_path=str(named),
            code_paths=[str(code.write(Path(scratch)))],
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            # JSON has no NaN.
            input_example=first.astype(object).where(first.notna(), None),
            pip_requirements=list(code.requirements),
        )
        shutil.rmtree(into, ignore_errors=True)
        (Path(scratch) / "model").rename(into)


def _column(name: Any, dtype: Any) -> ColSpec:
    return ColSpec(TYPES[dtype.kind], str(name))


@dataclass(frozen=True, kw_only=True)
class ShippedCode:
    """The package of source code in a saved model.

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
        """Write the package into a folder, and return its path."""
        path = folder / self.package
        path.mkdir()
        for name, content in self.files.items():
            (path / name).write_bytes(content)
        return path


@lru_cache
def shipped_code(entry: str = ENTRY) -> ShippedCode:
    """A module of vae_study and all that it imports, as a package of its own."""
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in _modules(entry)}
    package = f"vae_study_{hashlib.sha256(repr(sources).encode()).hexdigest()[:8]}"
    return ShippedCode(
        package=package,
        loader=entry.replace("vae_study", package, 1),
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
    """The files of a module, of its parent packages, and of all vae_study modules that these import, sorted."""
    found: set[Path] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        # The root package only names the public API; the model's package has an __init__ of its own.
        if path is not None and path not in found and name != ROOT.name:
            found.add(path)
            waiting += [name.rpartition(".")[0], *_imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))]
    return sorted(found)


def _path(module: str) -> Path | None:
    """A module's file; None for a name within a module, and outside vae_study."""
    first, *others = module.split(".")
    stem = ROOT.joinpath(*others)
    known = (stem / "__init__.py", stem.with_suffix(".py")) if first == ROOT.name else ()
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
    """What the modules import from elsewhere when they are imported themselves; imports in functions do not count.

    Versions are without what tells a build for one kind of machine from another, such as "+cpu".
    """
    modules = {name.partition(".")[0] for source in sources for name in _imports(ast.parse(source).body)}
    names = {DISTRIBUTIONS.get(name, name) for name in modules - sys.stdlib_module_names - {ROOT.name}}
    return tuple(sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names if name))
