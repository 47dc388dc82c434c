import numpy as np
import pandas as pd
from hypothesis import strategies as st
from vae_study.config.data import CategoriesConfig, DataConfig
from vae_study.data import Dataset, Preprocessing, build_dataset
from vae_study.data.table import Table

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


def data_config(**config) -> DataConfig:
    """Label 4 is anomalous."""
    return DataConfig(**{"source": "digits", "anomaly_labels": (4,)} | config)


def prepared(source: Table, **config) -> Dataset:
    """What becomes of a table that is already there."""
    return build_dataset(source, data_config(**config))


def fit(source, rows_N=None, **config) -> Preprocessing:
    """What the training rows, by default all, say; with the settings of data.categories among the others."""
    rare = {"categories": CategoriesConfig(encode=config.pop("encode", "one_hot"), rare=config.pop("rare", 0.0))}
    return Preprocessing.fit(
        source, np.arange(len(source.x_ND)) if rows_N is None else rows_N, data_config(**config, **rare)
    )


numbers = st.one_of(
    st.integers(-(10**15), 10**15).map(float),
    st.floats(-1e15, 1e15),
    st.floats(0, 1).map(lambda x: 1e15 + x),
    st.floats(-1e-3, 1e-3).map(lambda x: 48.1 + x),
)
texts = st.text("aBé ß中,;\"'\n", min_size=1, max_size=5).map(lambda text: f"x{text}")


@st.composite
def frames(draw, least=3, most=30):
    """Numbers at large offsets, whole numbers and categories, with gaps: `least` to `most` rows."""
    count = draw(st.integers(least, most))

    def column(values, dtype):
        return pd.Series(draw(st.lists(values, min_size=count, max_size=count)), dtype=dtype)

    offset = draw(st.sampled_from([0, 2**31, 1_760_000_000_000, 10**15]))
    return pd.DataFrame(
        {
            "real": column(st.none() | numbers, float),
            "whole": column(st.integers(0, 100).map(lambda x: x + offset), np.int64),
            "narrow": column(st.none() | st.floats(-100, 100, width=16), float),
            "word": column(st.none() | texts, object),
        }
    )
