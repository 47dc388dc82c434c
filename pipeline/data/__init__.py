"""Examples in, three leak-free splits out."""

from pipeline.data.cache import shared
from pipeline.data.dataset import Dataset, Split
from pipeline.data.draft import Draft, draft_of
from pipeline.data.fingerprint import fingerprint
from pipeline.data.places import resolved
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources import read_table
from pipeline.data.splits import SPLIT_NAMES
from pipeline.data.streams import Batch, Stream, frame_features, open_stream
from pipeline.data.table import Table
from pipeline.errors import StudyError
from pipeline.spec.data import DataSpec

__all__ = [
    "SPLIT_NAMES",
    "Batch",
    "Dataset",
    "Preprocessing",
    "Split",
    "Stream",
    "Table",
    "dataset_of",
    "frame_features",
    "open_stream",
    "prepare",
    "read_table",
    "resolved",
]


def prepare(spec: DataSpec, sha256: str | None = None) -> Dataset:
    """A data set, read, split and preprocessed once a node; the same spec and content give the same rows.

    Args:
        spec: Which data, and what to do with them.
        sha256: The fingerprint that the content must have, as a study's workers know it: what the node has prepared
            already is then taken without reading the source. None reads the source, whatever it holds.

    Raises:
        UserError: The source cannot be read, or not be prepared as the spec says.
        StudyError: The content has another fingerprint.
    """
    spec = resolved(spec)
    if sha256 is not None:
        return shared(spec, sha256, lambda: _expected(spec, sha256))
    table = read_table(spec)
    found = fingerprint(table)
    return shared(spec, found, lambda: draft_of(table, spec, found))


def dataset_of(table: Table, spec: DataSpec) -> Dataset:
    """A data set from a table that is already there, all in memory, without the node's cache.

    Raises:
        UserError: The table cannot be prepared as the spec says.
    """
    return draft_of(table, spec, fingerprint(table)).dataset()


def _expected(spec: DataSpec, sha256: str) -> Draft:
    table = read_table(spec)
    found = fingerprint(table)
    if found != sha256:
        raise StudyError(
            f"{table.where}: the data changed since the study began, or are other data on this node: "
            f"came sha256 {found[:12]}, expected {sha256[:12]}"
        )
    return draft_of(table, spec, sha256)
