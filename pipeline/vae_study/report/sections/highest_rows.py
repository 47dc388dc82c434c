"""The most anomalous test rows, and which columns or pixels of them the chosen model reconstructs badly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from vae_study.data.feature_columns import NumberColumn
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.scales import Affine, Constant
from vae_study.metrics import CODE_SCORES
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import captions, number, quantity, score_label
from vae_study.report.frames import Floats, Images, Missing, feature_names, image_shape, shaped, texts
from vae_study.report.style import ANOMALY, INK, WIDTH, figure, mosaic, padded, show, value_limits
from vae_study.report.tables import NO_CHAMPION, StudyTables, meaning, split_scores
from vae_study.tracking.record import ChampionRecord, StudyRecord

Rows = NDArray[np.float32]
MOST_ROWS = 10
LEAST_REASONS, MOST_REASONS = 3, 5
# A fourth and a fifth reason are shown if they are at least this share of the first.
LEAST_SHARE = 0.1
LONGEST_TEXT, LONGEST_LABEL = 40, 9
# In place of 1 or -1: the value is not the one that all training rows have.
OTHER = 2
# The largest float32, which stands for a score that overflowed.
OVERFLOW = 3.4e38


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of T rows.

    Attributes:
        name: The user's.
        value_T, expected_T: Numbers or text; None for a missing value.
        beyond_T: 1 or -1 where the value was cut off, so that the true one is as high or as low at least; OTHER where
            it is not the one of all training rows; else 0.
        nats_T: What its features cost above usual, together.
    """

    name: str
    value_T: tuple[float | str | None, ...]
    expected_T: tuple[float | str | None, ...]
    beyond_T: tuple[int, ...]
    nats_T: Floats


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A column that the model did not expect to be as it is.

    Attributes:
        column: Its name.
        value, expected: What it is and what the model gave back: a number or text; None where it is missing.
        beyond: As in Column.
        nats: What it cost above its usual cost in training rows.
    """

    column: str
    value: float | str | None
    expected: float | str | None
    beyond: int
    nats: float


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The rows as images.

    Attributes:
        inputs, reconstructions: T of each.
        nats: What each pixel costs above usual, (T, H, W).
        maps: Their anomaly maps, (T, H, W); None for studies of earlier releases.
        masks: Which pixels are anomalous, (T, H, W); None where there are no masks.
    """

    inputs: Images
    reconstructions: Images
    nats: Images
    maps: Images | None = None
    masks: Images | None = None

    @property
    def most_nats(self) -> float:
        """The highest cost of a pixel above its usual cost."""
        return float(self.nats[np.isfinite(self.nats)].max(initial=0.0))


@dataclass(frozen=True, kw_only=True)
class HighestRows:
    """The test rows with the highest scores, the highest first.

    Attributes:
        score: Which score.
        rows: Columns `row` (in the source), `label` (as text), `file` (empty if rows are no files), `anomaly`, `score`.
        reasons: For each of them, the columns with the largest cost above usual; none where they are images.
        pictures: Where they are images.
        in_user_units: Whether the reasons are in the user's units; else in scaled ones.
        missing: Why there are neither reasons nor pictures; empty where there are.
    """

    score: str
    rows: pd.DataFrame
    reasons: tuple[tuple[Reason, ...], ...]
    pictures: Pictures | None
    in_user_units: bool
    missing: str

    @property
    def of_the_code(self) -> bool:
        """Whether the score uses the latent code only, so that reconstruction errors do not explain it."""
        return self.score in CODE_SCORES


