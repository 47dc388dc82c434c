"""The page of a study that is running: the best so far, what is being trained, the frontier and the hypervolume."""

import hashlib
import json
import math
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from vae_study.report import interactive
from vae_study.report.figure import Figure
from vae_study.report.formatting import metric_name, number
from vae_study.report.frames import Missing, numbers
from vae_study.report.overview import KeyNumber, best_number, frontier_numbers
from vae_study.report.page import figures_json, interactive_figures, render
from vae_study.report.sections.progress import HYPERVOLUME
from vae_study.report.sections.trade_off import TRADE_OFF
from vae_study.report.sections.trials import running_grid
from vae_study.report.tables import StudyTables, auroc_metric
from vae_study.selection.ranking import eligible
from vae_study.tracking.record import StudyRecord

FIGURES: tuple[Figure[Any], ...] = (TRADE_OFF, HYPERVOLUME)


def live_state(record: StudyRecord | None, is_over: bool) -> dict[str, Any]:
    """What the page shows of a study now, as JSON values.

    Args:
        record: The study; None while it has not begun.
        is_over: Whether its driver has ended.

    Returns:
        `now` (HTML of numbers and running trials), `figures` (what the report's script draws; None while there is
        nothing to draw), `names` (of these figures), `captions` (by figure), `is_over`, and a `version` that changes
        with all of it.
    """
    state: dict[str, Any] = {"now": "", "figures": None, "names": "", "captions": {}, "is_over": is_over}
    if record is not None:
        tables = StudyTables(record)
        drawn = interactive_figures(tables, FIGURES)
        state["now"] = render(
            "live_now.html", {"key_numbers": [*_key_numbers(tables)], "running": running_grid(tables)}
        )
        if drawn:
            state["figures"] = json.loads(figures_json(tables, drawn))
            state["names"] = " ".join(drawn)
        for figure in FIGURES:
            table = tables.once(figure.numbers)
            if not isinstance(table, Missing):
                state["captions"][figure.name] = figure.words(table).caption
    return {**state, "version": hashlib.sha256(json.dumps(state).encode()).hexdigest()}


def live_page(name: str, state: dict[str, Any]) -> str:
    """The page with a state; its script asks the server for later ones, and shows them in place."""
    folder = files("vae_study.report").joinpath("templates")
    scripts = [folder.joinpath(script).read_text(encoding="utf-8") for script in ("report.js", "live.js")]
    hashes = [*(interactive.script_hash(script.encode()) for script in scripts), interactive.library_hash()]
    text = json.dumps(state["figures"], ensure_ascii=False).replace("<", "\\u003c") if state["figures"] else ""
    context = {
        "title": name,
        "state": state,
        "figures": state["names"].split(),
        "figures_json": Markup(text),
        "library": Markup(interactive.packed_library() if text else ""),
        "scripts": [Markup(script) for script in scripts],
        "script_hashes": Markup(" ".join(hashes)),
        "now": Markup(state["now"]),
    }
    return render("live.html", context)


def _key_numbers(tables: StudyTables) -> Iterator[KeyNumber]:
    record, states = tables.record, tables.summary.states
    ended = sum(states[state] for state in ("finished", "pruned", "failed"))
    others = [f"{states[state]:,} {state}" for state in ("running", "waiting", "pruned", "failed") if states[state]]
    yield KeyNumber(name="Trials", value=f"{ended:,} of {record.config['trials']:,}", remark=", ".join(others))
    yield best_number(tables)
    metric, finished = auroc_metric(record, "val"), eligible(record.trials)
    areas = [value for value in numbers(finished, metric) if math.isfinite(value)]
    if areas:
        trial = finished["trial"].to_numpy()[numbers(finished, metric) == max(areas)][0]
        yield KeyNumber(name=f"Best {metric_name(metric)}", value=number(max(areas), 3), remark=f"trial {trial}")
    yield from frontier_numbers(tables)
