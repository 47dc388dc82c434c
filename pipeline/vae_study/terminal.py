"""The texts that the commands print: plan, cost, result, status."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from vae_study.anomaly.paired import verdict
from vae_study.config.model import NetworkConfig
from vae_study.config.search_space import Choices, Range
from vae_study.config.study import StudyConfig
from vae_study.metrics import NO_HYPERVOLUME
from vae_study.search.early_stopping import rungs
from vae_study.storage import DEFAULT_HOME, words_of
from vae_study.tracking.record import StudyRecord
from vae_study.tracking.schema import trial_name

if TYPE_CHECKING:
    from vae_study.detector.score_file import ScoredSummary
    from vae_study.labels import Learned, Measured
    from vae_study.report import StudySummary
    from vae_study.study.cost import Cost
    from vae_study.study.plan import Plan


LABELS_NOTE = f"""\
{"":10} These rows are no random sample, and the choice was made on them: the AUROCs compare detectors on them,
{"":10} and do not say how well any of them detects among all rows."""

# Characters in a line of a table that is not printed to a terminal.
WIDEST = 240


def plan_text(plan: Plan) -> str:
    """The plan of a study: data, search space, budget, resources."""
    config, data = plan.config, plan.data.summary()
    model, resources = config.model, config.resources
    splits = ", ".join(
        f"{name} {count['rows']} rows" + (f" ({count['anomalies']} anomalous)" if count["anomalies"] else "")
        for name, count in data["splits"].items()
    )
    lines = [
        f"study      {plan.name}, in {plan.folder}",
        f"data       {config.data.path or data['source']}, {data['features']} features: {splits}",
        *(f"{'':10} {line}" for line in plan.data.lines()),
        f"model      {model.family}, {_network_text(model.network)}, likelihood {model.likelihood}",
        *(
            f"{'' if index else 'search':10} {name}: {_parameter_text(parameter)}"
            for index, (name, parameter) in enumerate(config.search.items())
        ),
        f"objectives {', '.join(f'{o.direction} {o.metric}' for o in config.objectives)}",
        f"reference  {', '.join(f'{name} {value:.4g}' for name, value in plan.reference.items())} (hypervolume)",
        f"budget     {config.trials} trials of {_epochs(config)} epochs, sampler {config.sampler.kind}",
        *_steering_lines(config),
        f"resources  {resources.cpu:g} CPU and {resources.gpu:g} GPU a worker, {_trials_per_device(config)} on each",
        f"champion   by {plan.rule}{f' ({plan.why_rule})' * bool(plan.why_rule)}, "
        f"score {config.score or 'by the rule'}",
    ]
    return "\n".join(lines)


def columns_text(plan: Plan) -> str:
    """A table with one row for each column of the data: how it was read, what it holds and what it becomes."""
    from vae_study.data.inspection import COLUMN_HEADS

    if not plan.data.columns:
        return f"{plan.data.source} has no columns: its features are the pixels of images"
    table = Table(*COLUMN_HEADS, box=None, pad_edge=False)
    for cells in plan.data.columns:
        table.add_row(*map(escape, cells))
    # In a file or a pipe, as wide as the table may be: nothing is cut.
    console = Console(width=None if sys.stdout.isatty() else WIDEST)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _network_text(network: NetworkConfig) -> str:
    """Such as "mlp [256, 128]", "gru [64]" or "conv of [32] channels, then [256]"; what is searched may replace it."""
    hidden, channels = list(network.hidden), list(network.channels)
    if network.kind == "mlp":
        return f"mlp {hidden}"
    if network.kind == "recurrent":
        return f"{network.cell} {hidden}"
    return f"{network.kind} of {channels} channels, {f'then {hidden}' if hidden else 'without hidden layers'}"


def _trials_per_device(config: StudyConfig) -> str:
    count = config.resources.trials_per_device
    if count == "auto":
        return "as many trials at once as is fastest"
    return "one trial at a time" if count == 1 else f"{count} trials at once"


def cost_text(plan: Plan, cost: Cost, price: float | None = None) -> str:
    """The estimated cost of a study, and what the estimate is based on; `price` is that of one worker an hour."""
    runs = f"{cost.trials} trials{', repeats included,' if cost.trials > plan.config.trials else ''}"
    basis = f"random draws here, on {'a GPU' if cost.device == 'cuda' else 'one core'}"
    basis = f"measured on {cost.samples} {basis if cost.device else 'trials of this study'}"
    lines = [
        f"cost       about {cost.worker_hours:.2g} worker-hours, equal to node-hours if a worker fills a node:",
        f"{runs} of about {_duration(cost.trial_seconds)} each, {basis},",
        "without the start of workers and the scoring at the end of each trial",
        *_cost_notes(plan.config, cost),
        *([f"at a price of {price:g} a worker-hour about {price * cost.worker_hours:.2g}"] if price else []),
    ]
    return f"\n{'':10} ".join(lines)


def _cost_notes(config: StudyConfig, cost: Cost) -> Iterator[str]:
    if cost.device and config.early_stopping.kind != "none":
        yield "less what early stopping saves"
    if cost.device and config.resources.trials_per_device == "auto":
        yield "less what training several trials at once saves"
    if config.resources.gpu and cost.device not in ("", "cuda"):
        yield "measured without a GPU; with one the number differs"
    elif 0 < config.resources.gpu != 1:
        yield f"which are {cost.worker_hours * config.resources.gpu:.2g} GPU-hours"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def _steering_lines(config: StudyConfig) -> Iterator[str]:
    stopping = config.early_stopping
    if stopping.kind != "none":
        epochs = ", ".join(map(str, rungs(stopping, config.training.epochs)))
        compared = f" on {stopping.metric}" if stopping.compares_one_metric else ""
        yield f"stopping   {stopping.kind}{compared}, at epochs {epochs} once the KL weight is 1"
    if config.stop_when.flat_for:
        yield f"stop when  {config.stop_when.words}"
    if config.constraints:
        bounds = (f"{c.metric} at {'least' if c.at_most is None else 'most'} {c.bound:g}" for c in config.constraints)
        yield f"constraint {', '.join(bounds)}"
    if config.enqueue:
        yield f"enqueued   {len(config.enqueue)} configurations to try first"
    if config.warm_start:
        yield f"warm start from the trials of {config.warm_start}"


def _epochs(config: StudyConfig) -> str:
    searched = config.search.get("training.epochs")
    ends = sorted(map(str, searched.ends()), key=float) if searched else [str(config.training.epochs)]
    return " to ".join(dict.fromkeys((ends[0], ends[-1])))


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
    from vae_study.report import summary

    words = words_of(record.name, home)
    lines = [f"study      {record.name}", *_facts(summary(record), words), *_devices(record), *_failures(record)]
    if report is not None:
        lines.append(f"report     {report}")
    store = f"--tracking-uri {record.tracking_uri}" if "://" in record.tracking_uri else f"--home {home}"
    if record.tracking_uri.endswith(f"{Path(home).resolve()}/mlflow.db"):
        store = "" if home == DEFAULT_HOME else f"--home {home}"
    lines.append(f"MLflow UI  vae-study ui {store}".rstrip())
    return "\n".join(lines)


def status_text(record: StudyRecord, pending: int, home: str = DEFAULT_HOME) -> str:
    """The state of a study in a few lines.

    Args:
        record: The study.
        pending: How many of its records on this machine are not in MLflow yet.
        home: Its HOME.
    """
    from vae_study.report import summary

    words = words_of(record.name, home)
    total = record.config.get("trials", "?")
    how = f"by the driver, or by: vae-study sync {words}"
    late = [f"pending    {pending:,} records to be uploaded {how}"] if pending else []
    facts = *_facts(summary(record), words), *_devices(record), *_failures(record), *late
    return "\n".join([f"study      {record.name}, {total} trials asked for", *facts])


@contextmanager
def scoring_bar(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar of rows. Yields a function of (rows done, all rows or None) that updates it."""
    columns = (
        TextColumn("{task.completed:,.0f} rows"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("score", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def scored_text(found: ScoredSummary, output: Path) -> str:
    """The result of scoring: rows, rate, flagged rows, highest scores, output file."""
    rate = found.rows / found.seconds if found.seconds else float("nan")
    examples, of_series = found.series or found.rows, f" of {found.series:,} series" if found.series else ""
    above = [f"{count:,} above p{name} ({count / max(examples, 1):.1%})" for name, count in found.above.items()]
    lines = [f"scored     {found.rows:,} rows{of_series} by {found.model}, {rate:,.0f} a second"]
    lines += [f"{'':10} {note}" for note in found.notes]
    lines += [f"flagged    {_flagged_text(found)}", f"scores     {', '.join(above)}"]
    lines += [f"explained  {found.explanation}"] if found.explanation else []
    for index, row in enumerate(found.top):
        known = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("score", "p_value"))
        lines.append(f"{'' if index else 'highest':10} {known}: score {row['score']:.4g}, p-value {row['p_value']:.2g}")
    return "\n".join([*lines, f"written    {output}"])


def learned_text(found: Learned, words: str) -> str:
    """What labels changed: the labels, the models before and after on the labelled rows, and the way back.

    Args:
        found: As `labels.learn_labels` gives it.
        words: The study's name with its home, as a command takes them.
    """
    more, rows = found.more, found.anomalies + found.normals
    empty = f"; {found.unlabelled:,} rows without a label do not count" if found.unlabelled else ""
    lines = [
        f"labels     {rows:,} rows: {found.anomalies:,} anomalies, {found.normals:,} normal{empty}",
        f"before     {_measured_text(found.before)}",
        f"after      {_measured_text(found.after)}",
        *(f"{'made of' if not n else '':10} {part}" for n, part in enumerate(found.after.parts)),
    ]
    if word := verdict(more.low, more.high):
        shown = "no difference is shown" if word == "tie" else word
        lines.append(f"difference {more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}], paired: {shown}")
    champion = f"champion   {found.after.name}, version {found.version} in MLflow's registry"
    return "\n".join([*lines, LABELS_NOTE, champion, f"undo       vae-study learn {words} --forget"])


def _measured_text(model: Measured) -> str:
    area = f"AUROC {model.auroc:.3f} [{model.low:.3f}, {model.high:.3f}]" if math.isfinite(model.auroc) else "not known"
    return f"{model.name}: {area} on these rows"


def _flagged_text(found: ScoredSummary) -> str:
    """How many rows are flagged; if none is, why not and what it would take."""
    from vae_study.anomaly.conformal import calibration_needed, fewest_flags

    examples, what = (found.series, "series") if found.series else (found.rows, "rows")
    rate, known = f"{100 * found.fdr:g} %", f"{found.calibration_rows:,} normal validation {what}"
    text = f"{found.flagged:,} {what} at a false discovery rate of {rate}"
    fewest = fewest_flags(examples, found.calibration_rows, found.fdr)
    if found.flagged or found.highest >= fewest:
        return text
    if not found.highest:
        return f"{text}: no {'row' if what == 'rows' else what} scores above all {known}"
    needed = calibration_needed(examples, found.highest, found.fdr)
    one = "row scores" if what == "rows" else "series scores"
    higher = f"{found.highest:,} {f'{what} score' if found.highest > 1 else one} above all {known}"
    return f"{text}: {higher}; to flag as few of {examples:,} {what} takes {needed:,} normal validation {what}"


def _devices(record: StudyRecord) -> Iterator[str]:
    """What the trials were trained on."""
    from vae_study.report.frames import devices

    for index, (name, trials) in enumerate(devices(record).items()):
        yield f"{'' if index else 'trained on':10} {name}: {trials:,} trial{'s' if trials != 1 else ''}"


def _failures(record: StudyRecord) -> Iterator[str]:
    """The failed trials by class and reason."""
    from vae_study.report.failures import failures

    for index, failure in enumerate(failures(record)):
        trials = f"{len(failure.trials):,} trial{'s' if len(failure.trials) != 1 else ''}"
        reason = failure.reason or (f"{failure.reasons:,} other reasons" if failure.reasons else "no reason is known")
        yield f"{'' if index else 'failed':10} {failure.kind}, {trials}: {reason}"


def _facts(facts: StudySummary, words: str) -> Iterator[str]:
    states = ", ".join(f"{count} {state}" for state, count in facts.states.items() if count)
    yield f"trials     {states or 'none yet'}{f', {facts.kept:,} of them kept by sweeps' if facts.kept else ''}"
    if facts.states["waiting"]:
        yield f"{'':10} continue with: vae-study resume {words}"
    if facts.stopped:
        yield f"stopped    {facts.stopped}; vae-study resume {words} goes on"
    volume = "none yet" if math.isnan(facts.hypervolume) else f"{facts.hypervolume:.4g}"
    if facts.hypervolume == 0:
        volume += f": {NO_HYPERVOLUME}"
    yield f"frontier   {facts.frontier_size} trials, hypervolume {volume}"
    if facts.best_elbo_trial is not None:
        yield f"best ELBO  {facts.best_elbo_nats:.2f} nats (validation), {trial_name(facts.best_elbo_trial)}"
    if facts.champion_trial is not None:
        how = f"chosen by {facts.champion_rule}, scored by {facts.champion_score}"
        yield f"champion   {trial_name(facts.champion_trial)}, {how}"
        if facts.collapsed:
            yield f"{'':10} it is collapsed: its decoder ignores the code, and its score is {facts.collapsed}"
    if facts.promoted:
        yield f"promoted   {facts.promoted}, the champion in MLflow's registry"
    area = facts.test_auroc
    if not math.isnan(area.value):
        yield f"test AUROC {area.value:.3f}, 95 % interval {area.low:.3f} to {area.high:.3f}"
        area, points = facts.average_precision, facts.points
        interval = f"95 % interval {area.low:.3f} to {area.high:.3f}"
        yield f"precision  average {area.value:.3f}, {interval}; by chance {points['prevalence']:.3f}"
        found = f"{points['precision_at_n'] * facts.test_anomalies:.4g} of the {facts.test_anomalies} highest scores"
        real = f"{points['alarm_precision'] * points['alarms']:.4g} of {points['alarms']:.0f} alarms are real"
        real += f" (95 % interval {points['alarm_low']:.0%} to {points['alarm_high']:.0%})"
        stated = points["stated_precision"]
        text = "" if math.isnan(stated) else f"; {stated:.1%} at the stated prevalence"
        yield f"alarms     {real}, {points['alarm_recall']:.1%} of the anomalies{text}; {found} are anomalies"
    yield from (f"{'baseline' if not index else '':10} {line}" for index, line in enumerate(facts.verdicts))
