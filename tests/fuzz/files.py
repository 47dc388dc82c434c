"""Data files of every kind, sound and not, and what a study file says of them."""

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.files import idx_bytes
from tests.fuzz.values import Document, damaged, value

NAMES = ["a", "b", "c", "label", "time", "y", "x", "", " a", "a.b", "é", "id", "a", "n" * 300, "1", "None"]
ODD = [None, "?", float("inf"), float("nan"), "x", -1, "x" * 10_000, '"', "é"]
# How often each of a column's kinds comes.
OFTEN = [6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]
MODES = ["L", "RGB", "RGBA", "P", "1", "I;16", "LA", "CMYK", "F"]
SETTINGS = {
    "label": "label",
    "anomaly_labels": [1],
    "exclude": ["a"],
    "columns": ["a", "b"],
    "decimal": ",",
    "header": False,
    "missing_values": ["?", -1],
    "layout": "series",
    "clip": 3.0,
    "categories": {"columns": ["a"], "rare": 0.1},
    "split": {"by": "time", "column": "time"},
    "separator": ";",
    "encoding": "latin-1",
    "signs": ["$"],
    "comment": "#",
    "arrays": {"x": "X"},
}
PLACES = ["/dev/null", "none.csv", "", "s3:/x", "http://127.0.0.1:1/x", "/proc/self/mem"]
PYTHON = [
    "return pandas.DataFrame({'a': numpy.arange(60.), 'b': numpy.arange(60) % 7, 'label': numpy.arange(60) % 2})",
    "return numpy.random.default_rng(0).normal(size=(60, 4))",
    "return numpy.random.default_rng(0).normal(size=(60, 4)), numpy.arange(60) % 2",
    "return {'X': numpy.ones((50, 3))}",
    "return numpy.zeros((40, 8, 8), numpy.uint8)",
    "raise SystemExit(3)",
    "raise ValueError('x' * 10**6)",
    "return None",
    "return [[1, 2], [3]]",
    "return (row for row in range(3))",
    "return pandas.DataFrame({'a': [object()] * 30})",
    "return pandas.DataFrame({1: [1.] * 30, (2, 3): ['a'] * 30})",
    "return pandas.DataFrame(index=range(10))",
    "return numpy.array([[1, 'a']] * 30, dtype=object)",
    "return numpy.full((30, 2), numpy.nan)",
    "return pandas.DataFrame({'a': pandas.Categorical(['u', 'v'] * 30), 'b': pandas.date_range('2020', periods=60)})",
    "import no_such_module",
]


def column(kind: int, rows: int, chance: random.Random) -> list[Any]:
    """Values of one kind, sometimes with another value among them."""
    draw = chance.random
    kinds = [
        lambda: draw(),
        lambda: chance.randrange(5),
        lambda: chance.choice("uvw"),
        lambda: chance.randrange(2**70) - 2**69,
        lambda: chance.choice([True, False]),
        lambda: None,
        lambda: 3.0,
        lambda: f"2020-0{chance.randint(1, 9)}-11",
        lambda: f"{chance.randrange(9)},5",
        lambda: f"${draw():.2f}",
        lambda: 1e39 * draw(),
        lambda: chance.randbytes(4).hex(),
    ]
    found = [kinds[kind]() for _ in range(rows)]
    if rows and draw() < 0.2:
        found[chance.randrange(rows)] = chance.choice(ODD)
    return found


def frame(chance: random.Random) -> dict[str, list[Any]]:
    """Columns by name; mostly enough rows for three splits, and a label."""
    rows = chance.choices([60, 200, 0, 1, 4], [6, 3, 1, 1, 1])[0]
    names = dict.fromkeys(chance.sample(NAMES, chance.randint(1, 6)))
    found = {name: column(chance.choices(range(len(OFTEN)), OFTEN)[0], rows, chance) for name in names}
    if chance.random() < 0.5:
        found["label"] = [int(index % 10 == 0) for index in range(rows)]
    return found


def csv_bytes(found: dict[str, list[Any]], chance: random.Random) -> bytes:
    """A CSV file in some dialect."""
    separator, ends = chance.choice([",", ",", ";", "\t", "|", " "]), chance.choice(["\n", "\n", "\r\n", "\r"])
    quoted = chance.random() < 0.2
    show = lambda cell: "" if cell is None else f'"{cell}"' if quoted else str(cell)  # noqa: E731
    rows = [separator.join(map(show, row)) for row in zip(*found.values(), strict=True)]
    head = [] if chance.random() < 0.15 else [separator.join(map(show, found))]
    lines = [*(["# a comment"] if chance.random() < 0.1 else []), *head, *rows]
    encoding = chance.choices(["utf-8", "utf-8-sig", "utf-16", "latin-1"], [8, 1, 1, 1])[0]
    return ends.join([*lines, ""]).encode(encoding, "replace")