def highest_rows(record: StudyRecord) -> HighestRows | Missing:
    """The ten test rows with the highest value of the chosen score; of equal ones, the first."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test = split_scores(record, champion, "test")
    if test.empty:
        return Missing("The chosen model has stored no anomaly score of a test example.")
    highest = test.iloc[np.argsort(-test["score"].to_numpy(), kind="stable")[:MOST_ROWS]]
    about = champion.scores[champion.scores["split"].eq("test")].reset_index(drop=True).loc[highest.index]
    known_texts = {name: texts(about[name]) if name in about else "" for name in ("row", "label", "file")}
    rows = highest.assign(**known_texts)
    stored = _stored(champion, highest.index.tolist())
    features = stored[0].shape[1] if stored else 0
    shape = image_shape(record.data, features) if stored else None
    known = _preprocessing(record.data, features)
    columns: list[Column] = []
    if stored and not shape:
        names = feature_names(record.data, features)
        columns = list(user_columns(known, *stored) if known else _scaled_columns(names, *stored))
    return HighestRows(
        score=meaning(record, champion),
        rows=rows[["row", "label", "file", "anomaly", "score"]].reset_index(drop=True),
        reasons=tuple(reasons(columns, index) for index in range(len(highest))) if columns else (),
        pictures=_pictures(shape, *stored, _maps(champion, highest.index.tolist())) if stored and shape else None,
        in_user_units=bool(columns) and known is not None,
        missing="" if stored else "The chosen model stored no explanation of its highest scores.",
    )


def _stored(champion: ChampionRecord, rows: list[int]) -> tuple[Rows, Rows, Floats] | None:
    """Inputs, reconstructions and costs of these test rows, each of shape (T, D); None unless all are stored."""
    arrays = [
        np.asarray(() if array is None else array, np.float32)
        for array in (champion.top_inputs_TD, champion.top_reconstructions_TD, champion.top_contributions_TD)
    ]
    index = _places(champion)
    is_whole = arrays[0].ndim == 2 and len({array.shape for array in arrays}) == 1 and len(arrays[0]) == len(index)
    if not is_whole or not set(rows) <= set(index):
        return None
    inputs, expected, nats = (array[[index[row] for row in rows]] for array in arrays)
    return inputs, expected, nats.astype(np.float64)


def _places(champion: ChampionRecord) -> dict[int, int]:
    """Where each of the test rows that are stored is."""
    return {int(row): i for i, row in enumerate(() if champion.top_place_T is None else champion.top_place_T)}


def _maps(champion: ChampionRecord, rows: list[int]) -> tuple[Images | None, Images | None]:
    """The anomaly maps and the masks of these test rows, which are stored; None where there are none."""
    index, arrays = _places(champion), (champion.top_maps_THW, champion.top_masks_THW)
    maps, masks = (None if one is None else one[[index[row] for row in rows]].astype(np.float32) for one in arrays)
    return maps, masks


def _preprocessing(data: Mapping[str, Any], features: int) -> Preprocessing | None:
    """The preprocessing that converts features back to the user's units; None if there is none that fits."""
    try:
        found = Preprocessing.from_plain(data["preprocessing"])
        return found if len(found.feature_names) == features and found.pixels is None else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def user_columns(known: Preprocessing, inputs_TD: Rows, expected_TD: Rows, nats_TD: Floats) -> Iterator[Column]:
    """The table's columns that are features, in the user's units; of a window, the step of each that cost most."""
    with np.errstate(over="ignore"):  # An overflowed row is shown as such.
        frames = known.inverse(inputs_TD), known.inverse(expected_TD)
    # The steps of a window; a row of a table is one.
    nats_TSF = nats_TD.reshape(len(nats_TD), -1, len(known.row_features))
    steps, scaled_XF = nats_TSF.shape[1], inputs_TD.reshape(-1, len(known.row_features))
    first = 0
    for column in known.columns:
        width = len(column.features)
        if width:
            nats_TS = nats_TSF[:, :, first : first + width].sum(axis=2)
            step_T = np.arange(len(nats_TS)) * steps + np.nan_to_num(nats_TS, nan=-np.inf).argmax(axis=1)
            yield Column(
                name=column.name,
                value_T=_values(frames[0][column.name].iloc[step_T]),
                expected_T=_values(frames[1][column.name].iloc[step_T]),
                beyond_T=_beyond(column, scaled_XF[step_T, first]),
                nats_T=nats_TS.sum(axis=1),
            )
        first += width


def _scaled_columns(names: tuple[str, ...], inputs_TD: Rows, expected_TD: Rows, nats_TD: Floats) -> Iterator[Column]:
    """Each feature as the network sees it."""
    for i, name in enumerate(names):
        value, expected = (_values(pd.Series(x_TD[:, i])) for x_TD in (inputs_TD, expected_TD))
        yield Column(
            name=name, value_T=value, expected_T=expected, beyond_T=(0,) * len(inputs_TD), nats_T=nats_TD[:, i]
        )


def _values(column: "pd.Series[Any]") -> tuple[float | str | None, ...]:
    return tuple(
        None if pd.isna(value) else value if isinstance(value, str) else float(value) for value in column.tolist()
    )


def _beyond(column: Any, scaled_T: Rows) -> tuple[int, ...]:
    """Whether scaling has clipped the value: 1 above, -1 below; OTHER if training rows have one other, else 0."""
    if not isinstance(column, NumberColumn) or column.scale is None:
        return (0,) * len(scaled_T)
    scale = column.scale
    if isinstance(scale, Constant):
        return tuple(np.where(scaled_T >= scale.other / 2, OTHER, 0).tolist())
    low, high = (scale.low, scale.high) if isinstance(scale, Affine) else (0.0, 1.0)
    above = scaled_T >= np.float32(np.nan if high is None else high)
    below = scaled_T <= np.float32(np.nan if low is None else low)
    return tuple((above.astype(int) - below.astype(int)).tolist())


def reasons(columns: list[Column], row: int) -> tuple[Reason, ...]:
    """The columns with a cost above usual, the largest first: three, and up to five while they still matter."""
    nats = np.nan_to_num([float(column.nats_T[row]) for column in columns], nan=0.0, posinf=np.inf, neginf=-np.inf)
    order = [int(i) for i in np.argsort(-nats, kind="stable")[:MOST_REASONS] if nats[i] > 0]
    return tuple(
        Reason(
            column=columns[i].name,
            value=columns[i].value_T[row],
            expected=columns[i].expected_T[row],
            beyond=columns[i].beyond_T[row],
            nats=float(nats[i]),
        )
        for rank, i in enumerate(order)
        if rank < LEAST_REASONS or nats[i] >= LEAST_SHARE * nats[order[0]]
    )


