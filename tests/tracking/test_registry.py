import filecmp
from itertools import count
from pathlib import Path

import mlflow
import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.utils.file_utils import local_file_uri_to_path
from pandas.testing import assert_frame_equal
from vae_study.errors import UserError
from vae_study.tracking import schema
from vae_study.tracking.events import ChampionChosen
from vae_study.tracking.models import (
    default_model,
    fetch_example,
    fetch_model,
    find_model,
    known_models,
    log_model,
    promote,
    set_champion,
)
from vae_study.tracking.store import open_client

from tests.tracking.packed import Packed, log_all, new_study, typed
from tests.tracking.story import new_parent
from tests.tracking.unlucky import UnluckyModels, broken_everywhere

times_ms = count(1_700_000_000_000)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return Packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def parent(store, packed, name):
    """A study that has logged two trials and an ensemble."""
    parent, children = new_study(store, name)
    log_all(store, packed, parent, children)
    return parent


def choice(model, rule="val/elbo", **changes):
    note = f"{model} was chosen by {rule}."
    return ChampionChosen(run="", name=model, rule=rule, note=note, time_ms=next(times_ms), **changes)


def chosen(client, parent, model, rule="val/elbo"):
    """The study ends, or ends once more, with a choice."""
    record = choice(model, rule)
    set_champion(client, parent.info.run_id, record)
    return record


def champion(client, study):
    """The number of the champion's version, and which model it is."""
    version = client.get_model_version_by_alias(study, "champion")
    return int(version.version), version.tags["vae_study.model"]


def versions(client, study):
    return sorted(int(version.version) for version in client.search_model_versions(f"name = '{study}'"))


def same_files(first, second):
    compared = filecmp.dircmp(first, second)
    pairs = [compared, *compared.subdirs.values()]
    return not any(one.left_only or one.right_only or one.diff_files or one.funny_files for one in pairs)


def test_the_chosen_model_is_the_first_version_and_tells_why(store, parent, name):
    chosen(store, parent, "trial-0007", "val/auroc")
    assert champion(store, name) == (1, "trial-0007")
    version = store.get_model_version(name, "1")
    assert version.description == "trial-0007 was chosen by val/auroc."
    assert version.tags[schema.CHAMPION_RULE] == "val/auroc"
    assert version.tags[schema.CHAMPION_SCORE] == "elbo"
    assert version.run_id != parent.info.run_id
    assert store.get_run(version.run_id).data.tags[schema.TRIAL] == "7"


def test_a_version_has_the_metrics_of_its_model(store, packed, name):
    parent, children = new_study(store, name)
    run_id = children["trial-0003"].info.run_id
    log_model(store, run_id, packed.event("trial-0003", metrics=["val/elbo"]))
    chosen(store, parent, "trial-0003")
    assert store.get_model_version(name, "1").tags["val/elbo"] == "-11.5"


def test_the_same_choice_again_makes_no_second_version(store, parent, name):
    for _ in range(3):
        chosen(store, parent, "trial-0007")
    assert versions(store, name) == [1]


def test_another_choice_is_another_version_and_the_champion(store, parent, name):
    seen = []
    for model in ("trial-0007", "trial-0003", "ensemble_best", "trial-0007"):
        chosen(store, parent, model)
        seen.append(champion(store, name))
    assert seen == [(1, "trial-0007"), (2, "trial-0003"), (3, "ensemble_best"), (1, "trial-0007")]
    assert versions(store, name) == [1, 2, 3]


def test_other_numbers_of_the_same_trial_are_another_choice(store, packed, parent, name):
    chosen(store, parent, "trial-0007")
    log_model(store, parent.info.run_id, packed.event("trial-0007-by-latent", called="trial-0007"))
    chosen(store, parent, "trial-0007")
    assert champion(store, name) == (2, "trial-0007")


