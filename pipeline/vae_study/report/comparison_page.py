"""The page of a comparison of studies: figures, printed tables, sentences, and the files of its folder."""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator

from vae_study.anomaly.detection import AREAS
from vae_study.anomaly.paired import Difference, ScoredRows, verdict
from vae_study.metrics import AREA_LABELS, metric_of, shown_in
from vae_study.report.build import storable, write_folder, write_page
from vae_study.report.comparison import LOCATION_KEYS, UNIT_KEYS, ComparedStudy, Comparison, compare
from vae_study.report.figure import Grid, Panel, Part, Section
from vae_study.report.formatting import (
    NONE,
    Words,
    axis_label,
    captions,
    cell,
    detector_name,
    digits_of,
    hypervolume_unit,
    interval,
    metric_name,
    number,
    paragraphs,
    score_name,
)
from vae_study.report.frames import Missing, numbers, row_of, scalar
from vae_study.report.interactive import Json
from vae_study.report.page import figure_block, render, section_content, table_block
from vae_study.report.style import GREY, figure, png, short
from vae_study.report.tables import split_scores
from vae_study.tracking.record import StudyRecord

# Okabe and Ito's, without their yellow, which is hard to see on white; marks and lines differ as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2933")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
LONGEST_NAME = 32
# More training alone can make a study better: warn if the largest and smallest numbers of epochs differ by more.
FAIR_RATIO = 1.2
# A table's headings, and what a study's cell under each of them is.
Columns = Mapping[str, Callable[[ComparedStudy], str]]


def write_comparison(records: Sequence[StudyRecord], folder: Path) -> Path:
    """Write report.html, report.md, studies.csv, frontiers.parquet, hypervolumes.parquet and figures/ into a folder.

    The same records in the same order give the same bytes; the folder is written as `write_report` writes its own.

    Args:
        records: The studies.
        folder: Where to write; made if it does not exist.

    Returns:
        The path of report.html.

    Raises:
        UserError: Fewer than two studies, one of them twice, or studies of different data or objectives.
    """
    table = compare(records)
    return write_folder(folder, lambda draft: _write(table, draft), None)


def _write(table: Comparison, folder: Path) -> None:
    storable(frontier_frame(table)).to_parquet(folder / "frontiers.parquet", index=False)
    storable(hypervolume_frame(table)).to_parquet(folder / "hypervolumes.parquet", index=False)
    study_frame(table).to_csv(folder / "studies.csv", index=False, lineterminator="\n")
    drawn = panels(table)
    context = {
        "title": ", ".join(table.names),
        "overview": overview(table),
        "warnings": warnings(table),
        "sections": [
            _section("studies", "The studies", "Studies", study_grid(table)),
            _section("frontiers", "The frontiers", "Frontiers", drawn["frontiers"]),
            _section("hypervolume", "Hypervolume", "Hypervolume", drawn["hypervolume"], reference_grid(table)),
            _section("chosen", "The chosen models", "Chosen models", drawn["chosen"], chosen_grid(table)),
            _section("configs", "Differences between the configs", "Configs", difference_grid(table)),
        ],
        "sha256": table.studies[0].record.data.get("sha256") or "unknown",
        "command": f"vae-study report {' '.join(map(shlex.quote, table.names))}",
    }
    write_page(folder, drawn, render("comparison.html", context), render("comparison.md", context))


def _section(anchor: str, title: str, link: str, *blocks: Panel | Grid) -> Json:
    """A section with one part, as the page templates take it."""
    shown = [figure_block(block) if isinstance(block, Panel) else table_block([block]) for block in blocks]
    return section_content(Section(title, (Part("", ()),), anchor=anchor, link=link), [shown])


