"""Images of 8 bits are kept as bytes: the numbers are the bits that floats would have, and memory is bounded."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from vae_study.anomaly import scores
from vae_study.config.data import DataConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import SPLIT_NAMES, build_dataset, prepare, read_table
from vae_study.data import pixels as pixels_module
from vae_study.data.cache import _open_entry
from vae_study.data.pixels import PixelBytes, collected, part_of
from vae_study.data.table import Table
from vae_study.errors import UserError
from vae_study.vae import outcome
from vae_study.vae.gpu import captured_step, device_scorer
from vae_study.vae.inference import Examples
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import fit_scorer, outcomes_of

from tests.pretend_gpu import PRETEND, PretendGpu
from tests.vae.builders import model_setup, train

SCALES = ("unit", "standard", "robust", "quantile", "none")
KEYS = {
    "row": 3,
    "slice": slice(1, 6, 2),
    "rows": np.array([5, 0, 5]),
    "mask": np.arange(8) % 3 == 0,
    "all": slice(None),
    "none": np.array([], np.int64),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAE_STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_images(folder: Path, byte_NHW: np.ndarray) -> Path:
    for row, byte_HW in enumerate(byte_NHW):
        inner = folder / ("bad" if row % 10 == 9 else "good")
        inner.mkdir(parents=True, exist_ok=True)
        Image.fromarray(byte_HW).save(inner / f"{row:03}.png")
    return folder


def images(tmp_path, shape=(60, 6, 5), seed=0) -> Path:
    return write_images(tmp_path / "images", np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def as_floats(table: Table) -> Table:
    """The table as it would be if images of 8 bits were read as floats."""
    return dataclasses.replace(table, x_ND=table.x_ND.astype(np.float32))


@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(60, 6, 5), (60, 4, 3, 3)])
def test_the_features_are_the_bits_that_floats_have(tmp_path, shape, scale, clip):
    folder = images(tmp_path, shape)
    config = DataConfig(source="images", path=str(folder), anomaly_labels=("bad",), scale=scale, clip=clip)
    table = read_table(config)
    mapped, built, plain = prepare(config), build_dataset(table, config), build_dataset(as_floats(table), config)
    assert table.x_ND.dtype == np.uint8
    for data in (mapped, built):
        for name in SPLIT_NAMES:
            expected, found = plain.splits[name], data.splits[name]
            assert isinstance(found.x_ND, PixelBytes)
            assert found.x_ND.dtype == np.float32
            assert not isinstance(expected.x_ND, PixelBytes)
            assert np.asarray(found.x_ND).tobytes() == expected.x_ND.tobytes()
            assert np.asarray(found.normal_ND).tobytes() == np.asarray(expected.normal_ND).tobytes()
            assert found.normal_sample().tobytes() == expected.normal_sample().tobytes()
            np.testing.assert_array_equal(found.row_N, expected.row_N)
            np.testing.assert_array_equal(found.values_N, expected.values_N)
        assert data.preprocessing == plain.preprocessing
    assert plain.preprocessing.transform(table).tobytes() == plain.preprocessing.transform(as_floats(table)).tobytes()


@settings(deadline=None, max_examples=50)
@given(
    byte_RD=arrays(np.uint8, (8, 7)),
    value_V=arrays(np.float32, 256, elements=st.floats(-2, 2, width=32)),
    key=st.sampled_from(sorted(KEYS)),
    chosen=st.sampled_from(["slice", "rows", "mask", "all"]),
)
def test_bytes_are_indexed_as_the_array_of_their_numbers_is(byte_RD, value_V, key, chosen):
    plain_ND = value_V[byte_RD]
    on_host = PixelBytes(byte_RD, value_V)
    in_torch = PixelBytes(torch.as_tensor(byte_RD), torch.as_tensor(value_V))
    key = KEYS[key]
    found = in_torch[torch.as_tensor(key) if isinstance(key, np.ndarray) else key]
    np.testing.assert_array_equal(on_host[key], plain_ND[key])
    np.testing.assert_array_equal(found.numpy(), plain_ND[key])
    assert on_host.shape == in_torch.shape == plain_ND.shape
    assert len(on_host) == 8
    # Parts of parts.
    some, rest = KEYS[chosen], slice(1, None)
    expected = plain_ND[some][rest]
    torch_some = torch.as_tensor(some) if isinstance(some, np.ndarray) else some
    np.testing.assert_array_equal(np.asarray(part_of(part_of(on_host, some), rest)), expected)
    np.testing.assert_array_equal(part_of(part_of(in_torch, torch_some), rest)[:].numpy(), expected)
    np.testing.assert_array_equal(part_of(on_host, some).byte_ND, byte_RD[some])


def test_each_model_of_a_pack_has_its_own_rows_of_bytes():
    byte_RD = np.random.default_rng(0).integers(0, 256, (9, 4), np.uint8)
    value_V = np.linspace(0, 1, 256, dtype=np.float32)
    rows_KB = torch.tensor([[0, 3], [8, 8]])
    of_bytes = Examples(PixelBytes(torch.as_tensor(byte_RD), torch.as_tensor(value_V)), None)
    of_floats = Examples(torch.as_tensor(value_V[byte_RD]), None)
    assert torch.equal(of_bytes.at(rows_KB)[0], of_floats.at(rows_KB)[0])
    pairs = zip(of_bytes.minibatches(2, 4), of_floats.minibatches(2, 4), strict=True)
    assert all(torch.equal(one, other) for (one, _), (other, _) in pairs)


def test_a_part_of_bytes_is_a_view():
    byte_RD = np.zeros((9, 4), np.uint8)
    every = PixelBytes(byte_RD, np.arange(256, dtype=np.float32))
    parts = [every.only(slice(2, 5)), every.only(np.array([1, 8])), every.only(np.arange(9) > 4).only(slice(2))]
    byte_RD[:] = 7
    assert all((np.asarray(part) == 7).all() for part in parts)


def test_many_images_are_pages_of_a_file_without_a_name(tmp_path, cache, monkeypatch):
    config = DataConfig(source="images", path=str(images(tmp_path)), anomaly_labels=("bad",))
    in_memory = read_table(config)
    monkeypatch.setattr(pixels_module, "BYTES_IN_MEMORY", 100)
    in_file = read_table(config)
    assert in_memory.x_ND.flags.writeable
    assert not in_file.x_ND.flags.writeable
    np.testing.assert_array_equal(in_file.x_ND, in_memory.x_ND)
    assert [*cache.iterdir()] == []
    # The same fingerprint, entry and files.
    first = prepare(config)
    [entry] = [path for path in cache.iterdir() if path.is_dir()]
    before = {path.name: path.read_bytes() for path in entry.iterdir()}
    for path in entry.iterdir():
        path.unlink()
    monkeypatch.undo()
    monkeypatch.setenv("VAE_STUDY_CACHE", str(cache))
    _open_entry.cache_clear()
    assert prepare(config).sha256 == first.sha256
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == before
    assert (entry / "train.npy").stat().st_size < 200 + first.splits["train"].x_ND.byte_ND.size


@pytest.mark.parametrize("damage", ["truncated", "floats", "gone"])
def test_a_damaged_entry_of_images_is_made_again(tmp_path, cache, damage):
    config = DataConfig(source="images", path=str(images(tmp_path)), anomaly_labels=("bad",))
    expected = np.asarray(prepare(config).splits["train"].x_ND).copy()
    [file] = cache.glob("*/train.npy")
    whole = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(whole[:-1])
        case "floats":
            np.save(file, expected)
        case "gone":
            file.unlink()
    _open_entry.cache_clear()
    np.testing.assert_array_equal(np.asarray(prepare(config).splits["train"].x_ND), expected)
    assert file.read_bytes() == whole


def test_a_full_disk_is_said_while_images_are_read(monkeypatch, cache):
    monkeypatch.setattr(pixels_module, "BYTES_IN_MEMORY", 10)

    def rows():
        yield np.zeros(8, np.uint8)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"data here: No space left.*VAE_STUDY_CACHE names another"):
        collected(rows(), 2, 8)
    assert [*cache.iterdir()] == []


def test_duplicates_of_images_share_a_split(tmp_path):
    byte_NHW = np.random.default_rng(1).integers(0, 256, (60, 6, 5), np.uint8)
    byte_NHW[40:50] = byte_NHW[:10]
    config = DataConfig(source="images", path=str(write_images(tmp_path / "images", byte_NHW)))
    rows = {name: {*split.row_N.tolist()} for name, split in prepare(config).splits.items()}
    files = [int(Path(file).stem) for file in read_table(config).files]
    of = {files[row]: name for name, found in rows.items() for row in found}
    assert all(of[row] == of[40 + row] for row in range(10))


PROBE = """
import os, sys, threading, time
from pathlib import Path
def anonymous():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
import torch
torch.set_num_threads(1)
from vae_study.config.data import DataConfig
from vae_study.data import prepare
from tests.vae.builders import model_setup
from vae_study.vae.model_batch import ModelBatch
before, peak = anonymous(), 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
data = prepare(DataConfig(source="images", path=sys.argv[1], anomaly_labels=("bad",)))
setup = model_setup(network__hidden=(8,), latent_dim=2, training__batch_size=32, training__epochs=1)
ModelBatch([setup], data).train_epoch()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which tells a process's own memory")
def test_images_are_prepared_and_trained_on_in_less_memory_than_they_take(tmp_path):
    count, size = 2_000, 256
    byte_NHW = np.zeros((count, size, size), np.uint8)
    byte_NHW[:, 0, 0], byte_NHW[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    folder = write_images(tmp_path / "images", byte_NHW)
    del byte_NHW
    command = [sys.executable, "-c", PROBE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    # As float32 they take 524 MB, as bytes 131 MB; what is computed of some at a time takes the rest.
    assert int(done.stdout) < 480e6, done.stdout


def model_batch_of(data, device="cpu", **more) -> ModelBatch:
    network = {"network__kind": "conv", "network__channels": (2, 4), "network__hidden": (8,)}
    setups = [model_setup(seed, training__batch_size=8, training__epochs=2, **network, **more) for seed in range(2)]
    return ModelBatch(setups, data, device=device)


def data_of(tmp_path, is_floats=False):
    config = DataConfig(source="images", path=str(images(tmp_path, (90, 8, 6))), anomaly_labels=("bad",))
    table = read_table(config)
    return build_dataset(as_floats(table) if is_floats else table, config)


def assert_same_outcome(one, other):
    for name in one.scorer:
        assert one.scorer[name].numpy().tobytes() == other.scorer[name].numpy().tobytes(), name
    for name in one.arrays:
        assert one.arrays[name].tobytes() == other.arrays[name].tobytes(), name
    assert one.metrics == other.metrics
    pd.testing.assert_frame_equal(one.scores, other.scores)


def test_models_of_bytes_are_those_of_floats_to_the_last_bit(tmp_path):
    outcomes = []
    for is_floats in (False, True):
        batch = model_batch_of(data_of(tmp_path / str(is_floats), is_floats))
        train(batch, 2)
        outcomes.append(outcomes_of(batch, DiagnosticsConfig(iwae_draws=2)))
    for one, other in zip(*outcomes, strict=True):
        assert_same_outcome(one, other)


def test_residuals_of_wide_images_are_fitted_part_by_part(tmp_path, monkeypatch):
    batch = model_batch_of(data_of(tmp_path))
    train(batch, 2)
    whole = fit_scorer(batch)
    for module in (scores, outcome, device_scorer):
        monkeypatch.setattr(module, "FULL_COVARIANCE", 10)
    by_parts = fit_scorer(batch)
    for one, other in zip(whole.scorers_K, by_parts.scorers_K, strict=True):
        assert other.residual.precision_DD.shape == (48,)
        np.testing.assert_allclose(other.residual.mean_D, one.residual.mean_D, rtol=1e-9, atol=1e-12)
        assert one.latent.mean_D.tobytes() == other.latent.mean_D.tobytes()


@pytest.mark.parametrize("is_wide", [False, True])
def test_on_a_gpu_images_stay_bytes_and_have_the_numbers_of_the_cpu(tmp_path, monkeypatch, is_wide):
    data = data_of(tmp_path)
    if is_wide:
        for module in (scores, outcome, device_scorer):
            monkeypatch.setattr(module, "FULL_COVARIANCE", 10)
    here = model_batch_of(data)
    history = train(here, 2)
    expected = outcomes_of(here, DiagnosticsConfig(iwae_draws=0))
    with PretendGpu() as gpu:
        there = model_batch_of(data, PRETEND)
        assert there.examples["train"].x_ND.byte_RD.dtype == torch.uint8
        assert there.examples["train"].x_ND.byte_RD.device.type == PRETEND
        found = [train(there, 1)[0]]
        with gpu.counting("epoch"):
            found += train(there, 1)
        measured = outcomes_of(there, DiagnosticsConfig(iwae_draws=0))
    # As of floats, the host waits for each epoch's numbers only.
    assert gpu.waits("epoch").total() == 2
    for one_K, other_K in zip(history, found, strict=True):
        for one, other in zip(one_K, other_K, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    for one, other in zip(expected, measured, strict=True):
        columns = one.scores.select_dtypes("number").columns
        np.testing.assert_allclose(one.scores[columns], other.scores[columns], rtol=2e-3, atol=1e-4)


def test_a_recorded_step_takes_bytes(tmp_path, monkeypatch):
    data, steps = data_of(tmp_path), []

    def record(step):
        steps.append(step)
        return PretendGpu.current.record(step)

    monkeypatch.setattr(captured_step, "FEWEST_STEPS", 0)
    monkeypatch.setattr(captured_step, "REFUSED", set())
    with PretendGpu():
        plain = train(model_batch_of(data, PRETEND), 2)
        monkeypatch.setitem(captured_step.RECORDERS, PRETEND, record)
        found = train(model_batch_of(data, PRETEND), 2)
    assert len(steps) == 1
    assert not captured_step.REFUSED
    assert repr(found) == repr(plain)
