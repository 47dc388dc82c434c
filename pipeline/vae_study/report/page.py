"""What stands on a report's page, from top to bottom, and how it is laid out as one HTML file and as Markdown.

A figure is in the report once SECTIONS names it. The templates escape every value.
"""

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from ruamel.yaml import YAML

from vae_study.report import interactive, overview, reproduce, verdict
from vae_study.report.figure import Figure, Grid, Panel, Part, Section, Sentences, Table, panel
from vae_study.report.frames import Missing
from vae_study.report.interactive import Json
from vae_study.report.overview import drift_note, importance_note, score_note, top_rows_note
from vae_study.report.plane import sampled_trials
from vae_study.report.sections.auroc import FRONTIER_AUROC
from vae_study.report.sections.choices import SIDE_BY_SIDE, choice_grid, score_grid
from vae_study.report.sections.code import LATENT_MAP, LATENT_USE
from vae_study.report.sections.detection import CURVES, measure_grid
from vae_study.report.sections.disentanglement import BETA_EFFECT, FACTOR_TABLE, claim, measure_table
from vae_study.report.sections.examples import INTERPOLATIONS, RECONSTRUCTIONS, SAMPLES, TRAVERSALS
from vae_study.report.sections.highest_rows import HIGHEST_ROWS, highest_rows_grid
from vae_study.report.sections.importances import CONTOUR, IMPORTANCES, importance_grid
from vae_study.report.sections.labels import LABEL_ACCURACY
from vae_study.report.sections.outcomes import failure_grid
from vae_study.report.sections.progress import HYPERVOLUME, TRAINING
from vae_study.report.sections.search_space import PARALLEL, SLICES
from vae_study.report.sections.series import alarm_note, stretch_grid
from vae_study.report.sections.series_figure import SERIES
from vae_study.report.sections.thresholds import SCORES, promise_grid, threshold_grid
from vae_study.report.sections.trade_off import TRADE_OFF
from vae_study.report.sections.trials import CONFIRMATION, confirmation_grids, frontier_grid, trial_grid
from vae_study.report.style import scale_colours
from vae_study.report.tables import StudyTables

LONGEST_FILE_NAME = 48
MARKDOWN = re.compile(r"([\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")

#: Beside the summary.
FIRST = TRADE_OFF
SECTIONS = (
    Section(
        "The series of test",
        (
            Part("", (SERIES,)),
            Part("The most anomalous stretches", (Sentences(alarm_note), Table(stretch_grid)), anchor="stretches"),
        ),
        anchor="series",
        link="Series",
    ),
    Section(
        "The most anomalous test rows",
        (
            Part("", (HIGHEST_ROWS,), is_half=True),
            Part("", (Table(highest_rows_grid), Sentences(top_rows_note)), is_half=True),
        ),
        anchor="rows",
        link="Anomalous rows",
    ),
    Section(
        "Choosing the model and its score",
        (
            Part("Rules and detectors compared", (SIDE_BY_SIDE,), anchor="rules", link="Rules", is_half=True),
            Part(
                "Repeatability: the best trials retrained with new seeds",
                (CONFIRMATION, Table(confirmation_grids, is_folded=True)),
                anchor="confirmation",
                link="Repeatability",
                is_half=True,
            ),
            Part("", (Table(choice_grid),)),
            Part(
                "AUROC by anomaly score",
                (Sentences(score_note), Table(score_grid, is_folded=True)),
                anchor="scores",
                link="Scores",
            ),
        ),
        anchor="choosing",
        link="Choosing",
    ),
    Section(
        "Scores and thresholds",
        (
            Part("Anomaly scores of the test rows", (SCORES, Sentences(drift_note)), is_half=True),
            Part("Detection at every threshold", (CURVES,), is_half=True),
            Part("", (Table(threshold_grid), Table(promise_grid)), is_half=True),
            Part("", (Table(measure_grid),), is_half=True),
        ),
        anchor="thresholds",
        link="Thresholds",
    ),
    Section(
        "The frontier",
        (
            Part("", (Table(frontier_grid, is_folded=True),)),
            Part("Detection versus reconstruction", (FRONTIER_AUROC,)),
            Part("Progress of the search", (HYPERVOLUME,), anchor="hypervolume", link="Hypervolume", is_folded=True),
        ),
        anchor="frontier",
        link="Frontier",
    ),
    Section(
        "What mattered",
        (
            Part(
                "Importance of each parameter",
                (IMPORTANCES, Sentences(importance_note), Table(importance_grid, is_folded=True)),
            ),
            Part("One parameter at a time", (SLICES,)),
            Part("Accuracy against the share of labels", (LABEL_ACCURACY,), anchor="labels"),
            Part("The two most important parameters", (CONTOUR,), is_folded=True),
            Part("Parallel coordinates", (PARALLEL,), is_folded=True),
        ),
        anchor="importance",
        link="What mattered",
    ),
    Section(
        "Disentanglement",
        (
            Part("Each measure against beta", (Sentences(claim), BETA_EFFECT, Table(measure_table))),
            Part("What each dimension of the code knows of each factor", (FACTOR_TABLE,), anchor="factors"),
        ),
        anchor="disentanglement",
        link="Disentanglement",
    ),
    Section(
        "Training",
        (
            Part("Training curves of the frontier", (TRAINING,)),
            Part("Failures", (Table(failure_grid),), anchor="failures", link="Failures"),
        ),
        anchor="training",
        link="Training",
    ),
    Section(
        "Appendix",
        (
            Part("Reconstructions", (RECONSTRUCTIONS,), is_folded=True),
            Part("Map of the latent space", (LATENT_MAP,), is_folded=True),
            Part("KL of each latent dimension", (LATENT_USE,), is_folded=True),
            Part("Latent traversals", (TRAVERSALS,), is_folded=True),
            Part("Interpolations", (INTERPOLATIONS,), is_folded=True),
            Part("Samples from the prior", (SAMPLES,), is_folded=True),
            Part("All trials", (Table(trial_grid),), anchor="trials", link="All trials", is_folded=True),
        ),
        anchor="appendix",
        link="Appendix",
    ),
)


