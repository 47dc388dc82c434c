"""The description of a study that runs."""

from collections.abc import Mapping
from typing import Any

from pipeline.tracking.description.layouts import fitting
from pipeline.tracking.description.links import to_study, to_trials, to_view
from pipeline.tracking.description.markdown import escaped, table
from pipeline.tracking.views import shown_parameters

USES = {"train": "train", "validation": "choose", "test": "judge"}


def plan_note(spec: Mapping[str, Any], name: str, data: Mapping[str, Any]) -> str:
    """The description of a study that runs: what is searched, on what, how many trials.

    Args:
        spec: The resolved spec, plain.
        name: The study's name.
        data: The data summary.

    Returns:
        Markdown with placeholders, for `filled`.
    """
    head = [
        f"**Running**: {spec['trials']} trials {of_family(spec)} on {escaped(data['source'])}, "
        f"proposed by {spec['sampler']['kind']}, {_epochs(spec)}.",
        f"Objectives: {_objectives(spec)}.",
        f"Data: {_data(data)}.",
        " · ".join(
            [
                to_view("trials, best first"),
                to_view("charts", "CHART"),
                to_study("the study's curves", "model-metrics"),
                to_trials("under way", "running"),
            ]
        ),
    ]
    resume = f"Should it stop, `vae-study resume {name}` goes on with it."
    return fitting(lambda rows: "\n\n".join(["\n".join(head), resume, _search(spec, rows)]))


def of_family(spec: Mapping[str, Any]) -> str:
    """Such as "of vae", where the family is not searched."""
    family = spec["model"].get("family")
    return f"of {family}" if family else "of several model families"


def _epochs(spec: Mapping[str, Any]) -> str:
    epochs = spec["training"].get("epochs")
    early = spec.get("early_stopping", {}).get("kind", "none")
    each = f"{epochs} epochs each" if epochs else "each with epochs of its own"
    return each if early == "none" else f"{each} unless {early} stops them"


def _objectives(spec: Mapping[str, Any]) -> str:
    return ", ".join(f"{objective['direction']} `{objective['metric']}`" for objective in spec["objectives"])


def _data(data: Mapping[str, Any]) -> str:
    splits = [f"{_rows(data['splits'][name])} to {use}" for name, use in USES.items()]
    return f"{data['features']:,} features; {', '.join(splits)}"


def _rows(split: Mapping[str, int]) -> str:
    anomalies = f" ({split['anomalies']:,} anomalies)" if split["anomalies"] else ""
    return f"{split['rows']:,} rows{anomalies}"


def _search(spec: Mapping[str, Any], most: int) -> str:
    names = shown_parameters(spec)
    rows = [[escaped(name), *_searched(spec["search"][name])] for name in names[:most]]
    found = table(["searched", "values", "where"], rows)
    left = len(names) - len(rows)
    return found + (f"\n\nand {left} more parameters in `spec.json`" if left else "")


def _searched(parameter: Mapping[str, Any]) -> tuple[str, str]:
    if "choices" in parameter:
        values = escaped(", ".join(map(str, parameter["choices"])))
    else:
        values = f"{parameter['low']:g} to {parameter['high']:g}" + (", log" if parameter.get("log") else "")
    branches = [f"{name} is {' or '.join(map(str, given))}" for name, given in parameter.get("when", {}).items()]
    return values, escaped(", ".join(branches))
