import os
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.errors import UserError
from vae_study.storage import Folder

from tests.object_store import KINDS
from tests.small_disk import small_disk


@pytest.fixture(scope="module")
def make_folder(request, tmp_path_factory):
    def make(kind: str) -> Folder:
        place = tmp_path_factory.mktemp("local") if kind == "local" else request.getfixturevalue("bucket")
        return Folder.at(place) / uuid.uuid4().hex

    return make


@pytest.fixture(params=KINDS)
def folder(request, make_folder) -> Folder:
    return make_folder(request.param)


def test_what_is_written_is_listed_read_fetched_replaced_and_removed(folder, tmp_path):
    folder.write("b", b"first")
    folder.write("a", memoryview(b"other"))
    folder.write("b", b"second, and longer")
    assert folder.names() == ["a", "b"]
    assert (folder.read("a"), folder.read("b")) == (b"other", b"second, and longer")
    folder.fetch("b", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"second, and longer"
    folder.remove("b")
    folder.remove("b")
    assert folder.names() == ["a"]
    folder.clear()
    folder.clear()
    assert folder.names() == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("abc"), st.binary(max_size=50)),
        st.tuples(st.sampled_from(("remove", "fetch")), st.sampled_from("abc"), st.none()),
        st.tuples(st.just("clear"), st.just("a"), st.none()),
    ),
    max_size=12,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(steps=STEPS)
def test_a_folder_is_a_dictionary_of_names_and_bytes(make_folder, tmp_path_factory, kind, steps):
    folder, expected = make_folder(kind), {}
    copy = tmp_path_factory.mktemp("copies") / "copy"
    for what, name, content in steps:
        if what == "write":
            folder.write(name, content)
            expected[name] = content
        elif what == "remove":
            folder.remove(name)
            expected.pop(name, None)
        elif what == "clear":
            folder.clear()
            expected.clear()
        elif name in expected:
            folder.fetch(name, copy)
            assert copy.read_bytes() == expected[name]
        assert folder.names() == sorted(expected)
    assert {name: folder.read(name) for name in folder.names()} == expected


def test_only_the_folders_own_files_are_listed(folder):
    (folder / "inner").write("deep", b"")
    (folder / "inner-neighbour").write("beside", b"")
    folder.write("archive.gz", b"not packed at all")
    folder.write(".hidden", b"")
    assert folder.names() == ["archive.gz"]
    assert folder.read("archive.gz") == b"not packed at all"
    assert (folder / "inner").names() == ["deep"]
    (folder / "inner").clear()
    assert (folder / "inner-neighbour").names() == ["beside"]


def test_what_is_missing_is_an_error_that_names_it(folder, tmp_path):
    for exists in (False, True):
        with pytest.raises(FileNotFoundError, match=r"cannot read.*nothing"):
            folder.read("nothing")
        with pytest.raises(FileNotFoundError, match=r"cannot read.*nothing"):
            folder.fetch("nothing", tmp_path / "copy")
        assert not list(tmp_path.iterdir()), exists
        folder.write("something", b"")


def test_a_folder_that_was_removed_meanwhile_is_made_again(folder):
    folder.write("a", b"1")
    Folder.at(str(folder)).clear()
    folder.write("b", b"2")
    assert folder.names() == ["b"]


def test_a_folders_text_is_the_same_folder_elsewhere(folder):
    inner = folder / "with space & Ünïcode %41?#"
    inner.write("name with space", b"1")
    again = Folder.at(str(inner))
    assert (str(again), again.names(), again.local) == (str(inner), ["name with space"], inner.local)
    assert again == inner
    assert again.read("name with space") == b"1"


