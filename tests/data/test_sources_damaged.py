import bz2
import gzip
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.data.sources import files
from vae_study.data.table import Table
from vae_study.errors import UserError

from .files import idx_bytes, read, refusal, write_frame, write_images

FRAME = pd.DataFrame({"x": np.arange(60.0), "shop": ["a", "b", "c"] * 20, "label": [0, 1] * 30})
IMAGES = {"idx": "train-images-idx3-ubyte", "idx.gz": "train-images-idx3-ubyte.gz"}


def _samples() -> dict[str, bytes]:
    """The bytes of a sound file of each kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 9), np.uint8)
    found = {"idx": idx_bytes(pixels), "idx.gz": gzip.compress(idx_bytes(pixels))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("parquet", "csv", "csv.gz"):
            _, path = write_frame(kind, FRAME, folder)
            found[kind] = path.read_bytes()
        np.savez(folder / "t.npz", X=pixels, y=np.arange(4))
        np.savez_compressed(folder / "u.npz", X=pixels, y=np.arange(4))
        found |= {"npz": (folder / "t.npz").read_bytes(), "compressed.npz": (folder / "u.npz").read_bytes()}
        write_images(folder, {"a.png": pixels[0], "a.jpg": pixels[0]})
        found |= {"png": (folder / "a.png").read_bytes(), "jpg": (folder / "a.jpg").read_bytes()}
    return found


SOUND = _samples()
# A text cut short is a text, and an image may do without its last bytes; all else says how long it is.
TELLS_ITS_LENGTH = ["parquet", "csv.gz", "npz", "compressed.npz", "idx", "idx.gz"]
every_kind = pytest.mark.parametrize("kind", sorted(SOUND))


def outcome(kind: str, data: bytes) -> Table | str:
    """What reading gives, or the message in place of it; any other exception is a failure."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / IMAGES.get(kind, f"t.{kind}")
        path.write_bytes(data)
        suffix = path.suffix[1:]
        source = {"png": "images", "jpg": "images"}.get(suffix, kind.split(".")[0] if suffix == "gz" else suffix)
        source = "idx" if kind.startswith("idx") else source
        try:
            return read(source, Path(name) if source == "images" else path)
        except UserError as error:
            message = str(error)
            assert path.name in message
            return message


@every_kind
def test_a_sound_file_is_read(kind):
    assert isinstance(outcome(kind, SOUND[kind]), Table)


@every_kind
@settings(max_examples=12)
@given(data=st.data())
def test_a_file_cut_short_is_refused(kind, data):
    cut = data.draw(st.integers(0, len(SOUND[kind]) - 1))
    found = outcome(kind, SOUND[kind][:cut])
    assert isinstance(found, str) or kind not in TELLS_ITS_LENGTH


@every_kind
@settings(max_examples=25)
@given(data=st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(kind, data):
    """At the head are the magic numbers, sizes and names; a checksum or none decides on the rest."""
    changed = bytearray(SOUND[kind])
    places = st.integers(0, min(len(changed), 80) - 1) | st.integers(1, min(len(changed), 300)).map(lambda back: -back)
    for place, flip in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4)):
        changed[place] ^= flip
    outcome(kind, bytes(changed))


@every_kind
def test_an_empty_file_is_refused(kind):
    assert isinstance(outcome(kind, b""), str)


@every_kind
@pytest.mark.parametrize("other", ["parquet", "csv", "npz", "idx", "png"])
def test_a_file_of_another_kind_is_refused(kind, other):
    # Pillow goes by what an image holds, not by its name.
    if other not in kind and (kind, other) != ("jpg", "png"):
        assert isinstance(outcome(kind, SOUND[other]), str)


def test_the_torn_file_of_a_folder_is_named(tmp_path):
    _, folder = write_frame("folder", FRAME, tmp_path)
    (folder / "part-003.parquet").write_bytes(SOUND["parquet"][:100])
    assert f"{folder / 'part-003.parquet'}: cannot be read as Parquet: " in refusal("parquet", folder)


def test_text_that_is_no_unicode_is_refused(tmp_path):
    word = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"shop": word}), tmp_path / "t.parquet")
    assert f"{tmp_path / 't.parquet'}: cannot be read as Parquet" in refusal("parquet", tmp_path / "t.parquet")


def test_a_torn_idx_says_how_many_bytes_it_has_and_should_have(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    torn_gzip = gzip.compress(SOUND["idx"], 0)[:-20]
    for data, found in ((SOUND["idx"][:-7], "317"), (SOUND["idx"] + b"0", "more than 324"), (torn_gzip, "312")):
        path.write_bytes(data)
        assert f"{path}: {found} bytes of values, expected 324 for shape (4, 9, 9)" in refusal("idx", path)


def test_gzip_s_checksum_is_compared(tmp_path):
    changed = bytearray(SOUND["idx.gz"])
    changed[-6] ^= 1
    (tmp_path / IMAGES["idx.gz"]).write_bytes(changed)
    assert "324 bytes of values as expected, but gzip finds it damaged" in refusal("idx", tmp_path / IMAGES["idx.gz"])


def bombs(folder: Path) -> dict[str, Path]:
    """Files of some thousand bytes that become a thousand times as many."""
    text, zeros = b"a,b\n" + b"0,0\n" * 2**19, np.zeros((2**13, 32, 32), np.uint8)
    found = {"gz": gzip.compress(text), "bz2": bz2.compress(text), "zst": pa.compress(text, "zstd", asbytes=True)}
    paths = {f"csv {suffix}": folder / f"rows.csv.{suffix}" for suffix in found}
    for path, data in zip(paths.values(), found.values(), strict=True):
        path.write_bytes(data)
    paths |= {"npz": folder / "rows.npz", "idx": folder / IMAGES["idx.gz"]}
    np.savez_compressed(paths["npz"], X=zeros)
    paths["idx"].write_bytes(gzip.compress(idx_bytes(zeros)))
    return paths


def test_what_becomes_much_larger_without_compression_is_refused_before_it_does(tmp_path, monkeypatch):
    for kind, path in bombs(tmp_path).items():
        assert len(read(kind.split()[0], path).x_ND) >= 2**13
        with monkeypatch.context() as small:
            small.setattr(files, "_SMALL_BYTES", 2**20)
            message = refusal(kind.split()[0], path)
        assert message.startswith(f"{path}: ")
        assert "more than 500 times as many when they are decompressed" in message


def test_values_that_no_memory_holds_are_refused_before_it_is_asked_for(tmp_path):
    shape = (2**40, 2**10)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("X.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    assert f"expected {8 * 2**50:,} for shape {shape}" in refusal("npz", tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"x: its values take 1,024.0 GiB; this machine has .* GiB of memory"):
        files.require_memory("x", 2**40)
