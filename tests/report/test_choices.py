"""The choosing rules side by side, what labels were worth, the baseline, and the score as a choice."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.anomaly import SCORES
from pipeline.choosing.comparison import ENSEMBLES
from pipeline.report.grids_detection import choice_grid, score_grid
from pipeline.report.prose_detection import comparison, score_matters
from pipeline.report.tables import Interval, Missing, StudyTables, study_tables, tidy
from pipeline.report.tables.choice import Choice, choices
from pipeline.report.tables.contest import baseline_contest, label_contest
from pipeline.report.tables.score_table import score_table
from pipeline.tracking.record import StudyRecord

from .detectors import compared
from .families import without_rate
from .page import page_of
from .studies import study

RULES = ["val/auroc", "val/elbo", "val/reconstruction", "pseudo"]


@pytest.fixture(scope="module")
def tables(digits: StudyRecord) -> StudyTables:
    return study_tables(digits)


def test_every_rule_every_ensemble_and_the_baseline_stand_side_by_side(
    digits: StudyRecord, tables: StudyTables
) -> None:
    found = {choice.name: choice for choice in tables.choices}
    assert list(found) == [*RULES, *ENSEMBLES, "input_knn"]
    assert [choice.name for choice in tables.choices if choice.chosen] == ["val/auroc"]
    assert [name for name, choice in found.items() if choice.needs_labels] == ["val/auroc", "ensemble_labels"]
    test = digits.detectors[digits.detectors["split"] == "test"]
    for name, choice in found.items():
        assert choice.test_auroc.value == pytest.approx(roc_auc_score(test["anomaly"], test[name]))
    assert not isinstance(tables.side_by_side, Missing)
    assert tables.side_by_side.choices == tables.choices


def test_the_chosen_row_says_what_the_rest_of_the_page_says(tables: StudyTables) -> None:
    chosen = tables.choices[0]
    assert chosen.trials == (tables.summary.champion_trial,)
    assert chosen.scores == (tables.summary.champion_score,)
    assert chosen.test_auroc == tables.summary.test_auroc


def test_rules_take_the_best_finished_trial(digits: StudyRecord, tables: StudyTables) -> None:
    finished = digits.trials[digits.trials["state"] == "finished"].set_index("trial")
    trial_of = {choice.name: choice.trials[0] for choice in tables.choices if choice.kind == "rule"}
    assert trial_of["val/elbo"] == finished["val/elbo"].idxmax()
    assert trial_of["val/reconstruction"] == finished["val/reconstruction"].idxmin()
    assert trial_of["val/auroc"] == finished.filter(like="val_auroc/").max(axis=1).idxmax()


def test_the_study_s_own_rule_comes_first_and_is_marked() -> None:
    found = study_tables(compared(study(trials=10, epochs=6), by="pseudo"))
    grid = choice_grid(found)
    assert grid.marked == grid.rows[0][0] == "pseudo-anomaly AUROC"
    assert [row[0] for row in grid.rows].count(grid.marked) == 1
    assert " ".join(comparison(found)).startswith("With the labels of validation anomalies, by validation AUROC, ")


def test_an_earlier_study_has_its_two_rules_and_says_what_it_lacks(earlier: StudyRecord) -> None:
    tables = study_tables(earlier)
    finished = earlier.trials[earlier.trials["state"] == "finished"].set_index("trial")
    assert [choice.name for choice in tables.choices] == ["val/auroc", "val/elbo"]
    for choice in tables.choices:
        assert choice.trials == (finished[choice.name].idxmax(),)
        assert choice.test_auroc.value == finished.loc[choice.trials[0], "test/auroc"]
    assert isinstance(tables.side_by_side, Missing)
    assert "earlier version" in tables.side_by_side.why
    assert isinstance(tables.score_table, Missing)
    assert tables.baseline is None
    assert " ".join(comparison(tables)).startswith("Without labels, by validation ELBO, the choice would have been")


def choice(name: str, auroc: tuple[float, float, float], chosen: bool = False, trial: int = 1) -> Choice:
    value, low, high = auroc
    kind = "baseline" if name == "input_knn" else "rule"
    return Choice(
        name=name, kind=kind, needs_labels=name == "val/auroc", trials=() if kind == "baseline" else (trial,),
        scores=() if kind == "baseline" else ("elbo",), val_auroc=0.9,
        test_auroc=Interval(value=value, low=low, high=high), average_precision=0.5, chosen=chosen,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (
            (0.9, 0.85, 0.94),
            (0.85, 0.8, 0.9),
            "5.0 points lower: the chosen model did better, but the intervals overlap",
        ),
        ((0.9, 0.88, 0.92), (0.8, 0.75, 0.84), "10.0 points lower: the chosen model beats it"),
        ((0.9, 0.88, 0.92), (0.91, 0.9, 0.93), "1.0 point higher: the chosen model does not beat it"),
        ((0.8, 0.75, 0.84), (0.9, 0.88, 0.92), "10.0 points higher: the chosen model is worse than none"),
        ((0.9, 0.88, 0.92), (0.9, 0.88, 0.92), "the same: the chosen model does not beat it"),
        ((0.90049, 0.88, 0.92), (0.8996, 0.88, 0.92), "the same: the chosen model does not beat it"),
    ],
)
def test_the_baseline_is_beaten_only_where_intervals_are_apart(
    tables: StudyTables, ours: tuple[float, ...], theirs: tuple[float, ...], told: str
) -> None:
    found = (choice("val/elbo", ours, chosen=True), choice("input_knn", theirs))  # type: ignore[arg-type]
    sentence = " ".join(comparison(replace(tables, labels=None, baseline=baseline_contest(found))))
    assert told in sentence


def test_the_gap_is_what_a_reader_gets_by_subtracting(tables: StudyTables) -> None:
    found = (choice("val/auroc", (0.91249, 0.9, 0.95), True), choice("val/elbo", (0.8805, 0.85, 0.92), trial=7))
    contest = label_contest(found)
    assert contest is not None
    assert contest.points == pytest.approx(-3.2)
    told = " ".join(comparison(replace(tables, labels=contest, baseline=None)))
    assert told == (
        "Without labels, by validation ELBO, the choice would have been trial 7: its test AUROC is 0.880, "
        "3.2 points lower, and the intervals overlap."
    )
    same = label_contest((found[0], replace(found[1], trials=(1,))))
    assert "would have been the same." in " ".join(comparison(replace(tables, labels=same, baseline=None)))


def test_nothing_is_said_of_intervals_that_are_not_known(tables: StudyTables) -> None:
    found = (choice("val/auroc", (0.9, np.nan, np.nan), True), choice("val/elbo", (0.8, 0.7, 0.9), trial=7))
    told = " ".join(comparison(replace(tables, labels=label_contest(found), baseline=None)))
    assert told.endswith("its test AUROC is 0.800, 10.0 points lower.")
    bare = baseline_contest((found[0], choice("input_knn", (0.8, 0.7, 0.9))))
    assert [*comparison(replace(tables, labels=None, baseline=bare))] == []


def test_without_labels_there_is_no_contest_and_no_number() -> None:
    found = study_tables(compared(study(trials=10, epochs=6, labels=False)))
    assert [*comparison(found)] == []
    assert isinstance(found.side_by_side, Missing)
    assert "no labelled anomaly" in found.side_by_side.why
    assert "val/auroc" not in [choice.name for choice in found.choices]
    assert all(row[4:] == ("–", "–", "–") for row in choice_grid(found).rows)


def test_the_score_table_holds_every_score_and_the_means(digits: StudyRecord) -> None:
    found = score_table(tidy(digits))
    assert not isinstance(found, Missing)
    assert digits.champion is not None
    values, frame = found.values.set_index("score"), digits.champion.scores
    assert list(values.index) == list(SCORES)
    finished = digits.trials[digits.trials["state"] == "finished"]
    own = finished.set_index("trial").loc[digits.champion.trial]
    for short, name in (("val", "validation"), ("test", "test")):
        part = frame[frame["split"] == name]
        slow = [roc_auc_score(part["anomaly"], part[score]) for score in SCORES]
        assert values[short].tolist() == pytest.approx(slow)
        assert values[short].tolist() == pytest.approx([own[f"{short}_auroc/{score}"] for score in SCORES])
        means = [finished[f"{short}_auroc/{score}"].mean() for score in SCORES]
        assert values[f"mean_{short}"].tolist() == pytest.approx(means)
    assert values["pseudo"].tolist() == [own[f"pseudo_auroc/{score}"] for score in SCORES]
    assert (found.chosen, found.trials) == (digits.champion.score, len(finished))


def test_the_score_grid_is_shaded_from_chance_to_perfection(tables: StudyTables) -> None:
    grid = score_grid(tables)
    assert not isinstance(tables.score_table, Missing)
    assert grid.marked == "residual Mahalanobis distance"
    for cells, heat in zip(grid.rows, grid.heat, strict=True):
        told = np.array([float(cell) for cell in cells[1:]])
        assert np.array(heat) == pytest.approx(np.clip(2 * told - 1, 0, 1), abs=0.006)
    words = " ".join(score_matters(tables.score_table))
    assert "(latent Mahalanobis distance)" in words
    assert f"{tables.score_table.values['test'].max():.3f}" in words


def test_a_code_without_a_rate_has_no_score_with_a_kl() -> None:
    found = score_table(tidy(compared(without_rate(trials=10, epochs=6))))
    assert not isinstance(found, Missing)
    assert found.without_rate
    assert not {"elbo", "kl"} & set(found.values["score"])


def test_without_labels_pseudo_anomalies_are_all_there_is() -> None:
    found = study_tables(compared(study(trials=6, epochs=3, labels=False)))
    grid = score_grid(found)
    assert len(grid.head) == 3
    assert all("pseudo-anomalies" in name for name in grid.head[1:])


def test_the_page_shades_cells_by_a_style_that_needs_no_script(report, tables: StudyTables) -> None:  # type: ignore[no-untyped-def]
    shaded = [cell["style"] for cell in page_of(report).all("td") if "style" in cell]
    assert shaded == [f"--heat: {value}" for row in score_grid(tables).heat for value in row]


def test_choices_keep_their_order_whatever_the_store_s(digits: StudyRecord) -> None:
    shuffled = replace(digits, choices=digits.choices.iloc[::-1].reset_index(drop=True))
    kinds = [choice.kind for choice in choices(tidy(shuffled))]
    assert kinds == ["rule"] * 4 + ["ensemble"] * 3 + ["baseline"]
