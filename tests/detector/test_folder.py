import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from vae_study.detector.detector import Detector
from vae_study.errors import UserError
from vae_study.metrics import scores_of

from tests.detector.builders import ensemble, labelled, single

WEIGHTS, SCORER, JSON, BASELINE, CALIBRATION, SCALES = (
    "trial-0001/model.safetensors",
    "trial-0001/scorer.safetensors",
    "detector.json",
    "baseline.safetensors",
    "calibration.safetensors",
    "scales.safetensors",
)
ALL = (WEIGHTS, SCORER, JSON, BASELINE, CALIBRATION, SCALES)


class Bomb:
    """Whoever unpickles it is told of."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.fixture(scope="module")
def sound(small, tmp_path_factory):
    return small.pack(ensemble(1), tmp_path_factory.mktemp("packed") / "sound")


@pytest.fixture
def folder(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        Detector.load(folder)
    (message,) = str(caught.value).splitlines()
    return message


def test_packed_and_loaded_again_a_detector_gives_the_same_bits(small, tmp_path):
    for place, choice in enumerate([ensemble(0, 1, 2), labelled((1, "elbo"), (2, "latent_knn"))]):
        first = small.packed(choice, tmp_path / f"first-{place}").score(small.held_out_ND, explain=True)
        (tmp_path / f"first-{place}").rename(tmp_path / f"moved-{place}")
        again = Detector.load(str(tmp_path / f"moved-{place}")).score(small.held_out_ND, explain=True)
        assert first.equals(again)


def test_the_folder_holds_what_the_trials_left_and_nothing_that_was_looked_up(small, sound):
    files = {path.relative_to(sound).as_posix() for path in sound.rglob("*") if path.is_file()}
    assert files == set(ALL)
    assert (sound / WEIGHTS).read_bytes() == small.files(1)["model.safetensors"].read_bytes()
    assert (sound / SCORER).read_bytes() == small.files(1)["scorer.safetensors"].read_bytes()
    plain = json.loads((sound / JSON).read_text())
    assert list(plain["trials"]) == ["1"]
    assert plain["votes"] == [{"trial": 1, "score": "residual_mahalanobis"}]
    assert plain["data"]["sha256"] == small.data.sha256


@pytest.mark.parametrize("name", ["python_model.pkl", "trial-0001/code.py", "trial-0002/model.safetensors", ".hidden"])
def test_a_file_that_belongs_to_no_detector_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    assert f"{folder / name}: got a file that belongs to no detector" in refusal(folder)


def test_a_folder_that_belongs_to_no_detector_is_refused(folder):
    (folder / "trial-0003").mkdir()
    assert "belongs to no detector" in refusal(folder)


@pytest.mark.parametrize("name", ALL)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    message = refusal(folder)
    assert name in message
    assert "missing" in message or "no detector.json is there" in message


@pytest.mark.parametrize("name", [WEIGHTS, SCORER, BASELINE, CALIBRATION])
def test_other_formats_are_refused_by_their_names_and_never_opened(folder, name):
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb()))
    assert f"{folder / name}: got a zip archive" in refusal(folder)
    torch.save({"weight": torch.ones(2)}, folder / name)
    assert "got a zip archive" in refusal(folder)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    assert "got a pickle" in refusal(folder)
    np.save(folder / "array.npy", np.ones(3))
    (folder / "array.npy").rename(folder / name)
    assert "got a NumPy file" in refusal(folder)


@given(data=st.data())
@settings(max_examples=60)
def test_a_torn_file_is_refused_wherever_it_ends(sound, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("torn") / "copy"
    shutil.copytree(sound, folder)
    name = data.draw(st.sampled_from(ALL))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert name in refusal(folder)


@given(data=st.data())
@settings(max_examples=60)
def test_spoiled_bytes_of_a_header_are_refused_or_change_no_name_or_shape(sound, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("spoiled") / "copy"
    shutil.copytree(sound, folder)
    name = data.draw(st.sampled_from((WEIGHTS, SCORER, BASELINE, CALIBRATION)))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, 7 + int.from_bytes(content[:8], "little")))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    messages = []
    try:
        Detector.load(folder)
    except UserError as error:
        messages.append(str(error))
    assert all(name in message for message in messages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "got version 1, expected 3"),
        ({"version": None}, "got version None"),
        ({"is_combined": "yes"}, "is_combined: got 'yes'"),
        ({"is_combined": False}, "is_combined: got false, expected true exactly where several scores count"),
        ({"votes": []}, "votes"),
        ({"votes": [], "trials": {}, "baseline": False}, "votes: got none"),
        ({"votes": [{"trial": 1, "score": "best"}]}, "votes\\[0\\].score: got 'best'"),
        ({"votes": [{"trial": 2, "score": "elbo"}]}, "do not match"),
        ({"baseline": "some"}, "baseline: got 'some'"),
        ({"thresholds": {"90": 1.0}}, "thresholds"),
        ({"thresholds": {"90": 1.0, "95": 1.0, "99": "x"}}, "thresholds"),
        ({"data": {}}, "data: got what cannot be used"),
        ({"trials": {}}, "do not match"),
        ({"trials": {"1": {"model": {"family": "gan"}}}}, "family: got 'gan'"),
        ({"trials": {"../1": {}}}, "trials"),
        ({"loader": "python_model.pkl"}, "loader: unknown key"),
        ({"thresholds": {"90": 3.0, "95": 2.0, "99": 1.0}}, "expected finite numbers that do not fall"),
        ({"thresholds": {"90": float("nan"), "95": 2.0, "99": 3.0}}, "thresholds"),
    ],
)
def test_a_description_that_is_none_is_refused_in_words(folder, change, message):
    plain = json.loads((folder / JSON).read_text())
    (folder / JSON).write_text(json.dumps({**plain, **change}))
    assert JSON in refusal(folder)
    with pytest.raises(UserError, match=message):
        Detector.load(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\x80\x04K\x01.", b'{"version": NaN}', b"[" * 10**6])
def test_what_is_no_description_is_refused(folder, content):
    (folder / JSON).write_bytes(content)
    assert JSON in refusal(folder)


@pytest.mark.parametrize("name", [WEIGHTS, SCORER, BASELINE, CALIBRATION])
def test_tensors_of_another_model_are_refused_by_name(folder, name):
    tensors = load_file(folder / name)
    first = "reference" if name == BASELINE else sorted(tensors)[0]
    others = [
        {**tensors, "more": torch.ones(1)},
        {key: value for key, value in tensors.items() if key != first},
        {**tensors, first: tensors[first].half()},
        {**tensors, first: tensors[first][None]},
        {**tensors, first: tensors[first][:0]},
        # There may be any number of calibration scores.
        *([] if name == CALIBRATION else [{**tensors, first: tensors[first][..., :-1].contiguous()}]),
    ]
    for other in others:
        save_file(other, folder / name)
        message = refusal(folder)
        assert str(folder / name) in message
        assert first in message or "more" in message


@pytest.mark.parametrize("part", [{"network": {"hidden": [10**9]}}, {"latent_dim": 10**9}])
def test_a_model_that_is_larger_than_its_weights_is_refused_before_it_is_made(folder, part):
    plain = json.loads((folder / JSON).read_text())
    for trial in plain["trials"].values():
        trial["model"] |= part
    (folder / JSON).write_text(json.dumps(plain))
    assert "weights, expected at least the " in refusal(folder)


@pytest.mark.parametrize("name", [WEIGHTS, BASELINE, CALIBRATION, SCALES])
def test_weights_and_scores_that_are_no_numbers_are_refused(folder, name):
    tensors = load_file(folder / name)
    first = sorted(tensors)[0]
    save_file({**tensors, first: torch.full_like(tensors[first], float("nan"))}, folder / name)
    message = refusal(folder)
    assert f"{folder / name}: {first}: got " in message
    assert "not finite" in message


@pytest.mark.parametrize("name", ALL)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{folder / name}: is no regular file" in refusal(folder)


def test_a_place_without_a_detector_and_a_device_that_is_not_there_are_refused(sound, tmp_path):
    assert "no detector.json is there" in refusal(tmp_path / "nowhere")
    for device in ("cuda:99", "abacus"):
        with pytest.raises(UserError, match=f"device: got '{device}'"):
            Detector.load(sound, device)


def test_a_trial_without_a_file_that_scoring_needs_cannot_be_packed(small, tmp_path):
    class Incomplete(type(small)):
        def files(self, number):
            return {name: path for name, path in super().files(number).items() if name != "scorer.safetensors"}

    incomplete = Incomplete(small.data, small.place, small.configs, small.baseline)
    with pytest.raises(UserError, match=r"trial-0001: has left no scorer.safetensors"):
        incomplete.pack(single(1, "elbo"), tmp_path / "packed")


def test_thresholds_and_scales_are_kept_to_the_last_bit(small, tmp_path):
    for score in scores_of(is_images=False):
        found = small.packed(labelled((2, score), (1, score)), tmp_path / score)
        normal_M = small.scores(2)[score].to_numpy()[small.is_normal_validation_N]
        assert (found.scales[f"trial-0002/{score}"].normal_M == np.sort(normal_M)).all()
        alone = small.packed(single(2, score), tmp_path / f"{score} alone").description
        assert list(alone.thresholds.values()) == np.percentile(normal_M, [90, 95, 99]).tolist()
