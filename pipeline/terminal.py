"""What the commands print: plans, results, states."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipeline.search.early_stopping import rungs
from pipeline.spec import Choices, Range, StudySpec
from pipeline.spec.constraints import Constraint
from pipeline.study.plan import Plan
from pipeline.tracking.layout import trial_name
from pipeline.tracking.record import StudyRecord

if TYPE_CHECKING:
    from pipeline.report import StudySummary
    from pipeline.scoring import ScoredSummary
    from pipeline.study.cost import Cost


def plan_text(plan: Plan) -> str:
    """A plan for people: data, search space, budget, resources."""
    spec, data = plan.spec, plan.data.summary()
    splits = ", ".join(
        f"{name} {count['rows']} rows" + (f" ({count['anomalies']} anomalous)" if count["anomalies"] else "")
        for name, count in data["splits"].items()
    )
    hidden = ", ".join(map(str, spec.model.network.hidden))
    lines = [
        f"study      {plan.name}, in {plan.folder}",
        f"data       {spec.data.path or data['source']}, {data['features']} features: {splits}",
        *(f"{'':10} {note}" for note in data["notes"]),
        f"model      {spec.model.family}, {spec.model.network.kind} [{hidden}], likelihood {spec.model.likelihood}",
        *_search_lines(plan),
        f"objectives {', '.join(f'{o.direction} {o.metric}' for o in spec.objectives)}",
        f"reference  {', '.join(f'{name} {value:.4g}' for name, value in plan.reference.items())} (hypervolume)",
        f"budget     {spec.trials} trials of {_epochs(spec)} epochs, sampler {spec.sampler.kind}",
        *_steering_lines(spec),
        f"resources  {spec.resources.cpu:g} CPU and {spec.resources.gpu:g} GPU a worker, {_company(spec)} on each",
        f"champion   by {plan.rule}, score {spec.anomaly.score or 'by the rule'}",
    ]
    return "\n".join(lines)


def _company(spec: StudySpec) -> str:
    count = spec.resources.trials_per_device
    if count == "auto":
        return "as many trials at once as pay"
    return "one trial at a time" if count == 1 else f"{count} trials at once"


def cost_text(plan: Plan, cost: "Cost") -> str:
    """About what a study costs, and how that is known."""
    runs = f"{cost.trials} trials{', repeats included,' if cost.trials > plan.spec.trials else ''}"
    lines = [
        f"cost       about {cost.worker_hours:.2g} worker-hours, which are node-hours where a worker fills a node:",
        f"{runs} of about {_duration(cost.trial_seconds)} each, {_known_from(cost)},",
        "without the start of workers and the scoring at the end of a trial",
        *_cost_notes(plan.spec, cost),
    ]
    return f"\n{'':10} ".join(lines)


def _known_from(cost: "Cost") -> str:
    if not cost.is_tried:
        return f"as {cost.known_from} of this study took so far"
    return f"as {cost.known_from} drawn at random take here, on {'a GPU' if cost.device == 'cuda' else 'one core'}"


def _cost_notes(spec: StudySpec, cost: "Cost") -> Iterator[str]:
    if cost.is_tried and spec.early_stopping.kind != "none":
        yield "less what trials save that are stopped early"
    if cost.is_tried and spec.resources.trials_per_device == "auto":
        yield "less what trials save that are trained side by side"
    if cost.is_tried and spec.resources.gpu and cost.device != "cuda":
        yield "here is no GPU: with one it is another number"
    elif 0 < spec.resources.gpu != 1:
        yield f"which are {cost.worker_hours * spec.resources.gpu:.2g} GPU-hours"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def _steering_lines(spec: StudySpec) -> Iterator[str]:
    stopping = spec.early_stopping
    if stopping.kind != "none":
        epochs = ", ".join(map(str, rungs(stopping, spec.training.epochs)))
        compared = f" on {stopping.metric}" if stopping.compares_one_metric else ""
        yield f"stopping   {stopping.kind}{compared}, judged at epochs {epochs} once the KL weight is 1"
    if spec.constraints:
        yield f"keep       {', '.join(_constraint_text(one) for one in spec.constraints)}"
    if spec.enqueue:
        yield f"first      {len(spec.enqueue)} configurations of yours"
    if spec.warm_start:
        yield f"learns     from the trials of {spec.warm_start}"


def _constraint_text(constraint: Constraint) -> str:
    if constraint.at_most is None:
        return f"{constraint.metric} at least {constraint.at_least:g}"
    return f"{constraint.metric} at most {constraint.at_most:g}"


def _epochs(spec: StudySpec) -> str:
    searched = spec.search.get("training.epochs")
    ends = sorted(map(str, searched.ends()), key=float) if searched else [str(spec.training.epochs)]
    return " to ".join(dict.fromkeys((ends[0], ends[-1])))


def _search_lines(plan: Plan) -> Iterator[str]:
    for index, (name, parameter) in enumerate(plan.spec.search.items()):
        yield f"{'search' if index == 0 else '':10} {name}: {_parameter_text(parameter)}"


def _parameter_text(parameter: Range | Choices) -> str:
    if isinstance(parameter, Choices):
        text = " | ".join(str(list(value) if isinstance(value, tuple) else value) for value in parameter.choices)
    else:
        kind = "int" if parameter.type == "int" else "float"
        text = f"{parameter.low:g} to {parameter.high:g}, {kind}{', log' if parameter.log else ''}"
    for parent, allowed in parameter.when.items():
        text += f", when {parent} is {' or '.join(map(str, allowed))}"
    return text


def result_text(record: StudyRecord, report: Path | None, home: str) -> str:
    """The summary at the end of a run."""
    from pipeline.report import summary

    lines = [f"study      {record.name}", *_facts(summary(record))]
    if report is not None:
        lines.append(f"report     {report}")
    store = f"--tracking-uri {record.tracking_uri}" if "://" in record.tracking_uri else f"--home {home}"
    if record.tracking_uri.endswith(f"{Path(home).resolve()}/mlflow.db"):
        store = "" if home == "studies" else f"--home {home}"
    lines.append(f"MLflow UI  vae-study ui {store}".rstrip())
    return "\n".join(lines)


def status_text(record: StudyRecord, waiting: int) -> str:
    """A study's state in a few lines; so many of its records wait on this machine."""
    from pipeline.report import summary

    total = record.spec.get("trials", "?")
    how = f"which the driver brings, or: vae-study sync {record.name}"
    late = [f"waiting    {waiting:,} records for MLflow, {how}"] if waiting else []
    return "\n".join([f"study      {record.name}, {total} trials asked for", *_facts(summary(record)), *late])