def overview(table: Comparison) -> list[str]:
    """The paragraphs at the head of the page: what is compared, the trade-off, the chosen models."""
    unit = hypervolume_unit(table.objectives)
    by_volume = _sorted(table, lambda study: study.summary.hypervolume)
    by_auroc = _sorted(table, lambda study: study.summary.test_auroc.value)
    # As it is printed: what looks the same is called the same.
    shown = {study.name: number(study.summary.hypervolume) for study in by_volume}
    tied = [name for name, volume in shown.items() if volume == shown[by_volume[0].name]]
    return paragraphs(
        "comparison.txt",
        table=table,
        source=table.studies[0].record.data.get("source") or "unnamed data",
        goals=[f"{'lower' if sign > 0 else 'higher'} {metric_name(name)}" for name, sign in table.objectives.items()],
        unit=f" {unit}" if unit else "",
        by_volume=by_volume,
        volumes=[f"{volume} of {name}" for name, volume in shown.items() if name not in tied],
        tied_volumes=tied if len(tied) > 1 else [],
        joint_size=sum(study.joint_size for study in table.studies),
        joint=[f"{study.joint_size} of {study.name}" for study in table.studies],
        by_auroc=by_auroc,
        paired=[(study.name, _paired(by_auroc[0], study)) for study in by_auroc[1:]],
    )


def _paired(best: ComparedStudy, other: ComparedStudy) -> list[tuple[str, Difference, str]]:
    """By area, how much larger the first one's is on test, and the verdict; none if their test rows differ."""
    ours, theirs = (
        split_scores(study.record, study.record.champion, "test").reset_index(drop=True)
        for study in (best, other)
        if study.record.champion is not None
    )
    if not ours[["row", "anomaly"]].equals(theirs[["row", "anomaly"]]):
        return []
    is_anomaly_N = ours["anomaly"].to_numpy(np.bool_)
    first, second = (ScoredRows(is_anomaly_N, part["score"].to_numpy(np.float64)) for part in (ours, theirs))
    found = {AREA_LABELS[metric]: first.minus(second, metric) for metric in AREAS}
    return [(label, one, verdict(one.low, one.high)) for label, one in found.items()]


def warnings(table: Comparison) -> list[str]:
    """What a reader has to know before concluding that one study is better than another."""
    epochs = {study.name: study.summary.epochs for study in table.studies if study.summary.epochs}
    is_fair = not epochs or max(epochs.values()) <= FAIR_RATIO * min(epochs.values())
    return paragraphs(
        "comparison_warnings.txt",
        table=table,
        data_keys=[key for key in table.differences if key.startswith("data.") and key not in LOCATION_KEYS],
        unit_keys=[key for key in table.differences if key in UNIT_KEYS],
        epochs=[] if is_fair else [f"{name} {size:,}" for name, size in epochs.items()],
    )


def _sorted(table: Comparison, value: Callable[[ComparedStudy], float]) -> list[ComparedStudy]:
    """The studies of which a value is known, from high to low."""
    return sorted((study for study in table.studies if math.isfinite(value(study))), key=lambda study: -value(study))


def panels(table: Comparison) -> dict[str, Panel]:
    """All figures of a comparison by name, drawn, or with the reason why not."""
    has_auroc = any(math.isfinite(study.summary.test_auroc.value) for study in table.studies)
    no_volume = [study.hypervolume.why for study in table.studies if isinstance(study.hypervolume, Missing)]
    figures = (
        ("frontiers", _why_no_frontiers(table), draw_frontiers),
        ("hypervolume", "" if table.hypervolumes else no_volume[0], draw_hypervolumes),
        ("chosen", "" if has_auroc else "No study has a chosen model with a known test AUROC.", draw_chosen),
    )
    return {
        name: Panel(name=name, png=None, words=Words(), missing=why)
        if why
        else Panel(name=name, png=png(partial(draw, table)), words=captions(name)(table))
        for name, why, draw in figures
    }


def _why_no_frontiers(table: Comparison) -> str:
    if len(table.objectives) < 2:
        return "The studies have one objective, so there is no trade-off to draw."
    has_any = any(len(study.frontier) for study in table.studies)
    return "" if has_any else "No study has a finished trial, so there is no frontier yet."


def looks(table: Comparison) -> list[tuple[ComparedStudy, dict[str, Any]]]:
    """Each study with its colour, mark and line, a combination that no two of the first 56 share."""
    styles = islice(zip(cycle(COLOURS), cycle(MARKS), cycle(LINES)), len(table.studies))
    keys = ("color", "marker", "linestyle")
    return [(study, dict(zip(keys, look, strict=True))) for study, look in zip(table.studies, styles, strict=True)]


