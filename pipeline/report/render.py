"""Lays tables, figures and sentences out as one HTML file and as Markdown. Every value is escaped by the templates."""

import base64
import io
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from ruamel.yaml import YAML

from pipeline.report import (
    again,
    cautions,
    facts,
    grids,
    grids_detection,
    interactive,
    names,
    prose,
    prose_detection,
    prose_mattered,
)
from pipeline.report.figures import Panel
from pipeline.report.tables import StudyTables, Top
from pipeline.report.tables.frontier import objective_signs

MOST_ROWS = 1000
MARKDOWN = re.compile(r"([\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def html(tables: StudyTables, panels: Mapping[str, Panel]) -> str:
    """The report as one file that loads nothing."""
    context = {**_context(tables, panels), **_live(tables)}
    return environment(autoescape=True).get_template("report.html").render(context)


def _live(tables: StudyTables) -> dict[str, Any]:
    """What the page needs to draw live figures. It runs the two scripts that its policy names, and no other."""
    figures = interactive.live_figures(tables)
    script = files("pipeline.report").joinpath("templates", "report.js").read_text(encoding="utf-8")
    hashes = (interactive.library_hash(), interactive.script_hash(script.encode())) if figures else ("'none'",)
    return {
        "live": figures,
        "run_links": interactive.run_links(tables.record),
        "live_json": Markup(interactive.live_json(tables, figures)),
        "library": Markup(interactive.packed_library() if figures else ""),
        "script": Markup(script),
        "script_hashes": Markup(" ".join(hashes)),
    }


def markdown(tables: StudyTables, panels: Mapping[str, Panel]) -> str:
    """The same content in Markdown, with the pictures in figures/."""
    return environment(autoescape=False).get_template("report.md").render(_context(tables, panels))


def environment(autoescape: bool) -> Environment:
    """The templates of this package."""
    found = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(base64=_base64, breakable=_breakable, loose=_loose, md=escape_markdown, fenced=fenced)
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _breakable(name: str) -> Markup:
    """A heading that may break after a dot or an underscore, so that long parameter names leave columns narrow."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def _loose(text: str) -> Markup:
    """Text whose long words may break, so that one of them does not widen a table."""
    return Markup("<wbr>").join(re.sub(r"(\S{32})(?=\S)", "\\1\0", text).split("\0"))


def _context(tables: StudyTables, panels: Mapping[str, Panel]) -> dict[str, Any]:
    return {
        "tables": tables,
        "record": tables.record,
        "data": {"source": None, "features": None, "sha256": None, **tables.record.data},
        "panels": panels,
        "overview": prose.overview(tables),
        "cautions": cautions.cautions(tables),
        "facts": facts.facts(tables),
        "first_objective": names.metric_name(next(iter(objective_signs(tables.record.spec)))),
        "frontier": grids.frontier_grid(tables),
        "trials": grids.trial_grid(tables, tables.trials.head(MOST_ROWS)),
        "trials_left_out": max(0, len(tables.trials) - MOST_ROWS),
        "choices": grids_detection.choice_grid(tables),
        "score_table": grids_detection.score_grid(tables),
        "score_words": list(prose_detection.score_matters(tables.score_table)),
        "measures": grids_detection.measure_grid(tables),
        "top_score": names.score_label(tables.top.score) if isinstance(tables.top, Top) else "",
        "top": grids_detection.top_grid(tables),
        "top_words": list(prose_detection.top_rows(tables)),
        "importances": grids.importance_grid(tables),
        "mattered": list(prose_mattered.mattered(tables.importances)),
        "confirmations": grids.confirmation_grids(tables),
        "thresholds": grids_detection.threshold_grid(tables),
        "drift": list(prose_detection.drift(tables)),
        "failures": grids.failure_grid(tables),
        "notes": facts.data_notes(tables.record.data),
        "splits": grids.split_grid(tables.record.data),
        "versions": grids.version_grid(tables.record.environment),
        "spec": yaml_text(tables.record.spec),
        "commands": again.commands(tables.record),
        "seeds": again.seed_grid(tables.record),
        "code": again.code_grid(tables.record.environment),
    }


def yaml_text(spec: Mapping[str, Any]) -> str:
    """The spec as YAML, keys in the order of the spec."""
    writer, buffer = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style = None
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 100
    writer.dump(json.loads(json.dumps(spec, default=str)), buffer)
    return buffer.getvalue()


def escape_markdown(text: object) -> str:
    """Text that Markdown and the HTML in it leave as it is, on one line."""
    one_line = " ".join(str(text).split())
    return MARKDOWN.sub(r"\\\1", str(escape(one_line)).replace("&#39;", "'").replace("&#34;", '"'))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
