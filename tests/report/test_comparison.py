"""Studies beside each other: numbers as in their own reports, nothing left unescaped, nothing unlike compared."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from vae_study.errors import UserError
from vae_study.report import summary, write_comparison
from vae_study.report.comparison import Comparison, compare, differences
from vae_study.report.comparison_page import overview, warnings
from vae_study.report.frames import Missing
from vae_study.report.frontier import frontier, objective_signs
from vae_study.report.tables import tidy
from vae_study.tracking.record import StudyRecord

from .detectors import compared
from .odd import NASTY, ODD, odd
from .page import bytes_of, page_of
from .studies import study

OBJECTIVES = ["val/reconstruction", "val/kl"]


def changed(record: StudyRecord, **settings: Any) -> StudyRecord:
    """The same study of a config that says something else; None takes a key away."""
    config: dict[str, Any] = copy.deepcopy(dict(record.config))
    for key, value in settings.items():
        *path, last = key.split("__")
        part = config
        for name in path:
            part = part[name]
        part.pop(last, None) if value is None else part.update({last: value})
    return replace(record, config=config)


@pytest.fixture(scope="module")
def three() -> list[StudyRecord]:
    """Studies of the same data: one that compared detectors, one of another reference, and one of little."""
    wide = replace(compared(study(trials=24, epochs=8)), name="wide")
    other = replace(study(trials=16, epochs=8, seed=3), name="other", promoted="trial-0003")
    other = replace(other, reference={"val/reconstruction": 33.0, "val/kl": 40.0})
    small = replace(study(trials=5, epochs=4, seed=5), name="small")
    return [wide, other, changed(small, training__epochs=4, search__beta=None)]


@pytest.fixture(scope="module")
def table(three: list[StudyRecord]) -> Comparison:
    return compare(three)


@pytest.fixture(scope="module")
def folder(three: list[StudyRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(three, tmp_path_factory.mktemp("comparison") / "wide-other-small").parent


def test_every_number_but_the_hypervolume_is_that_of_the_study_s_own_report(
    table: Comparison, three: list[StudyRecord]
) -> None:
    for one, record in zip(table.studies, three, strict=True):
        assert replace(one.summary, hypervolume=0.0) == replace(summary(record), hypervolume=0.0)
        own = frontier(tidy(record))
        pd.testing.assert_frame_equal(one.frontier.drop(columns="joint"), own)


def test_hypervolumes_are_the_share_of_random_points_below_the_common_reference_that_a_frontier_dominates(
    table: Comparison,
) -> None:
    assert table.reference == {"val/reconstruction": 33.0, "val/kl": 45.0}
    random = np.random.default_rng(0)
    upper_M = np.array([table.reference[metric] for metric in OBJECTIVES])
    for one in table.studies:
        front_NM = one.frontier[OBJECTIVES].to_numpy()
        points_SM = random.uniform(0, upper_M, (200_000, 2))
        dominated_S = (front_NM[None] <= points_SM[:, None]).all(axis=2).any(axis=1)
        assert one.summary.hypervolume == pytest.approx(dominated_S.mean() * upper_M.prod(), rel=0.01)
        assert not isinstance(one.hypervolume, Missing)
        assert one.hypervolume.hypervolume_N[-1] == one.summary.hypervolume


def test_the_joint_frontier_is_what_no_trial_of_any_study_dominates(
    table: Comparison, three: list[StudyRecord]
) -> None:
    rows = [(record.name, row) for record in three for row in record.trials.to_dict("records")]
    points = {(name, row["trial"]): np.array([row[m] for m in OBJECTIVES]) for name, row in rows
              if row["state"] == "finished"}  # fmt: skip
    expected = {key for key, a in points.items() if not any((b <= a).all() and (b < a).any() for b in points.values())}
    found = {(one.name, trial) for one in table.studies for trial in one.frontier.query("joint")["trial"]}
    assert found == expected


def test_the_frontiers_and_studies_are_stored_as_they_are_printed(folder: Path, table: Comparison) -> None:
    frontiers, studies = pd.read_parquet(folder / "frontiers.parquet"), pd.read_csv(folder / "studies.csv")
    text = page_of(folder).text
    for one, (_, row) in zip(table.studies, studies.iterrows(), strict=True):
        assert row["study"] == one.name
        assert len(frontiers[frontiers["study"] == one.name]) == row["frontier_size"] == one.summary.frontier_size
        assert row["auroc"] == one.summary.test_auroc.value
        assert f"{row['auroc']:.3f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]" in text
        assert f"{row['hypervolume']:,.2f}" in text
    volumes = pd.read_parquet(folder / "hypervolumes.parquet").groupby("study")["hypervolume"].max()
    assert volumes.to_dict() == dict(zip(studies["study"], studies["hypervolume"], strict=True))
    assert "trial-0003" in text


def test_the_page_is_whole_loads_nothing_and_can_be_read_without_eyes(folder: Path) -> None:
    page = page_of(folder)
    assert set(bytes_of(folder)) == {
        "report.html", "report.md", "studies.csv", "frontiers.parquet", "hypervolumes.parquet",
        *(f"figures/{name}.png" for name in ("frontiers", "hypervolume", "chosen")),
    }  # fmt: skip
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    # Its own script sorts tables.
    assert page.all("script") == [{}]
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in page.all("img"))
    assert {head.get("scope") for head in page.all("th")} == {"col", "row"}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in page.all("a")]
    assert {link[1:] for link in links if not link.startswith("data:text/csv")} <= set(ids)


def test_the_same_studies_give_the_same_bytes(folder: Path, three: list[StudyRecord], tmp_path: Path) -> None:
    assert bytes_of(write_comparison(three, tmp_path / "again").parent) == bytes_of(folder)


def test_names_of_any_kind_are_text_and_nothing_else(tmp_path: Path) -> None:
    nasty = odd("nasty names")
    other = changed(replace(nasty, name=f"{NASTY}2"), model={"family": NASTY})
    folder = write_comparison([nasty, other], tmp_path / "nasty").parent
    page = page_of(folder)
    assert page.all("script") == [{}]
    assert NASTY in page.text
    assert "<script>" not in (folder / "report.md").read_text(encoding="utf-8").split("```")[0]


@pytest.mark.parametrize("name", sorted(ODD))
def test_an_odd_study_stands_beside_a_plain_one_or_is_refused(name: str) -> None:
    odd_one, plain = replace(odd(name), name="odd"), replace(study(trials=6, epochs=3), name="plain")
    plain = replace(plain, data={**plain.data, "sha256": odd_one.data.get("sha256")})
    if objective_signs(odd_one.config).keys() != set(OBJECTIVES):
        with pytest.raises(UserError, match="different objectives"):
            compare([odd_one, plain])
        return
    table = compare([odd_one, plain])
    assert [*overview(table), *warnings(table)]
    assert [one.summary.frontier_size for one in table.studies] == [
        summary(record).frontier_size for record in (odd_one, plain)
    ]


def test_what_cannot_be_compared_is_refused_by_name(three: list[StudyRecord], tmp_path: Path) -> None:
    wide, other, small = three
    elsewhere = replace(other, data={**other.data, "sha256": "ab" * 32})
    with pytest.raises(UserError, match=r"'wide' and 'other' have different data.*wide.*2c26b46b68ff.*other.*abababab"):
        compare([wide, elsewhere, small])
    one_goal = changed(small, objectives=[{"metric": "val/elbo", "direction": "maximize"}])
    with pytest.raises(UserError, match=r"'other' and 'small' have different objectives.*minimize val/kl.*maximize"):
        write_comparison([wide, other, one_goal], tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(UserError, match="'wide' is given twice"):
        compare([wide, other, wide])
    with pytest.raises(UserError, match="two or more"):
        compare([wide])


def test_the_table_of_differences_has_what_differs_and_nothing_else(table: Comparison) -> None:
    found = dict(table.differences)
    beta = "high 20.0, log true, low 0.05, type float"
    assert found == {"training.epochs": ("60", "60", "4"), "search.beta": (beta, beta, None),
                     "anomaly.score": ("null", "elbo", "elbo")}  # fmt: skip


def test_a_number_and_its_text_differ_though_they_are_written_alike() -> None:
    configs = [{"search": {"x": {"choices": [1, 2]}}}, {"search": {"x": {"choices": ["1", "2"]}}}]
    assert list(differences(configs)) == ["search.x"]


def scored(record: StudyRecord, scores: pd.DataFrame, name: str) -> StudyRecord:
    assert record.champion is not None
    return replace(record, name=name, champion=replace(record.champion, scores=scores))


def test_chosen_models_are_compared_in_pairs_on_the_same_rows_only(three: list[StudyRecord]) -> None:
    wide = three[0]
    assert wide.champion is not None
    scores, score = wide.champion.scores, str(wide.champion.score)
    noise_N = np.random.default_rng(0).normal(size=len(scores))
    near = scored(wide, scores.assign(**{score: scores[score] + 1e-3 * noise_N}), "near")
    far = scored(wide, scores.assign(**{score: noise_N}), "far")
    told = " ".join(overview(compare([wide, near, far])))
    assert re.search(r"minus that of near on the same rows is −?0\.00\d.*?: a tie, these rows do not show", told)
    assert re.search(r"minus that of far on the same rows is 0\.[34]\d\d, .*? interval from 0.*?: better", told)
    elsewhere = scored(wide, scores.assign(row=scores["row"] + 1), "elsewhere")
    assert "The test rows of elsewhere are others" in " ".join(overview(compare([wide, elsewhere])))


def test_hypervolumes_that_print_alike_are_not_ranked(three: list[StudyRecord]) -> None:
    wide = three[0]
    twice = " ".join(overview(compare([wide, replace(wide, name="again")])))
    assert "wide and again have the same hypervolume" in twice
    assert "largest" not in twice
    none = [replace(wide, name=name, reference=dict.fromkeys(wide.reference, 0.0)) for name in ("one", "two")]
    assert "The hypervolume of every study is 0: no trial is better" in " ".join(overview(compare(none)))


def test_what_makes_numbers_unlike_is_said_first(three: list[StudyRecord]) -> None:
    wide, other, _ = three
    said = " ".join(warnings(compare([wide, changed(other, data__split={"seed": 1}, model__likelihood="gaussian")])))
    assert "data.split.seed" in said
    assert "differ in model.likelihood" in said
    assert "nothing" not in " ".join(warnings(compare([wide, other])))
    assert "likelihood" not in " ".join(warnings(compare([wide, other])))


def test_a_study_of_one_objective_has_a_hypervolume_and_no_plane(three: list[StudyRecord]) -> None:
    goal = [{"metric": "val/elbo", "direction": "maximize"}]
    one, other = (
        replace(changed(record, objectives=goal), reference={"val/elbo": low})
        for record, low in zip(three, (-60.0, -70.0), strict=False)
    )
    table = compare([one, other])
    assert table.reference == {"val/elbo": -70.0}
    for found in table.studies:
        best = found.record.trials.query("state == 'finished'")["val/elbo"].max()
        assert found.summary.hypervolume == pytest.approx(best + 70.0)
