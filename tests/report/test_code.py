"""The chosen model's code: what the figures draw is what was stored."""

from dataclasses import replace

import numpy as np
import pytest
from vae_study.report.frames import Missing
from vae_study.report.overview import family_name
from vae_study.report.sections.code import LATENT_USE, code_facts, latent_map, latent_use
from vae_study.report.sections.examples import TRAVERSALS, interpolations, traversals
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import ChampionRecord, StudyRecord

from .families import discrete, looked_into, without_rate
from .studies import study, table_study

SMALL = {"trials": 12, "epochs": 4}


def champion_of(record: StudyRecord) -> ChampionRecord:
    assert record.champion is not None
    return record.champion


def with_champion(record: StudyRecord, **changes: object) -> StudyRecord:
    return tidy(replace(record, champion=replace(champion_of(record), **changes)))  # type: ignore[arg-type]


def test_the_latent_map_keeps_the_order_of_the_test_rows(digits: StudyRecord) -> None:
    champion = champion_of(digits)
    table = latent_map(tidy(digits))
    assert not isinstance(table, Missing)
    test = champion.scores[champion.scores["split"] == "test"]
    assert champion.latent_map_N2 is not None
    assert table.points[["x", "y"]].to_numpy() == pytest.approx(champion.latent_map_N2)
    assert table.points["anomaly"].tolist() == test["anomaly"].tolist()
    assert table.points["label"].tolist() == test["label"].tolist()
    assert table.labels == tuple(str(i) for i in range(9))
    assert (table.method, table.on_a_line, table.left_out) == ("pca", False, 0)


@pytest.mark.parametrize(("labels", "told"), [(1, 0), (2, 2), (12, 12), (13, 0)])
def test_labels_are_told_apart_where_they_are_few(labels: int, told: int) -> None:
    table = latent_map(tidy(looked_into(study(**SMALL), labels=labels)))
    assert not isinstance(table, Missing)
    assert table.labels == tuple(str(i) for i in range(told))
    assert set(table.points["label"]) == ({str(i) for i in range(told + 1)} if told else {""})


def test_labels_are_written_as_people_write_them() -> None:
    record = looked_into(study(**SMALL), labels=2)
    champion = champion_of(record)
    number = champion.scores["label"].map({"0": 10.0, "1": 9.0, "2": float("nan")})
    table = latent_map(with_champion(record, scores=champion.scores.assign(label=number)))
    assert not isinstance(table, Missing)
    assert table.labels == ("9", "10")


def test_examples_without_a_place_are_left_out_and_a_line_is_seen(digits: StudyRecord) -> None:
    place = np.column_stack([np.arange(411.0), np.zeros(411)])
    place[:5, 0] = np.nan
    table = latent_map(with_champion(digits, latent_map_N2=place))
    assert not isinstance(table, Missing)
    assert (table.left_out, len(table.points), table.on_a_line) == (5, 406, True)
    assert isinstance(latent_map(with_champion(digits, latent_map_N2=place[1:])), Missing)
    assert isinstance(latent_map(with_champion(digits, latent_map_N2=None)), Missing)


def test_dimensions_are_sorted_by_cost_and_active_where_their_means_vary() -> None:
    record = looked_into(study(**SMALL), dimensions=4)
    use = {
        "kl_per_dimension_R": np.array([0.2, 3.0, np.nan, 0.7]),
        "latent_variance_Z": np.array([0.01, 0.9, 0.5, 0.02]),
    }
    table = latent_use(with_champion(record, **use))
    assert not isinstance(table, Missing)
    assert table.dimension_R.tolist() == [2, 4, 1]
    assert table.kl_nats_R.tolist() == [3.0, 0.7, 0.2]
    assert table.is_active_R is not None
    assert table.is_active_R.tolist() == [True, True, False]
    other = latent_use(with_champion(record, **{**use, "latent_variance_Z": np.ones(3)}))
    assert not isinstance(other, Missing)
    assert other.is_active_R is None


def test_a_cost_that_is_none_or_the_same_everywhere_is_said_in_words() -> None:
    point, discretes = latent_use(tidy(without_rate(**SMALL))), latent_use(tidy(discrete(**SMALL)))
    assert isinstance(point, Missing)
    assert "no rate" in point.why
    assert isinstance(discretes, Missing)
    assert "8 discrete codes costs 4.16 nats" in discretes.why


def test_traversals_are_images_named_by_the_dimensions_that_vary_most(digits: StudyRecord) -> None:
    champion = champion_of(digits)
    table = traversals(tidy(digits))
    assert not isinstance(table, Missing)
    assert champion.traversals_LSD is not None
    assert champion.latent_variance_Z is not None
    assert table.images.shape == (8, 9, 8, 8)
    assert table.images[3, 4].ravel() == pytest.approx(champion.traversals_LSD[3, 4])
    best = max(range(8), key=lambda z: champion.latent_variance_Z[z])  # type: ignore[index]
    assert table.names[0] == f"dim {best + 1}"


def test_of_a_map_it_is_said_that_a_dimension_counts_at_each_place(digits: StudyRecord) -> None:
    model = {**digits.config["model"], "latent": "map"}
    by_place = tidy(replace(digits, config={**digits.config, "model": model}))
    for figure, words in ((LATENT_USE, "A dimension counts at each place of the map"), (TRAVERSALS, "at one place of")):
        plain, told = (figure.words(figure.numbers(StudyTables(record))).caption for record in (digits, by_place))
        assert words not in plain
        assert words in told
    assert family_name(StudyTables(digits)) == "a variational autoencoder"
    assert family_name(StudyTables(by_place)) == "a variational autoencoder with a map as code"


def test_colour_channels_go_last() -> None:
    record = looked_into(study(**SMALL))
    walks = np.arange(2 * 3 * 48, dtype=np.float32).reshape(2, 3, 48)
    record = replace(record, data={**record.data, "image_shape": [3, 4, 4]})
    table = interpolations(with_champion(record, interpolations_PSD=walks))
    assert not isinstance(table, Missing)
    assert table.images.shape == (2, 3, 4, 4, 3)
    assert table.images[1, 2, 3, 1].tolist() == [walks[1, 2, c * 16 + 3 * 4 + 1] for c in range(3)]


def test_tables_have_no_walks() -> None:
    for table in (traversals(tidy(table_study(**SMALL))), interpolations(tidy(table_study(**SMALL)))):
        assert isinstance(table, Missing)
        assert "not images" in table.why


def test_facts_of_the_code_come_from_the_chosen_trial_and_the_config() -> None:
    found = code_facts(tidy(discrete(**SMALL)))
    assert (found.probe_accuracy, found.probe_share) == (0.9132, 0.1)
    assert (found.perplexity, found.codebook_size) == (37.2, 64)
    record = discrete(**SMALL)
    searched = replace(record, trials=record.trials.assign(**{"codebook.size": 16, "test/perplexity": np.nan}))
    found = code_facts(tidy(searched))
    assert (found.perplexity, found.codebook_size) == (36.0, 16)
    nothing = code_facts(tidy(study(**SMALL)))
    assert np.isnan([nothing.probe_accuracy, nothing.perplexity]).all()