@pytest.mark.parametrize("by_hand", ["promoted", "moved in the UI"])
def test_what_a_user_did_by_hand_stays_until_there_is_another_choice(store, parent, name, by_hand):
    chosen(store, parent, "trial-0007")
    if by_hand == "promoted":
        assert promote(store, name, "trial-0003") == 2
    else:
        store.create_model_version(name, store.get_model_version(name, "1").source)
        store.set_registered_model_alias(name, "champion", "2")
    chosen(store, parent, "trial-0007")
    assert int(store.get_registered_model(name).aliases["champion"]) == 2
    chosen(store, parent, "ensemble_best")
    assert champion(store, name)[1] == "ensemble_best"


def test_a_champion_that_was_deleted_comes_back_with_the_next_end_of_the_study(store, parent, name):
    chosen(store, parent, "trial-0007")
    store.delete_model_version(name, "1")
    chosen(store, parent, "trial-0007")
    assert champion(store, name) == (2, "trial-0007")


def test_a_record_that_comes_a_second_time_moves_nothing_back(store, parent, name):
    records = [chosen(store, parent, model) for model in ("trial-0007", "trial-0003")]
    for record in records:
        set_champion(store, parent.info.run_id, record)
        assert champion(store, name) == (2, "trial-0003")


def test_a_choice_broken_off_anywhere_and_made_again_is_one_version_and_the_champion(store, packed, tmp_path_factory):
    unlucky, studies = UnluckyModels(store.tracking_uri), []

    def begin():
        name = tmp_path_factory.mktemp("study").name
        parent = new_parent(unlucky, name)
        log_model(unlucky, parent.info.run_id, packed.event("trial-0007"))
        studies.append((name, parent, choice("trial-0007")))

    def work():
        _, parent, record = studies[-1]
        set_champion(unlucky, parent.info.run_id, record)

    for _ in broken_everywhere(unlucky, begin, work):
        name = studies[-1][0]
        assert versions(unlucky, name) == [1]
        assert champion(unlucky, name) == (1, "trial-0007")
        assert unlucky.get_model_version(name, "1").description == "trial-0007 was chosen by val/elbo."
    assert len(studies) > 10


def test_a_choice_without_a_model_is_told_of(store, name, caplog):
    parent, _ = new_study(store, name)
    chosen(store, parent, "trial-0007")
    assert f"the study {name!r} has no model trial-0007" in caplog.text
    assert known_models(store, name) == []


def test_promoting_registers_what_has_no_version_yet_and_only_that(store, parent, name):
    chosen(store, parent, "trial-0007")
    assert [promote(store, name, model) for model in ("ensemble", "trial-0007", "trial-0003", "ensemble_best")] == [
        2,
        1,
        3,
        2,
    ]
    assert champion(store, name) == (2, "ensemble_best")
    assert store.get_model_version(name, "1").description == "trial-0007 was chosen by val/elbo."


def test_a_study_that_chose_nothing_can_be_promoted_from(store, parent, name):
    assert promote(store, name, "trial-0003") == 1
    assert schema.CHAMPION_RULE not in store.get_model_version(name, "1").tags
    assert champion(store, name) == (1, "trial-0003")
    chosen(store, parent, "trial-0003")
    assert versions(store, name) == [1]
    assert store.get_model_version(name, "1").tags[schema.CHAMPION_RULE] == "val/elbo"


def test_a_model_that_is_not_there_is_answered_with_those_that_are(store, parent, name):
    message = (
        f"no model 'trial-007' in the study '{name}'; did you mean 'trial-0007'? only the frontier's trials, the "
        "chosen one, the ensembles and the detector without a model are kept: "
        "ensemble, ensemble_best, trial-0003, trial-0007"
    )
    for ask in (lambda: promote(store, name, "trial-007"), lambda: fetch_model(store, name, "trial-007", None)):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value) == message


def test_a_study_that_is_not_there_is_answered_with_those_that_are(store, parent, name):
    for model in ("trial-0007", "champion"):
        with pytest.raises(UserError, match=rf"no study 'nobody' in .*{name}"):
            fetch_model(store, "nobody", model, None)


def test_a_study_without_any_model_says_so(store, name):
    new_study(store, name)
    with pytest.raises(UserError, match="it has kept none yet"):
        fetch_model(store, name, "champion", None)


