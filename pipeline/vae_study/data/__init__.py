"""Data of any source: read, split without leaks, preprocessed, and kept once per node; and streamed for scoring."""

import os
from pathlib import Path

from vae_study.config.data import DataConfig
from vae_study.data.builder import DatasetBuilder
from vae_study.data.cache import cached_dataset
from vae_study.data.dataset import Dataset, DatasetInfo, Split
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.sources import read_table, source_of
from vae_study.data.sources.python import frame_table
from vae_study.data.splits import SPLIT_NAMES
from vae_study.data.stream import Batch, Stream, frame_features, open_stream
from vae_study.data.table import Table, fingerprint
from vae_study.errors import StudyError

__all__ = [
    "SPLIT_NAMES",
    "Batch",
    "Dataset",
    "DatasetBuilder",
    "DatasetInfo",
    "Preprocessing",
    "Split",
    "Stream",
    "Table",
    "build_dataset",
    "frame_features",
    "frame_table",
    "open_stream",
    "prepare",
    "read_table",
    "with_absolute_paths",
]


def prepare(config: DataConfig, sha256: str | None = None) -> Dataset:
    """Read, split and preprocess a data set, once per node; the same config and content give the same rows.

    Raise UserError if the source cannot be read, or cannot be prepared as the config says. Raise StudyError if the
    content has another fingerprint than `sha256`.

    Args:
        config: Which data, and how to prepare them.
        sha256: The fingerprint that the content must have, as a study's workers know it: if the node has it prepared
            already, the source is not read. None: the source is read and may hold anything.
    """
    config = with_absolute_paths(config)
    if sha256 is not None:
        return cached_dataset(config, sha256, lambda: _read_expected(config, sha256))
    table = read_table(config)
    found = fingerprint(table)
    return cached_dataset(config, found, lambda: DatasetBuilder.from_table(table, config, found))


def _read_expected(config: DataConfig, sha256: str) -> DatasetBuilder:
    table = read_table(config)
    found = fingerprint(table)
    if found != sha256:
        raise StudyError(
            f"{table.where}: the data changed since the study began, or are other data on this node: "
            f"got sha256 {found[:12]}, expected {sha256[:12]}"
        )
    return DatasetBuilder.from_table(table, config, sha256)


def build_dataset(table: Table, config: DataConfig) -> Dataset:
    """Build a data set from a table, all in memory, without the node's cache.

    Raise UserError if the table cannot be prepared as the config says.
    """
    return DatasetBuilder.from_table(table, config, fingerprint(table)).build()


def with_absolute_paths(config: DataConfig) -> DataConfig:
    """The same data from any working folder: local paths become absolute, those with a scheme such as s3:// stay."""
    keys = ("path", "label") if source_of(config).label_is_file else ("path",)
    given = {key: getattr(config, key) for key in keys}
    absolute = {
        key: path if "://" in path else os.path.abspath(Path(path).expanduser())
        for key, path in given.items()
        if path is not None
    }
    return config.model_copy(update=absolute)
