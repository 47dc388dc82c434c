"""A packed detector as a model that MLflow can load and serve."""

import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

from pipeline.tracking.models.code import shipped_code
from pipeline.tracking.models.names import DETECTOR

# It would ask pip, for seconds, whether versions that are installed go together; and it would take the uv project
# in whose folder a study happens to be started for the model's own.
os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")

EXAMPLE_ROWS = 3


def as_pyfunc(detector_folder: Path, example: pd.DataFrame, output: pd.DataFrame, into: Path) -> None:
    """Write a folder that `mlflow.pyfunc.load_model` loads: JSON, safetensors and source code, no pickle.

    Args:
        detector_folder: Of a packed detector.
        example: Some rows of the user's columns that are features; the first few are kept with the model.
        output: What the detector gives, of any rows.
        into: The folder; what it held is replaced, once the new one is whole.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    code = shipped_code()
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unfinished-") as scratch:
        # A folder in the model has the name of the one that it is copied from.
        named = Path(scratch) / Path(DETECTOR).name
        named.symlink_to(detector_folder.resolve(), target_is_directory=True)
        save_model(
            path=Path(scratch) / "model",
            loader_module=code.loader,
            data_path=str(named),
            code_paths=[str(code.write(Path(scratch)))],
            signature=ModelSignature(inputs=_inputs(example), outputs=_outputs(output)),
            input_example=_without_nan(example.head(EXAMPLE_ROWS)),
            pip_requirements=list(code.requirements),
        )
        shutil.rmtree(into, ignore_errors=True)
        (Path(scratch) / "model").rename(into)


def _inputs(example: pd.DataFrame) -> Schema:
    """The columns by name, of any type, since the detector itself says what it cannot take.

    MLflow refuses whole numbers where it expects a float, floats (whole numbers with one missing) where it expects a
    whole number, and categories where it expects text; a user's next file may have any of them. The price: MLflow
    passes such columns on value by value, a microsecond each, and takes no CSV over HTTP.
    """
    anything = AnyType()  # type: ignore[no-untyped-call]
    return Schema([ColSpec(anything, str(name)) for name in example.columns])


def _without_nan(example: pd.DataFrame) -> pd.DataFrame:
    """The rows as they go into JSON, which has no NaN."""
    return example.astype(object).where(example.notna(), None)


def _outputs(output: pd.DataFrame) -> Schema:
    kinds = {"b": DataType.boolean, "f": DataType.double}
    return Schema([ColSpec(kinds[output[name].dtype.kind], str(name)) for name in output.columns])
