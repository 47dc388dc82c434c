"""The choosing rules side by side, what labels were worth, the baseline, and the score as a choice."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from vae_study.metrics import BASELINE, ENSEMBLES, SCORES
from vae_study.report.frames import Interval, Missing
from vae_study.report.overview import comparison_note, score_note
from vae_study.report.sections.choices import (
    Choice,
    choice_grid,
    choices,
    compare_baseline,
    compare_labels,
    drawable_choices,
    score_grid,
    score_table,
)
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import StudyRecord

from .detectors import compared
from .families import without_rate
from .page import page_of
from .studies import study

RULES = ["val/auroc", "val/elbo", "val/reconstruction", "pseudo"]


@pytest.fixture(scope="module")
def tables(digits: StudyRecord) -> StudyTables:
    return StudyTables(digits)


def test_every_rule_every_ensemble_and_the_baseline_stand_side_by_side(
    digits: StudyRecord, tables: StudyTables
) -> None:
    found = {choice.name: choice for choice in tables.of(choices)}
    assert list(found) == [*RULES, *ENSEMBLES, BASELINE]
    assert [choice.name for choice in tables.of(choices) if choice.chosen] == ["val/auroc"]
    assert [name for name, choice in found.items() if choice.needs_labels] == ["val/auroc", "ensemble_labels"]
    test = digits.detectors[digits.detectors["split"] == "test"]
    for name, choice in found.items():
        assert choice.test_auroc.value == pytest.approx(roc_auc_score(test["anomaly"], test[name]))
    assert not isinstance(drawable_choices(tables), Missing)
    assert drawable_choices(tables).choices == tables.of(choices)


def test_the_chosen_row_says_what_the_rest_of_the_page_says(tables: StudyTables) -> None:
    chosen = tables.of(choices)[0]
    assert chosen.trials == (tables.summary.champion_trial,)
    assert chosen.scores == (tables.summary.champion_score,)
    assert chosen.test_auroc == tables.summary.test_auroc


def test_rules_take_the_best_finished_trial(digits: StudyRecord, tables: StudyTables) -> None:
    finished = digits.trials[digits.trials["state"] == "finished"].set_index("trial")
    trial_of = {choice.name: choice.trials[0] for choice in tables.of(choices) if choice.kind == "rule"}
    assert trial_of["val/elbo"] == finished["val/elbo"].idxmax()
    assert trial_of["val/reconstruction"] == finished["val/reconstruction"].idxmin()
    assert trial_of["val/auroc"] == finished.filter(like="val_auroc/").max(axis=1).idxmax()


def test_the_study_s_own_rule_comes_first_and_is_marked() -> None:
    found = StudyTables(compared(study(trials=10, epochs=6), by="pseudo"))
    grid = choice_grid(found)
    assert grid.marked == grid.rows[0][0] == "pseudo-anomaly AUROC"
    assert [row[0] for row in grid.rows].count(grid.marked) == 1
    told = comparison_note(found.of(choices))
    assert told.startswith("With the labels of validation anomalies, the rule validation AUROC would choose ")


def test_a_study_that_has_compared_nothing_yet_has_two_rules_and_says_what_it_lacks() -> None:
    record = replace(study(), champion=None)
    tables, finished = StudyTables(record), record.trials[record.trials["state"] == "finished"].set_index("trial")
    assert [choice.name for choice in tables.of(choices)] == ["val/auroc", "val/elbo"]
    for choice in tables.of(choices):
        assert choice.trials == (finished[choice.name].idxmax(),)
        assert choice.test_auroc.value == finished.loc[choice.trials[0], "test/auroc"]
    drawable = drawable_choices(tables)
    assert isinstance(drawable, Missing)
    assert "without a model yet" in drawable.why
    assert isinstance(tables.of(score_table), Missing)
    assert compare_baseline(tables.of(choices)) is None


def choice(
    name: str,
    auroc: float,
    precision: float = 0.5,
    *,
    chosen: bool = False,
    trial: int = 1,
    **ends: tuple[float, float],
) -> Choice:
    """A choice with its areas; `auroc_ends` and `precision_ends` of the paired difference to the chosen model."""
    kind = "baseline" if name == BASELINE else "rule"
    names = {"auroc_ends": ("auroc", "chosen"), "precision_ends": ("average_precision", "chosen")}
    return Choice(
        name=name, kind=kind, needs_labels=name == "val/auroc", trials=() if kind == "baseline" else (trial,),
        scores=() if kind == "baseline" else ("elbo",), val_auroc=0.9,
        test_auroc=Interval(value=auroc, low=auroc - 0.05, high=auroc + 0.05), average_precision=precision,
        chosen=chosen, differences={names[key]: Interval(0.0, low, high) for key, (low, high) in ends.items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("auroc_ends", "precision_ends", "told"),
    [
        ((-0.08, -0.01), (-0.2, -0.1), "The chosen model is better in AUROC and average precision than the baseline."),
        ((-0.02, 0.01), (0.1, 0.27), "The chosen model is worse in average precision than the baseline; in AUROC it is "
                                     "a tie: these rows do not show a difference."),
        ((-0.02, -0.01), (0.1, 0.27), "The chosen model is better in AUROC and worse in average precision than the "
                                      "baseline."),
        ((-0.02, 0.01), (-0.02, 0.01), "The chosen model and the baseline are a tie: these rows do not show a "
                                       "difference in AUROC and average precision."),
    ],
)  # fmt: skip
def test_the_chosen_model_is_called_better_or_worse_only_where_the_paired_interval_excludes_0(
    auroc_ends: tuple[float, float], precision_ends: tuple[float, float], told: str
) -> None:
    baseline = choice(BASELINE, 0.85, 0.6, auroc_ends=auroc_ends, precision_ends=precision_ends)
    sentence = comparison_note((choice("val/elbo", 0.9, chosen=True), baseline))
    assert sentence.endswith(told)
    low = f"{auroc_ends[0]:.3f}".replace("-", "−")
    assert f"Its test AUROC is 0.850, 0.050 lower (paired 95 % interval {low} to " in sentence
    assert "average precision is 0.600, 0.100 higher" in sentence


def test_the_gap_is_what_a_reader_gets_by_subtracting() -> None:
    found = (choice("val/auroc", 0.91249, chosen=True), choice("val/elbo", 0.8805, trial=7))
    contest = compare_labels(found)
    assert contest is not None
    assert contest.areas[0].more == pytest.approx(-0.032)
    told = comparison_note(found)
    assert told == (
        "Without labels, the rule validation ELBO would choose trial 7. Its test AUROC is 0.880, 0.032 lower; "
        "its average precision is 0.500, the same."
    )
    same = (found[0], replace(found[1], trials=(1,)))
    assert comparison_note(same).endswith("would choose the same model.")


def test_nothing_is_said_of_differences_that_are_not_known() -> None:
    bare = (choice("val/auroc", 0.9, chosen=True), choice(BASELINE, 0.8))
    assert comparison_note(bare) == ""


def test_the_differences_are_those_of_the_stored_scores(digits: StudyRecord, tables: StudyTables) -> None:
    test = digits.detectors[digits.detectors["split"] == "test"]
    found = tables.of(choices)
    assert [choice.chosen for choice in found].index(True) == 0
    for choice in found:
        for (area, reference), difference in choice.differences.items():
            other = found[0].name if reference == "chosen" else BASELINE
            if area == "alarm_precision":
                continue
            slow = {"auroc": roc_auc_score, "average_precision": average_precision_score}[area]
            value = slow(test["anomaly"], test[choice.name]) - slow(test["anomaly"], test[other])
            assert difference.value == pytest.approx(value)
            assert difference.low <= value <= difference.high


def test_without_labels_there_is_no_comparison_and_no_number() -> None:
    found = StudyTables(compared(study(trials=10, epochs=6, labels=False)))
    assert comparison_note(found.of(choices)) == ""
    drawable = drawable_choices(found)
    assert isinstance(drawable, Missing)
    assert "no labelled anomaly" in drawable.why
    assert "val/auroc" not in [choice.name for choice in found.of(choices)]
    assert all(set(row[4:]) == {"–"} for row in choice_grid(found).rows)


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
    assert not isinstance(tables.of(score_table), Missing)
    assert grid.marked == "residual Mahalanobis distance"
    for cells, heat in zip(grid.rows, grid.heat, strict=True):
        told = np.array([float(cell) for cell in cells[1:]])
        assert np.array(heat) == pytest.approx(np.clip(2 * told - 1, 0, 1), abs=0.006)
    words = score_note(tables)
    assert "(latent Mahalanobis distance)" in words
    assert f"{tables.of(score_table).values['test'].max():.3f}" in words


def test_a_code_without_a_rate_has_no_score_with_a_kl() -> None:
    found = score_table(tidy(compared(without_rate(trials=10, epochs=6))))
    assert not isinstance(found, Missing)
    assert found.without_rate
    assert not {"elbo", "kl"} & set(found.values["score"])


def test_without_labels_pseudo_anomalies_are_all_there_is() -> None:
    found = StudyTables(compared(study(trials=6, epochs=3, labels=False)))
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
