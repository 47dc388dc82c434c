import numpy as np

from pipeline.data import Dataset, Preprocessing, dataset_of
from pipeline.data.table import Table
from pipeline.spec import DataSpec
from pipeline.spec.data import CategoriesSpec

LABELS = np.arange(100) % 5


def table(x_ND, label_N=LABELS, **changes) -> Table:
    """A small table of numbers with five labels."""
    x_ND = np.asarray(x_ND, np.float32)
    names = tuple(f"feature {number}" for number in range(x_ND.shape[1]))
    labels, code_N = np.unique(np.asarray([] if label_N is None else label_N), return_inverse=True)
    parts = {
        "x_ND": x_ND,
        "label_N": None if label_N is None else code_N.astype(np.int32),
        "labels": tuple(labels.tolist()),
    }
    return Table(**{**parts, "feature_names": names, "where": "a table"} | changes)


def with_categories(x_ND, *columns, **changes) -> Table:
    """A table that has columns of text, too; None where a value is missing."""
    vocabularies = [tuple(sorted({value for value in column if value is not None})) for column in columns]
    code_NC = [
        [categories.index(value) if value is not None else -1 for value in column]
        for categories, column in zip(vocabularies, columns, strict=True)
    ]
    names = tuple(f"category {number}" for number in range(len(columns)))
    codes = {"code_NC": np.array(code_NC, np.int32).T, "category_names": names, "categories": tuple(vocabularies)}
    return table(x_ND, **codes | {"label_N": np.zeros(len(x_ND))} | changes)


def data_spec(**spec) -> DataSpec:
    """Label 4 is anomalous."""
    return DataSpec(**{"source": "digits", "anomaly_labels": (4,)} | spec)


def prepared(source: Table, **spec) -> Dataset:
    """What becomes of a table that is already there."""
    return dataset_of(source, data_spec(**spec))


def fit(source, rows_N=None, **spec) -> Preprocessing:
    """What the training rows, by default all, say; with the settings of data.categories among the others."""
    rare = {"categories": CategoriesSpec(encode=spec.pop("encode", "one_hot"), rare=spec.pop("rare", 0.0))}
    return Preprocessing.fit(
        source, np.arange(len(source.x_ND)) if rows_N is None else rows_N, data_spec(**spec, **rare)
    )
