"""The most anomalous test rows, and what of them the model did not expect."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from vae_study.data import Preprocessing
from vae_study.metrics import SCORES
from vae_study.report.formatting import quantity
from vae_study.report.frames import Missing
from vae_study.report.overview import top_rows_note
from vae_study.report.sections.highest_rows import (
    Column,
    HighestRows,
    Reason,
    highest_rows,
    highest_rows_grid,
    reasons,
    user_columns,
)
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import ChampionRecord, StudyRecord

from .detectors import compared, in_units, tumours
from .studies import study, table_study


def champion_of(record: StudyRecord) -> ChampionRecord:
    assert record.champion is not None
    return record.champion


def top_of(record: StudyRecord) -> HighestRows:
    found = highest_rows(tidy(record))
    assert isinstance(found, HighestRows)
    return found


def test_the_ten_highest_of_the_chosen_score_come_in_their_order(digits: StudyRecord) -> None:
    champion, found = champion_of(digits), top_of(digits)
    test = champion.scores.query("split == 'test'")
    slow = sorted(test.to_dict("records"), key=lambda row: -row[str(champion.score)])[:10]
    assert found.rows["score"].tolist() == [row[str(champion.score)] for row in slow]
    assert found.rows["row"].tolist() == [str(row["row"]) for row in slow]
    assert found.rows["label"].tolist() == [row["label"] for row in slow]
    assert found.rows["anomaly"].tolist() == [row["anomaly"] for row in slow]


def test_each_picture_is_that_of_its_row(digits: StudyRecord) -> None:
    champion, found = champion_of(digits), top_of(digits)
    assert found.pictures is not None
    assert found.reasons == ()
    assert champion.top_inputs_TD is not None
    assert champion.top_contributions_TD is not None
    at = {place: index for index, place in enumerate(champion.top_place_T.tolist())}  # type: ignore[union-attr]
    for shown, row in enumerate(found.rows["row"]):
        assert found.pictures.inputs[shown].ravel() == pytest.approx(champion.top_inputs_TD[at[int(row)]])
        assert found.pictures.nats[shown].ravel() == pytest.approx(champion.top_contributions_TD[at[int(row)]])


def test_the_channels_of_a_pixel_cost_together() -> None:
    record = compared(study(trials=4, epochs=3))
    champion = champion_of(record)
    arrays = {name: np.tile(getattr(champion, name)[:, :16], 3)
              for name in ("top_inputs_TD", "top_reconstructions_TD", "top_contributions_TD")}  # fmt: skip
    coloured = replace(record, champion=replace(champion, **arrays), data={**record.data, "image_shape": [3, 4, 4]})
    plain = replace(record, champion=replace(champion, **{name: array[:, :16] for name, array in arrays.items()}),
                    data={**record.data, "image_shape": [4, 4]})  # fmt: skip
    one, other = top_of(coloured).pictures, top_of(plain).pictures
    assert one is not None
    assert other is not None
    assert one.inputs.shape[1:] == (4, 4, 3)
    assert one.nats == pytest.approx(3 * other.nats)


def test_reasons_are_the_largest_costs_in_the_user_s_own_units(table: StudyRecord) -> None:
    found, raw = top_of(table), load_breast_cancer()
    assert found.in_user_units
    names = [str(name) for name in raw.feature_names]
    seen = 0
    for row, told in zip(found.rows["row"], found.reasons, strict=True):
        nats = [reason.nats for reason in told]
        assert nats == sorted(nats, reverse=True)
        for reason in told:
            if reason.column in names and not reason.beyond and reason.value is not None:
                assert reason.value == pytest.approx(raw.data[int(row), names.index(reason.column)], rel=1e-4)
                seen += 1
    assert seen > 10


def test_without_the_way_back_values_are_scaled_and_it_says_so(table: StudyRecord) -> None:
    facts = {"columns": [], "dropped": [], "missing": {}, "categories": {}}
    scaled = replace(table, data={**table.data, "preprocessing": facts})
    found, tables = top_of(scaled), StudyTables(scaled)
    assert not found.in_user_units
    assert "as the network sees them, scaled" in top_rows_note(tables)
    champion, place = champion_of(table), int(found.rows["row"][0])
    assert champion.top_place_T is not None
    assert champion.top_contributions_TD is not None
    nats = champion.top_contributions_TD[champion.top_place_T.tolist().index(place)]
    first = found.reasons[0][0]
    assert first.nats == pytest.approx(nats.max())
    assert first.column == table.data["feature_names"][nats.argmax()]


def test_the_features_of_a_column_are_told_as_one() -> None:
    source = tumours()
    fitted = Preprocessing.from_plain(in_units(compared(table_study(trials=4, epochs=3))).data["preprocessing"])
    rows = np.array([3, 7, 14])
    x_TD = fitted.transform(source, rows)
    guess_TD = np.repeat(x_TD[:1], 3, axis=0)
    cost_TD = np.arange(x_TD.size, dtype=np.float64).reshape(x_TD.shape)
    columns = {column.name: column for column in user_columns(fitted, x_TD, guess_TD, cost_TD)}
    assert [*columns] == [*source.feature_names, "size <b>"]
    assert columns["mean smoothness"].value_T[1:] == (None, None)
    assert columns["mean smoothness"].nats_T == pytest.approx(cost_TD[:, 4:6].sum(axis=1))
    assert columns["size <b>"].value_T == tuple(source.categories[0][code] for code in source.code_NC[rows, 0])
    assert set(columns["size <b>"].expected_T) == {columns["size <b>"].value_T[0]}
    assert columns["size <b>"].nats_T == pytest.approx(cost_TD[:, -3:].sum(axis=1))


@pytest.mark.parametrize(("scale", "clip"), [("unit", None), ("quantile", None), ("standard", 3.0), ("robust", None)])
def test_a_value_that_was_cut_off_is_told_as_a_bound(scale: str, clip: float | None) -> None:
    record = in_units(compared(table_study(trials=4, epochs=3)), scale=scale, clip=clip)
    fitted, source = Preprocessing.from_plain(record.data["preprocessing"]), tumours()
    x_ND = source.x_ND.copy()
    x_ND[0, 3], x_ND[1, 3] = 1e6, -1e6
    x_TD = fitted.transform(replace(source, x_ND=x_ND), np.arange(3))
    area = next(c for c in user_columns(fitted, x_TD, x_TD, np.zeros(x_TD.shape)) if c.name == "mean area")
    if scale == "robust":
        assert area.beyond_T == (0, 0, 0)
        assert area.value_T[0] == pytest.approx(1e6)
        return
    assert area.beyond_T[:2] == (1, -1)
    assert isinstance(area.value_T[0], float)
    assert area.value_T[0] < 1e6


def column(name: str, nats: float) -> Column:
    return Column(name=name, value_T=(1.0,), expected_T=(2.0,), beyond_T=(0,), nats_T=np.array([nats]))


@pytest.mark.parametrize(
    ("nats", "told"),
    [
        ([9.0, 1.0, 8.0, 7.0, 6.0, 5.0], ["0", "2", "3", "4", "5"]),
        ([9.0, 0.5, 0.3, 0.2, 0.1], ["0", "1", "2"]),
        ([-1.0, 0.0, 3.0], ["2"]),
        ([-1.0, np.nan], []),
        ([1.0, np.inf, 2.0], ["1", "2", "0"]),
        ([5.0, 5.0, 5.0, 5.0], ["0", "1", "2", "3"]),
    ],
)
def test_three_to_five_reasons_are_told_and_none_that_is_usual(nats: list[float], told: list[str]) -> None:
    columns = [column(str(place), value) for place, value in enumerate(nats)]
    assert [reason.column for reason in reasons(columns, 0)] == told


def test_a_score_of_the_code_is_said_not_to_come_from_the_features(digits: StudyRecord) -> None:
    assert "depends on the code only" not in top_rows_note(StudyTables(digits))
    record = compared(study(trials=6, epochs=3), score="latent_knn")
    assert "The score, latent nearest neighbours, depends on the code only" in top_rows_note(StudyTables(record))


def test_a_study_that_stored_no_explanation_has_the_rows_without_reasons() -> None:
    record = study()
    found, tables = top_of(record), StudyTables(record)
    assert len(found.rows) == 10
    assert found.pictures is None
    assert "stored no explanation" in found.missing
    assert found.missing in top_rows_note(tables)
    assert highest_rows_grid(tables).head == ("row", "label", "anomaly", "score")


def test_arrays_of_other_rows_or_sizes_explain_nothing(digits: StudyRecord) -> None:
    champion = champion_of(digits)
    assert champion.top_inputs_TD is not None
    assert champion.top_place_T is not None
    for changes in (
        {"top_inputs_TD": champion.top_inputs_TD[1:]},
        {"top_place_T": champion.top_place_T + 1000},
        {"top_contributions_TD": None},
    ):
        found = top_of(replace(digits, champion=replace(champion, **changes)))  # type: ignore[arg-type]
        assert found.pictures is None
        assert found.missing


def test_fewer_rows_than_ten_are_all_told() -> None:
    record = compared(study(trials=4, epochs=3))
    rows = champion_of(record).scores
    few = pd.concat([rows[rows["split"] == "validation"], rows[rows["split"] == "test"].head(3)])
    assert len(top_of(replace(record, champion=replace(champion_of(record), scores=few))).rows) == 3
    none = replace(record, champion=replace(champion_of(record), scores=rows[rows["split"] == "validation"]))
    assert isinstance(highest_rows(tidy(none)), Missing)


def test_ties_go_to_the_first_row() -> None:
    record = compared(study(trials=4, epochs=3))
    same = champion_of(record).scores.assign(**dict.fromkeys(SCORES, 1.0))
    found = top_of(replace(record, champion=replace(champion_of(record), scores=same)))
    assert found.rows["row"].tolist() == [str(row) for row in range(10)]


@pytest.mark.parametrize(
    ("value", "told"),
    [(12345.6, "12,346"), (0.0123456, "0.01235"), (5.0, "5"), (0.0, "0"), (-480.25, "−480.2"), (1e-12, "1e−12"),
     (3.4e38, "3.4e+38"), (float("inf"), "∞"), (float("nan"), "–"), (9.99999, "10"), (1000.0, "1,000")],
)  # fmt: skip
def test_quantities_have_four_digits_and_never_fewer_than_before_the_point(value: float, told: str) -> None:
    assert quantity(value) == told


def test_a_reason_tells_the_missing_the_cut_off_and_the_unsure(table: StudyRecord) -> None:
    found = top_of(table)
    row = (
        Reason(column="a\nb", value=None, expected=2.0, beyond=1, nats=12.34),
        Reason(column="c", value=3.0, expected=2.0, beyond=1, nats=1.234),
        Reason(column="d", value="x", expected="x", beyond=0, nats=0.5),
    )
    told = StudyTables(table)
    told.once(lambda tables: replace(found, reasons=(row,) * 10), key=highest_rows)
    grid = highest_rows_grid(told)
    assert grid.rows[0][-1] == (
        "a b missing, not 2 (+12.3 nats);\nc ≥ 3, not 2 (+1.23 nats);\n"
        "d x, as expected, but with low probability (+0.50 nats)"
    )


def test_rows_that_are_files_are_named_by_the_end_of_their_path(digits: StudyRecord) -> None:
    champion = champion_of(digits)
    names = [f"{'a long name ' * 5}/{row:04}.png" for row in champion.scores["row"]]
    record = replace(digits, champion=replace(champion, scores=champion.scores.assign(file=names)))
    grid, rows = highest_rows_grid(StudyTables(record)), top_of(record).rows
    assert grid.head == ("row", "file", "label", "anomaly", "score")
    assert [cells[1][-9:] for cells in grid.rows] == [f"/{int(row):04}.png"[-9:] for row in rows["row"]]
    assert {len(cells[1]) for cells in grid.rows} == {40}
    assert "file" not in highest_rows_grid(StudyTables(digits)).head