def figures() -> Iterator[Figure[Any]]:
    """All figures of a report."""
    yield FIRST
    for section in SECTIONS:
        yield from section.figures


def panels(tables: StudyTables) -> dict[str, Panel]:
    """All figures of a study by name, drawn."""
    return {figure.name: panel(figure, tables) for figure in figures()}


def interactive_figures(
    tables: StudyTables, among: Iterable[Figure[Any]] | None = None
) -> dict[str, interactive.Interactive]:
    """The interactive ones by name, of some figures or of all."""
    sampled, found = tables.once(sampled_trials), {}
    for figure in figures() if among is None else among:
        numbers = tables.once(figure.numbers)
        if figure.interactive is not None and not isinstance(numbers, Missing):
            found[figure.name] = figure.interactive(numbers, sampled)
    return found


def pages(tables: StudyTables, panels: Mapping[str, Panel]) -> tuple[str, str]:
    """The report as one HTML file that loads nothing, and in Markdown with the pictures in figures/."""
    record = tables.record
    context = {
        "title": record.name,
        "record": record,
        "data": {"source": None, "features": None, "sha256": None, **record.data},
        "verdict": verdict.verdict(tables),
        "overview": overview.overview(tables),
        "warnings": overview.warnings(tables),
        "key_numbers": overview.key_numbers(tables),
        "first": panels[FIRST.name],
        "sections": _sections(tables, panels),
        "notes": reproduce.data_notes(record.data),
        "splits": reproduce.split_grid(record.data),
        "versions": reproduce.version_grid(record),
        "config": yaml_text(record.config),
        "commands": reproduce.commands(record),
        "seeds": reproduce.seed_grid(record),
        "code": reproduce.code_grid(record.environment),
    }
    return render("report.html", {**context, **_figures(tables)}), render("report.md", context)


def _sections(tables: StudyTables, panels: Mapping[str, Panel]) -> list[dict[str, Any]]:
    """The sections with everything computed, see `section_content`; one of other data than the study's is left out."""
    found = [
        section_content(section, [[_block(block, tables, panels) for block in part.blocks] for part in section.parts])
        for section in SECTIONS
    ]
    return [section for section in found if section["parts"] or section["missing"]]


