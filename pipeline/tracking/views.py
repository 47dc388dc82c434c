"""How MLflow's UI shows a study's trials: which columns, which order, which charts.

By itself it shows no metric in its table. A shared view, which a link names, is a tag of the experiment.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from pipeline.choosing import RULES
from pipeline.tracking import layout

SHARED_VIEW = "mlflow.sharedViewState."
# More do not fit on a screen; an experiment's tag holds 5,000 characters.
MOST_PARAMETERS = 6
OWN_SECTION = "trade-off"
# By itself the UI sorts them by name, and what matters would come last.
SECTIONS = (OWN_SECTION, "val", "train", "test", "val_auroc", "test_auroc", "pseudo_auroc", "log10", "time")


def shared_view(spec: Mapping[str, Any], rule: str, parent_id: str, score: str | None = None) -> tuple[str, str]:
    """The tag of the experiment, and its value, that the links of a study's description need.

    Args:
        spec: The resolved spec, plain.
        rule: The rule that chooses the champion; its metric orders the trials.
        parent_id: The parent run's.
        score: The anomaly score of the champion, once there is one.
    """
    objectives = [objective["metric"] for objective in spec["objectives"]]
    metric, is_ascending = order(rule, score or spec["anomaly"]["score"])
    parameters = shown_parameters(spec)[:MOST_PARAMETERS]
    columns = [
        *(f"tags.`{tag}`" for tag in (layout.STATE, layout.SAMPLER)),
        *(f"params.`{name}`" for name in parameters),
    ]
    columns += [f"metrics.`{name}`" for name in dict.fromkeys([*objectives, "val/elbo", metric])]
    state = {
        "searchFilter": trials_query(parent_id),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": is_ascending,
        "selectedColumns": columns,
        "runsHiddenMode": "SHOWALL",
        **_charts(spec["search"], objectives, metric),
    }
    return f"{SHARED_VIEW}{parent_id}", json.dumps(state, separators=(",", ":"))


def order(rule: str, score: str | None) -> tuple[str, bool]:
    """The metric that a rule goes by, and whether less of it is better."""
    found = RULES[rule]
    name = f"{found.metric}{score or found.score or 'elbo'}" if found.metric.endswith("/") else found.metric
    return name, found.sign < 0


def shown_parameters(spec: Mapping[str, Any]) -> list[str]:
    """The searched parameters, those that matter most in a table first: of short names, then those of every trial."""
    search, first = spec["search"], [name for name in layout.SHORT_NAMES if name in spec["search"]]
    rest = [name for name in search if name not in first]
    return [*first, *sorted(rest, key=lambda name: bool(search[name].get("when")))]


def _charts(search: Mapping[str, Any], objectives: list[str], metric: str) -> dict[str, Any]:
    """The trade-off and the parallel coordinates, above the charts of single metrics, which the UI adds itself."""
    # A trial without one of the axes would not be drawn.
    always = [name for name in search if not search[name].get("when")]
    parallel = {
        "type": "PARALLEL",
        "selectedParams": [name for name in always if not search[name].get("log")],
        "selectedMetrics": [
            *(f"{layout.LOG10}{name}" for name in always if search[name].get("log")),
            *dict.fromkeys([*objectives, metric]),
        ],
        "showAllRuns": True,
    }
    charts: list[dict[str, Any]] = [parallel]
    if len(objectives) > 1:
        charts.insert(0, {"type": "SCATTER", "xaxis": _axis(objectives[0]), "yaxis": _axis(objectives[1])})
    common = {"runsCountToCompare": 1000, "metricSectionId": _uuid(OWN_SECTION), "deleted": False}
    return {
        "compareRunCharts": [{**common, **one, "isGenerated": False, "uuid": _uuid(one["type"])} for one in charts],
        "compareRunSections": [_section(name) for name in SECTIONS],
        "isAccordionReordered": True,
    }


def _section(name: str) -> dict[str, Any]:
    about = {"uuid": _uuid(name), "name": name, "display": True, "isReordered": False, "deleted": False}
    return {**about, "isGenerated": name != OWN_SECTION}


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _uuid(part: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, part).hex


def trials_query(parent_id: str) -> str:
    """What MLflow is asked for to find a study's trials."""
    return f"tags.`{layout.PARENT}` = '{parent_id}' and tags.`{layout.KIND}` = 'trial'"