@contextmanager
def scoring_bar(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar of rows; gives what brings it up to date."""
    columns = (
        TextColumn("{task.completed:,.0f} rows"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("score", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def scored_text(found: "ScoredSummary", output: Path) -> str:
    """What scoring found."""
    rate = found.rows / found.seconds if found.seconds else float("nan")
    shares = {name: count / max(found.rows, 1) for name, count in found.flagged.items()}
    flagged = [f"{count:,} above p{name} ({shares[name]:.1%})" for name, count in found.flagged.items()]
    return f"scored     {found.rows:,} rows, {rate:,.0f} a second\nflagged    {', '.join(flagged)}\nwritten    {output}"


def _facts(facts: "StudySummary") -> Iterator[str]:
    states = ", ".join(f"{count} {state}" for state, count in facts.states.items() if count)
    yield f"trials     {states or 'none yet'}"
    yield f"frontier   {facts.frontier_size} trials, hypervolume {_number(facts.hypervolume, '.4g')}"
    if facts.best_elbo_trial is not None:
        yield f"best ELBO  {facts.best_elbo_nats:.2f} nats (validation), {trial_name(facts.best_elbo_trial)}"
    if facts.champion_trial is not None:
        how = f"chosen by {facts.champion_rule}, scored by {facts.champion_score}"
        yield f"champion   {trial_name(facts.champion_trial)}, {how}"
    area = facts.test_auroc
    if not math.isnan(area.value):
        yield f"test AUROC {area.value:.3f}, 95 % interval {area.low:.3f} to {area.high:.3f}"


def _number(value: float, form: str) -> str:
    return "none yet" if math.isnan(value) else format(value, form)