def section_content(section: Section, blocks: Sequence[Sequence[Json]]) -> Json:
    """A section as the templates take it; a part that has nothing to show is left out, and why is said at the end.

    Args:
        section: Its titles.
        blocks: Of each part; see `figure_block` and `table_block`.
    """
    parts, missing = [], []
    for part, some in zip(section.parts, blocks, strict=True):
        if any(block["has_content"] for block in some):
            parts.append({"about": part, "blocks": [block for block in some if block["has_content"]]})
        else:
            reasons = dict.fromkeys(block["missing"] for block in some if block["missing"])
            missing += [f"{part.title}: {reason}" if part.title else reason for reason in reasons]
    return {"about": section, "parts": parts, "missing": [*dict.fromkeys(missing)]}


def figure_block(panel: Panel) -> Json:
    """A figure as the templates take it."""
    return {"kind": "figure", "panel": panel, "has_content": panel.png is not None, "missing": panel.missing}


def table_block(grids: Sequence[Grid], is_folded: bool = False) -> Json:
    """Printed tables as the templates take them."""
    shown = [grid for grid in grids if grid.rows]
    missing = " ".join(grid.missing for grid in grids if grid.missing)
    return {"kind": "table", "grids": shown, "is_folded": is_folded, "has_content": bool(shown), "missing": missing}


def _block(block: Figure[Any] | Table | Sentences, tables: StudyTables, panels: Mapping[str, Panel]) -> Json:
    if isinstance(block, Figure):
        found = figure_block(panels[block.name])
        return {**found, "missing": "" if block.is_optional else found["missing"]}
    if isinstance(block, Table):
        grids = block.grids(tables)
        return table_block([grids] if isinstance(grids, Grid) else [*grids], block.is_folded)
    text = block.text(tables)
    return {"kind": "sentences", "text": text, "has_content": bool(text), "missing": ""}


def _figures(tables: StudyTables) -> dict[str, Any]:
    """What the page needs to draw interactive figures."""
    figures = interactive_figures(tables)
    return {
        "interactive": figures,
        "run_links": interactive.run_links(tables.record),
        "figures_json": Markup(figures_json(tables, figures)),
        "library": Markup(interactive.packed_library() if figures else ""),
    }


def figures_json(tables: StudyTables, figures: Mapping[str, interactive.Interactive]) -> str:
    """What the page's script draws, fit for a script element; empty where there is nothing to draw."""
    if not figures:
        return ""
    content = {
        "scale": {mode: scale_colours(dark=mode == "dark") for mode in ("light", "dark")},
        "trials": interactive.trial_facts(tables, tables.once(sampled_trials)),
        "figures": {name: figure.plain() for name, figure in figures.items()},
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from a template of this package; unless `context` has them, it has no interactive figures."""
    # A page runs the scripts that its policy names, and no other.
    script = files("vae_study.report").joinpath("templates", "report.js").read_text(encoding="utf-8")
    hashes = [interactive.script_hash(script.encode())] + [interactive.library_hash()] * bool(context.get("library"))
    plain = {"interactive": {}, "run_links": {}, "script": Markup(script), "script_hashes": Markup(" ".join(hashes))}
    return _environment(template.endswith(".html")).get_template(template).render({**plain, **context})


@cache
def _environment(autoescape: bool) -> Environment:
    found = Environment(
        loader=PackageLoader("vae_study.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(
        base64=lambda data: base64.b64encode(data).decode("ascii"),
        breakable=_breakable,
        loose=_loose,
        md=escape_markdown,
        fenced=fenced,
        filename=lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower())[:LONGEST_FILE_NAME].strip("-") or "table",
    )
    return found


def _breakable(name: str) -> Markup:
    """A heading that may break after a dot or an underscore, so that long parameter names leave columns narrow."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def _loose(text: str) -> Markup:
    """Text whose long words may break, so that one of them does not widen a table."""
    return Markup("<wbr>").join(re.sub(r"(\S{32})(?=\S)", "\\1\0", text).split("\0"))


def yaml_text(config: Mapping[str, Any]) -> str:
    """The config as YAML, keys in the order of the config."""
    writer, buffer = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style = None
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 100
    writer.dump(json.loads(json.dumps(config, default=str)), buffer)
    return buffer.getvalue()


def escape_markdown(text: object) -> str:
    """Text that Markdown and the HTML in it leave as it is, on one line."""
    one_line = " ".join(str(text).split())
    return MARKDOWN.sub(r"\\\1", str(escape(one_line)).replace("&#39;", "'").replace("&#34;", '"'))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