def _pictures(
    shape: tuple[int, ...],
    inputs_TD: Rows,
    expected_TD: Rows,
    nats_TD: Floats,
    maps: tuple[Images | None, Images | None],
) -> Pictures:
    """The rows as images; the costs of a pixel's channels are added."""
    nats = shaped(nats_TD.astype(np.float32), shape)
    return Pictures(
        inputs=shaped(inputs_TD, shape),
        reconstructions=shaped(expected_TD, shape),
        nats=nats.sum(axis=-1) if nats.ndim == 4 else nats,
        maps=maps[0],
        masks=maps[1],
    )


def draw_highest_rows(table: HighestRows) -> Picture:
    """Inputs above reconstructions above what each pixel cost, and above anomaly maps with the outlines of masks."""
    pictures = table.pictures
    assert pictures is not None
    high, wide = pictures.inputs.shape[1:3]
    limits = value_limits(pictures.inputs)
    images = [
        ("input", pictures.inputs, limits, "gray"),
        ("recon-\nstruction", pictures.reconstructions, limits, "gray"),
        ("cost", np.maximum(pictures.nats, 0), (0.0, pictures.most_nats), "Reds"),
    ]
    if pictures.maps is not None:
        images.append(("anomaly\nmap", pictures.maps, (0.0, float(pictures.maps.max(initial=0.0)) or 1.0), "Reds"))
    drawn = figure(len(images) * WIDTH / (MOST_ROWS + 1.6) * high / wide + 0.75)
    panels = drawn.subplots(len(images), 1)
    for axes, (name, some, ends, colours) in zip(panels, images, strict=True):
        show(axes, mosaic(padded(some, MOST_ROWS), MOST_ROWS), ends, colours)
        axes.set_yticks([axes.get_ylim()[0] / 2], [name])
    if pictures.maps is not None and pictures.masks is not None and pictures.masks.any():
        outlines = np.nan_to_num(mosaic(padded(pictures.masks, MOST_ROWS), MOST_ROWS))
        panels[-1].contour(outlines, levels=[0.5], colors=INK, linewidths=0.6)
    names = [
        f"{row['row'][:LONGEST_LABEL]}\n{row['label'][:LONGEST_LABEL]}\n{quantity(row['score'])}"
        for row in table.rows.to_dict("records")
    ]
    panels[-1].set_xticks((np.arange(len(names)) + 0.5) * (wide + 1), names, fontsize=7.5)
    for text, is_anomaly in zip(panels[-1].get_xticklabels(), table.rows["anomaly"], strict=True):
        text.set_color(ANOMALY if is_anomaly else INK)
    return drawn


def highest_rows_grid(tables: StudyTables) -> Grid:
    """The most anomalous test rows; a line of the last column for each thing that the model did not expect."""
    table = tables.of(highest_rows)
    if isinstance(table, Missing):
        return Grid(missing=table.why)
    rows = table.rows
    cells = {"row": rows["row"].map(_short).tolist()}
    for name, shown in (("file", _end), ("label", _short)):
        if rows[name].ne("").any():
            cells[name] = rows[name].map(shown).tolist()
    if not tables.summary.why_no_auroc:
        cells["anomaly"] = ["yes" if is_anomaly else "no" for is_anomaly in rows["anomaly"]]
    cells["score"] = [
        f"overflow ({quantity(score)})" if score >= OVERFLOW else quantity(score) for score in rows["score"].tolist()
    ]
    if table.reasons:
        cells["what the model did not expect"] = [
            ";\n".join(map(_reason, row)) or "no column above its usual cost" for row in table.reasons
        ]
    return Grid(
        label=f"The highest scores of the test split: {score_label(table.score)}",
        head=tuple(cells),
        rows=tuple(zip(*cells.values(), strict=True)),
        is_numeric=not table.reasons,
    )


def _reason(reason: Reason) -> str:
    sign = "" if reason.value is None else {1: "≥ ", 0: "", -1: "≤ "}[reason.beyond]
    unknown = "another value" if reason.beyond == OTHER else "missing"
    value, expected = (
        unknown if one is None else _short(one) if isinstance(one, str) else quantity(one)
        for one in (reason.value, reason.expected)
    )
    how = "as expected, but with low probability" if value == expected else f"not {expected}"
    return f"{_short(reason.column)} {sign}{value}, {how} (+{number(reason.nats, 1 if reason.nats >= 10 else 2)} nats)"


def _short(text: str) -> str:
    """Text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def _end(path: str) -> str:
    """The end of a path, which tells one file from another."""
    return path if len(path) <= LONGEST_TEXT else f"…{path[1 - LONGEST_TEXT :]}"


def pictured(tables: StudyTables) -> HighestRows | Missing:
    """The rows if they are images; `Missing` otherwise."""
    table = tables.of(highest_rows)
    if isinstance(table, Missing) or table.pictures is not None:
        return table
    return Missing("The rows are no images, or the study kept none of them.")


HIGHEST_ROWS = Figure(
    name="highest_rows",
    numbers=pictured,
    draw=draw_highest_rows,
    words=captions("highest_rows"),
    is_optional=True,
    has_images=True,
)