def label_of(study: ComparedStudy) -> str:
    """The study's name, cut if it is long."""
    return short(study.name, LONGEST_NAME)


def draw_frontiers(table: Comparison) -> Picture:
    """The frontiers in the plane of the first two objectives; the trials of the joint frontier are filled."""
    drawn = figure(4.9)
    axes = drawn.add_subplot()
    first, second = list(table.objectives)[:2]
    for study, look in looks(table):
        x, y = numbers(study.frontier, first), numbers(study.frontier, second)
        axes.plot(x, y, **look, fillstyle="none", linewidth=1.2, label=label_of(study))
        is_joint = study.frontier["joint"].to_numpy(np.bool_)
        axes.plot(x[is_joint], y[is_joint], **{**look, "linestyle": "none"})
    axes.set(xlabel=axis_label(first), ylabel=axis_label(second))
    axes.legend(loc="best")
    return drawn


def draw_hypervolumes(table: Comparison) -> Picture:
    """The hypervolume over the epochs trained, or over the finished trials, all against one reference."""
    drawn = figure(3.4)
    axes = drawn.add_subplot()
    for study, look in looks(table):
        if found := table.hypervolumes.get(study.name):
            in_epochs_N = found.epochs_N if table.has_epochs else None
            done_N = np.arange(1, len(found.trial_N) + 1) if in_epochs_N is None else in_epochs_N
            axes.step(done_N, found.hypervolume_N, where="post", markevery=[-1], label=label_of(study), **look)
    unit = hypervolume_unit(table.objectives)
    spent = "epochs trained, all trials together" if table.has_epochs else "finished trials"
    axes.set(xlabel=spent, ylabel=f"hypervolume ({unit})" if unit else "hypervolume")
    # From zero, no difference could be seen: start at what all studies have reached after a quarter of their trials.
    quarters = [float(one.hypervolume_N[len(one.hypervolume_N) // 4]) for one in table.hypervolumes.values()]
    axes.set_ylim(bottom=min(quarters) * 0.99)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(loc="lower right")
    return drawn


def draw_chosen(table: Comparison) -> Picture:
    """One row per study: its chosen model's test AUROC with its interval, and a tick where the baseline is."""
    drawn = figure(0.42 * len(table.studies) + 1.0)
    axes = drawn.add_subplot()
    for row, (study, look) in enumerate(looks(table)):
        area = study.summary.test_auroc
        axes.hlines([-row], [area.low], [area.high], color=look["color"], linewidth=1.6)
        axes.scatter([area.value], [-row], s=38, color=look["color"], marker=look["marker"], zorder=3)
        if study.baseline is not None:
            axes.scatter([study.baseline.test_auroc.value], [-row], s=170, marker="|", color=GREY, zorder=2,
                         label=None if row else "without a model")  # fmt: skip
    axes.set_yticks([-row for row in range(len(table.studies))], [label_of(study) for study in table.studies])
    axes.set(ylim=(0.6 - len(table.studies), 0.6), xlabel="test AUROC")
    axes.grid(False, axis="y")
    axes.margins(x=0.06)
    if axes.get_legend_handles_labels()[0]:
        drawn.legend(loc="outside upper left", handletextpad=0.3)
    return drawn


def study_grid(table: Comparison) -> Grid:
    """One row per study: what it cost, and its frontier."""
    unit = hypervolume_unit(table.objectives)
    columns: Columns = {
        "study": lambda study: study.name,
        "trials": lambda study: f"{sum(study.summary.states.values()):,}",
        "finished": lambda study: f"{study.summary.states['finished']:,}",
        "epochs": lambda study: f"{study.summary.epochs:,}",
        "hours": lambda study: number(study.summary.training_hours),
        "frontier": lambda study: str(study.summary.frontier_size),
        "on the joint frontier": lambda study: str(study.joint_size),
        f"hypervolume ({unit})" if unit else "hypervolume": lambda study: number(study.summary.hypervolume),
        "best validation ELBO (nats)": lambda study: number(study.summary.best_elbo_nats),
    }
    label = "Cost of each study, and its hypervolume against the common reference"
    return Grid(label=label, head=tuple(columns), rows=_rows(table.studies, columns), is_wide=True)


def chosen_grid(table: Comparison) -> Grid:
    """One row per study that has selected a model: its model, how well it detects, and the baseline."""
    columns: Columns = {
        "study": lambda study: study.name,
        "trial": lambda study: str(study.summary.champion_trial),
        "chosen by": lambda study: detector_name(str(study.summary.champion_rule)),
        "score": lambda study: score_name(study.summary.champion_score) if study.summary.champion_score else NONE,
        "test AUROC": lambda study: interval(study.summary.test_auroc),
        "average precision": lambda study: interval(study.summary.average_precision),
        "precision of the alarms": lambda study: number(study.summary.points["alarm_precision"], 3),
        "without a model": lambda study: number(study.baseline.test_auroc.value, 3) if study.baseline else NONE,
        **{metric_of(metric).label: partial(_of_chosen, metric) for metric in shown_in("comparison")},
        "registry": lambda study: study.record.promoted or NONE,
    }
    label = "The chosen models: test AUROC with its 95 % interval; validation metrics in nats"
    rows = _rows([study for study in table.studies if study.record.champion is not None], columns)
    none = "No study has chosen a model yet."
    return Grid(label=label, head=tuple(columns), rows=rows, missing=none, is_wide=True)


def _rows(studies: Iterable[ComparedStudy], columns: Columns) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(cell_of(study) for cell_of in columns.values()) for study in studies)


def _of_chosen(metric: str, study: ComparedStudy) -> str:
    return number(scalar(row_of(study.record, study.summary.champion_trial or 0), metric), digits_of(metric))


def reference_grid(table: Comparison) -> Grid:
    """The common reference point."""
    rows = tuple((metric, cell(metric, value)) for metric, value in table.reference.items())
    label = "The common reference: in each objective the worst of the studies’ own"
    return Grid(label=label, head=("objective", "reference"), rows=rows)


def difference_grid(table: Comparison) -> Grid:
    """One row per key of the config whose value is not the same in all studies."""
    rows = tuple((key, *(value or NONE for value in values)) for key, values in table.differences.items())
    label = "Keys with different values; a dash where a study does not have the key"
    return Grid(label=label, head=("key", *table.names), rows=rows, missing="Only the names differ.",
                is_numeric=False, is_wide=True, is_loose=True)  # fmt: skip


def frontier_frame(table: Comparison) -> pd.DataFrame:
    """All frontiers: `study`, `trial`, the objectives, and `joint`."""
    columns = ["trial", *table.objectives, "joint"]
    frames = [study.frontier.reindex(columns=columns).assign(study=study.name) for study in table.studies]
    return pd.concat(frames, ignore_index=True)[["study", *columns]]


def hypervolume_frame(table: Comparison) -> pd.DataFrame:
    """All hypervolumes: `study`, `trial`, `epochs` up to it where they are known, `hypervolume` after it."""
    columns = ["study", "trial", "epochs", "hypervolume"]
    frames = [
        pd.DataFrame({"study": name, "trial": found.trial_N, "hypervolume": found.hypervolume_N}).assign(
            epochs=pd.array([pd.NA] * len(found.trial_N) if found.epochs_N is None else found.epochs_N, dtype="Int64")
        )
        for name, found in table.hypervolumes.items()
    ]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def study_frame(table: Comparison) -> pd.DataFrame:
    """One row per study: its size, its hypervolume, its chosen model and that model's test AUROC."""
    return pd.DataFrame(
        {
            "study": study.name,
            **study.summary.states,
            "epochs": study.summary.epochs,
            "frontier_size": study.summary.frontier_size,
            "joint_frontier_size": study.joint_size,
            "hypervolume": study.summary.hypervolume,
            "best_elbo_nats": study.summary.best_elbo_nats,
            "champion": study.summary.champion_trial,
            "rule": study.summary.champion_rule,
            "score": study.summary.champion_score,
            "auroc": study.summary.test_auroc.value,
            "auroc_low": study.summary.test_auroc.low,
            "auroc_high": study.summary.test_auroc.high,
            "average_precision": study.summary.average_precision.value,
            "alarms": study.summary.points["alarms"],
            "alarm_precision": study.summary.points["alarm_precision"],
        }
        for study in table.studies
    )