def test_every_model_comes_back_as_it_was_packed_and_nothing_else(store, packed, parent, name, tmp_path):
    chosen(store, parent, "trial-0003")
    wanted = {"champion": "trial-0003", "ensemble": "ensemble_best", "trial-0007": "trial-0007"}
    for asked, there in {**wanted, "ensemble_best": "ensemble_best"}.items():
        found = fetch_model(store, name, asked, tmp_path / asked)
        assert found.parent == tmp_path / asked
        assert same_files(found, packed.folder / there)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".py", ".zip", ".pkl")]
    promote(store, name, "ensemble_best")
    assert same_files(fetch_model(store, name, "champion", tmp_path / "new"), packed.folder / "ensemble_best")


def test_the_ensemble_with_labels_goes_first(store, packed, parent, name, tmp_path):
    log_model(store, parent.info.run_id, packed.event("trial-0003", called="ensemble_labels"))
    assert same_files(fetch_model(store, name, "ensemble", tmp_path), packed.folder / "trial-0003")


def test_a_champion_that_is_none_of_ours_is_refused(store, parent, name, tmp_path):
    (tmp_path / "their").mkdir()
    chosen(store, parent, "trial-0007")
    store.create_model_version(name, (tmp_path / "their").as_uri())
    store.set_registered_model_alias(name, "champion", "2")
    with pytest.raises(UserError, match=r"the model 'champion' of the study .* cannot be read"):
        fetch_model(store, name, "champion", tmp_path / "into")


def test_a_model_has_rows_to_try_it_with_unless_a_user_has_made_it(store, packed, parent, name, tmp_path):
    example = fetch_example(store, name, "trial-0003")
    assert pd.DataFrame(**example).columns.tolist() == list(packed.example)
    chosen(store, parent, "trial-0003")
    (tmp_path / "their").mkdir()
    store.create_model_version(name, (tmp_path / "their").as_uri())
    store.set_registered_model_alias(name, "champion", "2")
    assert fetch_example(store, name, "champion") is None


@pytest.mark.parametrize("asked", ["champion", "trial-0003"])
def test_a_model_whose_files_changed_after_they_were_logged_is_refused(store, parent, name, tmp_path, asked):
    chosen(store, parent, "trial-0003")
    place = Path(local_file_uri_to_path(find_model(store, parent, "trial-0003").artifact_location))
    weights = next(place.rglob("model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="are not those that the study logged"):
        fetch_model(store, name, asked, tmp_path / "into")


def test_models_are_known_by_all_their_names(store, parent, name):
    assert known_models(store, name) == ["ensemble", "ensemble_best", "trial-0003", "trial-0007"]
    chosen(store, parent, "trial-0003")
    assert known_models(store, name) == ["champion", "ensemble", "ensemble_best", "trial-0003", "trial-0007"]


def test_the_champion_of_a_server_loads_by_its_alias(server, packed, name, tmp_path, monkeypatch):
    client = open_client(server.uri)
    parent, children = new_study(client, name)
    log_all(client, packed, parent, children)
    for _ in range(2):
        chosen(client, parent, "trial-0007")
    assert promote(client, name, "ensemble") == 2
    assert same_files(fetch_model(client, name, "champion", tmp_path), packed.folder / "ensemble_best")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert_frame_equal(loaded.predict(typed(loaded, packed.frame)), packed.scores("ensemble_best", packed.frame))


def test_rows_are_scored_by_the_ensemble_where_no_labels_chose_and_nobody_promoted_another(store, packed, name):
    parent, children = new_study(store, name)
    log_all(store, packed, parent, children)
    store.set_tag(parent.info.run_id, schema.CHAMPION, "3")
    chosen(store, parent, "trial-0003")
    assert default_model(store, name) == "ensemble"
    promote(store, name, "trial-0007")
    assert default_model(store, name) == "champion"
    promote(store, name, "trial-0003")
    log_model(store, parent.info.run_id, packed.event("ensemble_best", called="ensemble_labels"))
    assert default_model(store, name) == "champion"