def test_relative_paths_home_and_file_addresses_are_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    places = {"a/b": "a/b", "~/a": "home/a", "./c/../d": "d", f"file://{tmp_path}/e": "e", f"{tmp_path}/f/": "f"}
    for given_as, expected in places.items():
        folder = Folder.at(given_as)
        assert folder.local == tmp_path / expected
        assert str(folder) == str(tmp_path / expected)
        (folder / "in").write("x", b"")
        assert (tmp_path / expected / "in" / "x").exists()
    relative = Folder.at(Path("a"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert relative.local == tmp_path / "a"


def test_an_object_stores_options_stay_with_every_folder_in_it(bucket):
    inner = Folder.at(f"{bucket}/study/?region=us-east-1") / "checkpoints" / "trial-0007"
    assert str(inner) == f"{bucket}/study/checkpoints/trial-0007?region=us-east-1"
    assert inner.local is None
    inner.write("x", b"1")
    assert (Folder.at(f"{bucket}/study") / "checkpoints" / "trial-0007").read("x") == b"1"


@pytest.mark.parametrize(
    "place", ["foo://bucket/x", "http://host/x", "s3:/bucket/x", "s3://", "s3://bu cket/x", "s3://bucket/x?colour=red"]
)
def test_a_place_that_cannot_be_is_a_users_error_that_names_it(place):
    with pytest.raises(UserError) as error:
        Folder.at(place)
    assert place in str(error.value)
    assert "s3://bucket/prefix" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "place", ["s3://key:swordfish@bucket/x", "s3://key:sword/swordfish@bucket", "s3://:swordfish@"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(place):
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY") as error:
        Folder.at(place)
    assert "swordfish" not in str(error.value)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, bucket):
    (tmp_path / "file").write_text("")
    for folder in (Folder.at(tmp_path / "file" / "in"), Folder.at("s3://no-such-bucket/in")):
        with pytest.raises(OSError, match=rf"cannot write.*{folder}/x"):
            folder.write("x", b"1")
        with pytest.raises(UserError, match=f"^{folder}: cannot write"):
            folder.require_writable()


def test_a_place_that_can_be_written_to_is_left_as_it_was(folder):
    folder.require_writable()
    assert folder.names() == []
    assert not folder.local or not os.listdir(folder.local)


def test_a_store_that_is_away_is_an_error_that_names_it(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    folder = Folder.at(bucket) / "x"
    with pytest.raises(OSError, match=rf"cannot list.*{folder}"):
        folder.names()


def test_a_read_only_place_is_refused(tmp_path):
    with small_disk(tmp_path, "ro") as disk, pytest.raises(UserError, match="Read-only file system"):
        Folder.at(disk).require_writable()


def test_on_a_full_disk_the_old_content_stays_and_nothing_half_written(tmp_path):
    with small_disk(tmp_path) as disk:
        folder, old = Folder.at(disk / "in"), bytes(300_000)
        folder.write("x", old)
        for size in (800_000, 2_000_000):
            with pytest.raises(OSError, match=rf"No space left.*{folder}/x"):
                folder.write("x", bytes(size))
            assert folder.read("x") == old
            assert os.listdir(folder.local) == ["x"]
        folder.write("y", bytes(600_000))
        source = Folder.at(disk) / "in"
        with pytest.raises(OSError, match="No space left"):
            source.fetch("y", disk / "copy")
        assert sorted(os.listdir(disk)) == ["in"]


def test_what_a_dead_writer_left_is_never_listed_and_swept(tmp_path):
    folder = Folder.at(tmp_path)
    folder.write("x", b"1")
    (tmp_path / ".unfinished-1234").write_bytes(b"half")
    assert folder.names() == ["x"]
    folder.sweep()
    assert os.listdir(tmp_path) == ["x"]


def test_a_reader_finds_the_old_content_or_the_new_but_never_a_part(folder):
    contents = [bytes([index]) * 200_000 for index in range(2)]
    folder.write("x", contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                folder.write("x", content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(folder.read("x") in contents for _ in range(100))
        assert all(folder.names() == ["x"] for _ in range(20))
    finally:
        stop.set()
        writer.join()
