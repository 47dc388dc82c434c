import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import vae_study.data as data
from vae_study.config.data import DataConfig
from vae_study.data import SPLIT_NAMES, Dataset, build_dataset, prepare, read_table
from vae_study.data.cache import FEATURES, INFO, ROWS, SECONDS_UNUSED, _open_entry
from vae_study.errors import StudyError, UserError

from tests.waiting import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAE_STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """A table with text, labels and gaps."""
    random = np.random.default_rng(0)
    columns = {
        "amount": random.normal(size=200),
        "kind": random.choice(["a", "b"], 200),
        "fraud": np.arange(200) % 20 == 0,
    }
    frame = pd.DataFrame(columns).assign(fraud=lambda frame: frame["fraud"].astype(int))
    frame.loc[::7, "amount"] = np.nan
    frame.to_parquet(tmp_path / "cards.parquet")
    return DataConfig(source="parquet", path=str(tmp_path / "cards.parquet"), label="fraud", missing="median")


def entries(cache) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def anew(config, sha256=None) -> Dataset:
    """As another process would have it."""
    _open_entry.cache_clear()
    return prepare(config, sha256)


def unreadable(config):
    raise AssertionError("the source was read")


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.summary() == other.summary()
    assert (one.classes, one.preprocessing, one.image_shape) == (other.classes, other.preprocessing, other.image_shape)
    for name in SPLIT_NAMES:
        for key in ("x_ND", "is_anomaly_N", "row_N", "label_N", "normal_ND"):
            np.testing.assert_array_equal(getattr(one.splits[name], key), getattr(other.splits[name], key))
        np.testing.assert_array_equal(one.condition(name), other.condition(name))


@pytest.mark.parametrize("source", ["table", "digits", "no labels"])
def test_what_is_mapped_is_what_was_prepared(config, source):
    if source == "digits":
        config = DataConfig(source="digits", anomaly_labels=(8,))
    if source == "no labels":
        config = config.model_copy(update={"label": None})
    assert_same(prepare(config), build_dataset(read_table(config), config))


def test_a_worker_takes_what_the_node_has_without_reading_the_source(config, monkeypatch):
    first = prepare(config)
    monkeypatch.setattr(data, "read_table", unreadable)
    again = anew(config, first.sha256)
    assert again is not first
    assert_same(again, first)
    assert prepare(config, first.sha256) is again


def test_a_worker_on_another_node_reads_the_source(config, cache):
    first = prepare(config)
    shutil.rmtree(cache)
    assert_same(anew(config, first.sha256), first)
    assert len(entries(cache)) == 1


def test_data_that_changed_since_the_study_began_are_refused(config, cache):
    sha256 = prepare(config).sha256
    shutil.rmtree(cache)
    frame = pd.read_parquet(config.path)
    frame.loc[3, "amount"] = 7
    frame.to_parquet(config.path)
    with pytest.raises(StudyError, match=r"cards\.parquet: the data changed since the study began"):
        anew(config, sha256)
    assert prepare(config).sha256 != sha256


def test_the_driver_sees_a_change_though_the_old_content_is_at_hand(config):
    before = prepare(config)
    frame = pd.read_parquet(config.path)
    frame.iloc[:100].to_parquet(config.path)
    assert prepare(config).sha256 != before.sha256
    assert len(before.splits["train"].x_ND) > len(prepare(config).splits["train"].x_ND)


def test_every_way_to_prepare_has_its_own_entry(config, cache):
    configs = [config, config.model_copy(update={"scale": "standard"}), config.model_copy(update={"label": None})]
    assert len({len(prepare(one).feature_names) for one in configs}) == 2
    assert len(entries(cache)) == 3


