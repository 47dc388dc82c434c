"""Where examples come from: each source is a function from the data section of a study file to a Table."""

from collections.abc import Callable, Mapping

from pipeline.data.sources.bundled import read_breast_cancer, read_digits, read_mnist_sample
from pipeline.data.sources.csv import read_csv
from pipeline.data.sources.function import PREFIX, read_function
from pipeline.data.sources.idx import read_idx
from pipeline.data.sources.images import read_images
from pipeline.data.sources.npz import read_npz
from pipeline.data.sources.parquet import read_parquet
from pipeline.data.sources.settings import require_settings
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

__all__ = ["SOURCES", "read_table"]

#: Sources by the name that `data.source` gives them; the functions of `python:` go by their prefix.
SOURCES: Mapping[str, Callable[[DataSpec], Table]] = {
    "digits": read_digits,
    "breast_cancer": read_breast_cancer,
    "mnist_sample": read_mnist_sample,
    "parquet": read_parquet,
    "csv": read_csv,
    "npz": read_npz,
    "idx": read_idx,
    "images": read_images,
    "python": read_function,
}


def read_table(spec: DataSpec) -> Table:
    """The examples that a spec names, as they came.

    A table's numbers are filled into their array batch by batch, so that a file larger than memory is no trouble as
    long as its features, in float32, are not.

    Args:
        spec: A relative path counts from the current directory.

    Raises:
        UserError: A setting, a file, a column or a value is not as it must be; the message says which, how many, what
            came and what was expected.
    """
    source = "python" if spec.source.startswith(PREFIX) else spec.source
    require_settings(spec, source)
    try:
        table = SOURCES[source](spec)
    except MemoryError as error:
        raise UserError(f"{spec.path or spec.source}: does not fit into this machine's memory ({error})") from error
    if not len(table.x_ND):
        raise UserError(f"{table.where}: holds no rows; expected at least one")
    if not table.feature_names and not table.category_names:
        raise UserError(f"{table.where}: no feature; expected at least one")
    return table