def write_table(folder: Path, found: dict[str, list[Any]], chance: random.Random) -> Document:
    """A table as CSV or Parquet, one file or some."""
    if chance.random() < 0.6:
        path = folder / chance.choice(["rows.csv", "rows.csv", "rows.tsv", "rows.csv.gz"])
        data = csv_bytes(found, chance)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and chance.random() < 0.9 else data)
        return {"source": "csv", "path": str(path)}
    arrays = []
    for cells in found.values():
        try:
            arrays.append(pa.array(cells))
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            arrays.append(pa.array([None if cell is None else str(cell) for cell in cells], pa.string()))
    nested = [pa.list_(pa.int8()), pa.struct([("a", pa.int8())])]
    extra = chance.choice([None, None, None, *nested, pa.null(), pa.decimal128(38, 2)])
    names = [*found]
    if extra is not None:
        arrays.append(pa.nulls(len(arrays[0]), extra))
        names.append("odd")
    pq.write_table(pa.table(arrays, names=names), folder / "rows.parquet")
    return {"source": "parquet", "path": str(folder / chance.choice(["rows.parquet", "rows.parquet", "."]))}


def array(chance: random.Random) -> np.ndarray:
    """Numbers of some shape and type, or what is no numbers."""
    rows, random_state = chance.choice([60, 60, 60, 3, 0]), np.random.default_rng(chance.randrange(2**32))
    usual = [(rows, 4), (rows, 4), (rows, 8, 8), (rows, 1, 8, 8), (rows, 6, 2)]
    shape = chance.choice([*usual, (rows,), (), (rows, 2, 2, 2, 2), (rows, 0)])
    kind = chance.choice(["f4", "f8", "u1", "i8", "?", "f2", "c8", "U3", "O", "M8[s]", "u8", ">f4"])
    return (random_state.random(shape) * chance.choice([1, 255, 1e30])).astype(kind)


def write_npz(folder: Path, chance: random.Random) -> Document:
    """One or several arrays."""
    names = chance.choice([["X", "y"], ["x"], ["data"], ["a", "b"], [], ["X", "X.npy"], ["é"]])
    arrays = {name: array(chance) for name in names}
    if "y" in arrays and chance.random() < 0.7:
        arrays["y"] = np.arange(len(arrays["X"]) if arrays["X"].ndim else 1) % 2
    path = folder / "rows.npz"
    chance.choice([np.savez, np.savez_compressed])(path, **arrays)
    return {"source": "npz", "path": str(path)}


def write_idx(folder: Path, chance: random.Random) -> Document:
    """Images of MNIST's format."""
    path = folder / chance.choice(["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
    shape = (chance.choice([60, 60, 2, 0]), *chance.choice([(8, 8), (3,), (1, 1)]))
    pixels = np.random.default_rng(0).integers(0, 255, shape)
    data = idx_bytes(pixels.astype(np.uint8))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return {"source": "idx", "path": str(path)}


def write_images(folder: Path, chance: random.Random) -> Document:
    """Pictures, most of them alike."""
    place = folder / "pictures"
    place.mkdir()
    mode, size = chance.choice(MODES[:3]), chance.choice([(8, 8), (5, 7), (1, 1)])
    for index in range(chance.choice([40, 40, 3, 0])):
        odd = chance.random() < 0.02
        one = Image.fromarray(np.full(size[::-1], index % 250, np.uint8)).convert("L")
        path = place / (f"{'uv'[index % 2]}/" if chance.random() < 0.5 else "") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        try:
            one.convert(chance.choice(MODES) if odd else mode).resize((3, 3) if odd else size).save(path)
        except (OSError, ValueError):
            one.save(path)
        if chance.random() < 0.01:
            path.write_bytes(damaged(path.read_bytes(), chance))
    (place / chance.choice(["notes.txt", ".hidden", "x.jpg"])).write_bytes(chance.randbytes(20))
    return {"source": "images", "path": str(place)}


def write_python(folder: Path, chance: random.Random, number: int) -> Document:
    """A module whose function gives the rows."""
    body = chance.choice(PYTHON)
    (folder / f"made_{number}.py").write_text(f"import numpy, pandas\n\n\ndef rows():\n    {body}\n")
    return {"source": f"python:made_{number}:{chance.choice(['rows', 'rows', 'rows', 'row'])}"}


def write_data(folder: Path, chance: random.Random, number: int) -> Document:
    """Any data, and the section `data` of a study file that reads them."""
    kind = chance.choices(range(5), [6, 3, 1, 2, 2])[0]
    makers = [lambda: write_table(folder, frame(chance), chance), lambda: write_npz(folder, chance)]
    makers += [lambda: write_idx(folder, chance), lambda: write_images(folder, chance)]
    makers += [lambda: write_python(folder, chance, number)]
    data = makers[kind]()
    path = Path(data.get("path", ""))
    if path.is_file() and chance.random() < 0.25:
        path.write_bytes(damaged(path.read_bytes(), chance))
    if chance.random() < 0.05:
        data["path"] = chance.choice([*PLACES, str(folder)])
    data["scale"] = chance.choice(["standard", "standard", "unit", "robust", "quantile"])
    if chance.random() < 0.6:
        data["missing"] = "median"
    for key, given in SETTINGS.items():
        if chance.random() < 0.08:
            data[key] = given if chance.random() < 0.8 else value(chance)
    return data