def break_entry(entry: Path, how: str, suffix: str) -> None:
    train, facts = entry / f"train{suffix}", entry / INFO
    match how:
        case "deleted file":
            train.unlink()
        case "deleted facts":
            facts.unlink()
        case "truncated file":
            os.truncate(train, train.stat().st_size // 2)
        case "empty file":
            os.truncate(train, 0)
        case "zeros":
            train.write_bytes(bytes(train.stat().st_size))
        case "torn facts":
            facts.write_text(facts.read_text()[:100])
        case "other facts":
            facts.write_text("[1]")
        case "facts of another":
            plain = json.loads(facts.read_text())
            facts.write_text(json.dumps({**plain, "key": "f" * 64}))
        case "a file":
            shutil.rmtree(entry)
            entry.write_text("")


@pytest.mark.parametrize(
    "how",
    [
        "deleted file", "deleted facts", "truncated file", "empty file", "zeros", "torn facts", "other facts",
        "facts of another", "a file",
    ],
)  # fmt: skip
@pytest.mark.parametrize("knows_sha256", [True, False])
@pytest.mark.parametrize("suffix", [FEATURES, ROWS])
def test_a_break_entry_is_made_again(config, cache, how, knows_sha256, suffix):
    expected = build_dataset(read_table(config), config)
    prepare(config)
    (entry,) = entries(cache)
    break_entry(entry, how, suffix)
    assert_same(anew(config, expected.sha256 if knows_sha256 else None), expected)
    assert entries(cache) == [entry]
    assert_same(anew(config, expected.sha256), expected)


def test_an_entry_half_written_is_none(config, cache, monkeypatch):
    def full(path, builder, name):
        if name == "test":
            raise OSError(28, "No space left on device")
        path.write_bytes(b"half")

    with monkeypatch.context() as patch:
        patch.setattr("vae_study.data.cache.write_split", full)
        with pytest.raises(UserError, match=r"cannot keep prepared data here: No space left.*VAE_STUDY_CACHE"):
            prepare(config)
    assert entries(cache) == []
    prepare(config)


def test_a_folder_that_cannot_be_is_named(config, cache):
    cache.write_text("no folder")
    with pytest.raises(UserError, match=r"cache: cannot keep prepared data here: .*VAE_STUDY_CACHE names another"):
        prepare(config)


def test_the_folder_is_by_default_the_users_own(config, tmp_path, monkeypatch):
    monkeypatch.delenv("VAE_STUDY_CACHE")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prepare(config)
    own = tmp_path / f"vae-study-{os.getuid()}"
    (entry,) = entries(own / "data")
    assert {oct(path.stat().st_mode & 0o777) for path in (own, own / "data", entry)} == {"0o700"}
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "vae-study-12345").mkdir()
    with pytest.raises(UserError, match="vae-study-12345 belongs to another user"):
        anew(config)


def test_what_was_not_used_for_a_week_goes_when_something_new_comes(config, cache):
    prepare(config)
    (old,) = entries(cache)
    kept = prepare(config.model_copy(update={"scale": "standard"}))
    (cache / "crashed.new").mkdir()
    week_ago = time.time() - SECONDS_UNUSED - 60
    for path in (*cache.glob("*/*"), cache / "crashed.new"):
        os.utime(path, (week_ago, week_ago))
    anew(config.model_copy(update={"scale": "standard"}), kept.sha256)
    prepare(config.model_copy(update={"scale": "robust"}))
    assert not old.exists()
    assert not (cache / "crashed.new").exists()
    assert len(entries(cache)) == 2


def mapping_of(array: np.ndarray) -> list[str]:
    """The file that an array's memory is mapped from, with its offset, device and inode."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, _, _, device, inode, *file = line.split()
        first, last = (int(end, 16) for end in place.split("-"))
        if first <= array.ctypes.data < last:
            return [device, inode, *file]
    raise AssertionError("not mapped")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_two_data_sets_of_one_entry_are_the_same_pages(config, cache):
    one, other = anew(config), anew(config)
    (entry,) = entries(cache)
    for name in SPLIT_NAMES:
        for key in ("x_ND", "row_N", "is_anomaly_N", "label_code_N"):
            first, second = getattr(one.splits[name], key), getattr(other.splits[name], key)
            assert first.ctypes.data != second.ctypes.data
            assert mapping_of(first) == mapping_of(second)
            assert mapping_of(first)[-1] == str(entry / f"{name}{FEATURES if key == 'x_ND' else ROWS}")


def test_torch_takes_the_pages_as_they_are_and_writing_to_them_stays_private(config):
    x_ND = prepare(config).splits["train"].x_ND
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(x_ND)
    assert tensor.data_ptr() == x_ND.ctypes.data
    before = float(x_ND[0, 0])
    tensor[0, 0] = 77
    assert x_ND[0, 0] == 77
    assert anew(config).splits["train"].x_ND[0, 0] == before


RACER = """
import sys, time
from pathlib import Path
import vae_study.data as data
from vae_study.config.data import DataConfig

folder, name, sha256, config = Path(sys.argv[1]), sys.argv[2], sys.argv[3], DataConfig.model_validate_json(sys.argv[4])
read = data.read_table

def slowly(config):
    (folder / f"{name}.read").touch()
    time.sleep(0.5)
    return read(config)

data.read_table = slowly
(folder / f"{name}.ready").touch()
while len(list(folder.glob("*.ready"))) < 2:
    time.sleep(0.005)
found = data.prepare(config, sha256)
print(found.sha256, float(found.splits["train"].x_ND.sum()))
"""


@pytest.mark.processes
def test_of_two_processes_at_once_one_prepares_and_both_have_it(config, cache, tmp_path):
    expected = prepare(config)
    shutil.rmtree(cache)
    (folder := tmp_path / "race").mkdir()
    command = [sys.executable, "-c", RACER, str(folder)]
    racers = [
        subprocess.Popen([*command, name, expected.sha256, config.model_dump_json()], stdout=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    said = {racer.communicate(timeout=PATIENCE_SECONDS)[0] for racer in racers}
    assert said == {f"{expected.sha256} {float(expected.splits['train'].x_ND.sum())}\n"}
    assert len(list(folder.glob("*.read"))) == 1
    assert len(entries(cache)) == 1
