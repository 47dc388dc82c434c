"""The trials that may be selected: their files are kept while the study runs, and attached to MLflow at its end."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from vae_study.anomaly.detection import alarm_budget
from vae_study.detector.detector import Detector
from vae_study.detector.export import pack
from vae_study.detector.series import alarm_metrics, series_frame
from vae_study.errors import UserError
from vae_study.metrics import AREAS, OF_STUDY, metric_of, shown_in
from vae_study.report.sections.trade_off import frontier_png
from vae_study.search.study_store import StudyStore
from vae_study.selection.comparison import Baseline, Candidate, candidates, compare
from vae_study.selection.ranking import Selection, choose, frontier_of, ranked
from vae_study.study.messages import Task, TrialReport
from vae_study.study.plan import Plan
from vae_study.study.trial_files import (
    EXAMPLES,
    OF_FINALISTS,
    SCORER,
    SCORES,
    WEIGHTS,
    fetch,
    holders,
    read_code,
    read_scores,
    subfolders,
)
from vae_study.tracking import schema
from vae_study.tracking.code import write_pyfunc
from vae_study.tracking.events import PARENT, ChampionChosen, ModelLogged
from vae_study.tracking.note import result_note, trials_view
from vae_study.tracking.schema import trial_name
from vae_study.tracking.study import close_study
from vae_study.tracking.writer import TrackingWriter
from vae_study.vae.disentanglement import udr

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SWEEPS = 5.0
EXAMPLE_ROWS = 5

Parameters = Callable[[int], Mapping[str, Any]]


class Retention:
    """Deletes files while the study runs, in a thread, since a remote store may be slow.

    A trial that is dominated and is not among the best by any rule will never be selected: its weights are deleted at
    once. Its scores stay.
    """

    def __init__(self, plan: Plan, trials: pd.DataFrame):
        """Start from the trials of earlier drivers, one row per trial."""
        self.plan = plan
        self._rows: list[Mapping[Any, Any]] = [*trials.loc[trials["state"] == "finished"].to_dict("records")]
        self._with_weights = {int(row["trial"]) for row in self._rows}
        self._swept, self._has_looked = time.monotonic(), False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retention")

    def ended(self, task: Task, report: TrialReport, metrics: Mapping[str, float]) -> None:
        """Delete the checkpoints of a trial that has ended, and now and then the weights of dominated trials."""
        self.drop_checkpoints(task.key)
        if report.state == "finished":
            feasible = self.plan.config.is_feasible(metrics)
            self._rows.append({"trial": task.number, "state": "finished", "feasible": feasible, **metrics})
            self._with_weights.add(task.number)
        if time.monotonic() - self._swept > SECONDS_BETWEEN_SWEEPS:
            self._order_sweep()

    def drop_checkpoints(self, key: str) -> None:
        """Delete the checkpoints of a task."""
        self._thread.submit(self._clear, key)

    def drop_leftovers(self, ended: Set[str]) -> None:
        """Delete the checkpoints of tasks that ended just before an earlier driver died."""
        if ended:
            self._thread.submit(self._clear_leftovers, ended)

    def close(self) -> None:
        """Sweep a last time, and wait for it."""
        self._order_sweep()
        self._thread.shutdown(wait=True)

    def _order_sweep(self) -> None:
        self._swept = time.monotonic()
        # A trial whose weights were deleted cannot become a finalist again: do not compare it again. One feasible
        # trial is always kept in the table, because without any the infeasible trials would become eligible.
        anchor = next((row for row in self._rows if row.get("feasible", True)), None)
        self._rows = [row for row in self._rows if row is anchor or int(row["trial"]) in self._with_weights]
        if self._rows:
            self._thread.submit(self._sweep, [*self._rows])

    def _clear(self, key: str) -> None:
        try:
            (self.plan.checkpoints / key).clear()
        except OSError as error:
            logger.warning("the checkpoints of %s stay: %s", key, error)

    def _clear_leftovers(self, ended: Set[str]) -> None:
        try:
            for key in ended & set(subfolders(self.plan.checkpoints)):
                self._clear(key)
        except OSError as error:
            logger.warning("checkpoints of tasks that have ended may stay: %s", error)

    def _sweep(self, rows: Sequence[Mapping[Any, Any]]) -> None:
        # A trial that ended after this sweep was ordered is not among the rows, and may be better than all of them.
        known = self._with_weights & {int(row["trial"]) for row in rows}
        try:
            if not self._has_looked:
                # An earlier driver has deleted most of them: to do so again would cost an object store hours.
                there = holders(self.plan.trials, OF_FINALISTS)
                self._with_weights -= {number for number in known if trial_name(number) not in there}
                known, self._has_looked = known & self._with_weights, True
            for number in known - finalists(self.plan, pd.DataFrame(rows)):
                for name in OF_FINALISTS:
                    (self.plan.trials / trial_name(number)).remove(name)
                self._with_weights.discard(number)
        except OSError as error:
            logger.warning("weights of trials that will not be chosen stay: %s", error)


def frontier_numbers(plan: Plan, trials: pd.DataFrame) -> list[int]:
    """The numbers of the frontier's trials."""
    objectives = [objective.metric for objective in plan.config.objectives]
    numbers: list[int] = frontier_of(trials, objectives, plan.signs)["trial"].tolist()
    return numbers


def candidates_of(plan: Plan, trials: pd.DataFrame, frontier: Sequence[int]) -> list[Candidate]:
    """The candidates of a study, by the rules and ensembles of its config."""
    config = plan.config
    rules = plan.label_free_rule, plan.label_rule
    return candidates(trials, frontier, rules, config.score, config.ensemble.members, plan.classes)


def finalists(plan: Plan, trials: pd.DataFrame) -> set[int]:
    """The trials that may still be selected: the frontier, and those that any rule or ensemble selects."""
    frontier = frontier_numbers(plan, trials)
    return {*frontier, *(one.trial for found in candidates_of(plan, trials, frontier) for one in found.selections)}


def finish_study(
    plan: Plan, writer: TrackingWriter, parameters: Parameters, is_complete: bool, stopped: str = ""
) -> None:
    """Choose the champion, compare it with other choices, attach the finalists' files, and close the parent run.

    Args:
        plan: The study's.
        writer: Of its runs.
        parameters: Gives the configuration of a trial by its number.
        is_complete: Whether all trials are done, or those that are are enough; only then are models attached.
        stopped: Why fewer are enough; empty if all are done.
    """
    trials = writer.trials()
    table = pd.DataFrame(columns=["rule"])
    champion = choose(trials, plan.rule, plan.config.score, plan.classes)
    of_alarms: Mapping[str, float] = {}
    frontier = frontier_numbers(plan, trials)
    finalists = sorted({*frontier, *([champion.trial] if champion else [])})
    for number in trials.loc[trials["state"] == "finished", "trial"]:
        name, names = trial_name(number), [SCORES, *([EXAMPLES, WEIGHTS, SCORER] if number in finalists else [])]
        writer.log_files(name, fetch(plan.trials / name, names, writer.outbox / name))
    if champion is not None:
        alarms = alarm_budget(plan.config.anomaly.model_dump()["alarms"], len(plan.data.splits["test"].row_N))
        found, baseline = candidates_of(plan, trials, frontier), Baseline.of(plan.data)
        table, scores = compare(found, lambda number: _scores(plan, number), baseline.scores, plan.rule, alarms)
        writer.log_frame(table, schema.CHOICES_FILE)
        writer.log_frame(scores, schema.DETECTORS_FILE)
        if is_complete:
            others = [one for one in found if one.name in OF_STUDY]
            _log_models(plan, writer, parameters, baseline, [*_singles(plan, trials, finalists), *others])
            name = trial_name(champion.trial)
            note = f"{name} of {plan.name}, chosen by {plan.rule}, scored by {champion.score}."
            writer.log(ChampionChosen(name=name, rule=plan.rule, note=note))
            of_alarms = _log_series(plan, writer, name)
    agreement = _udr(plan, writer)
    if len(agreement):
        writer.log_frame(agreement, schema.UDR_FILE)
    picture = frontier_png(plan.name, plan.config.plain(), trials, plan.reference, champion)
    if picture is not None:
        writer.log_bytes(picture, schema.PICTURE_FILE)
    about = plan.config.plain(), plan.name, plan.data.summary(), trials, table, plan.rule, champion
    note = result_note(*about, is_complete, None if picture is None else schema.PICTURE_FILE, stopped)
    view, own = trials_view(plan.config.plain(), plan.rule, champion), {}
    if champion is not None:
        # Another champion of an earlier end may have had a parameter that this one does not have.
        own = dict.fromkeys(plan.config.search, "–") | dict(parameters(champion.trial))
        (row,) = trials[trials["trial"] == champion.trial].to_dict("records")
        measured = {name: row.get(name, math.nan) for name in _metrics_of((champion,), plan.config.followed_score)}
        measured |= {f"test/{metric}": value for metric, value in of_alarms.items()}
        of_champion = agreement[agreement["trial"].eq(champion.trial) & agreement["seed"].eq(0)]
        measured |= dict.fromkeys([schema.UDR] * len(of_champion), float(of_champion[schema.UDR].sum()))
        writer.log_curves(writer.curve_step(), {name: x for name, x in measured.items() if math.isfinite(x)})
    state = "finished" if is_complete else "interrupted"
    close_study(writer, state, note, view, plan.rule, champion, own, stopped)


def _udr(plan: Plan, writer: TrackingWriter) -> pd.DataFrame:
    """How far each seed of a confirmed trial agrees with its others: `trial`, `seed` (0 its own) and `test/udr`."""
    rows = []
    confirmations = writer.confirmations()
    for number in sorted({*map(int, confirmations["trial"])}):
        seeds = sorted({*map(int, confirmations.loc[confirmations["trial"].eq(number), "seed"])})
        names = {0: trial_name(number)} | {seed: schema.repeat_name(number, seed) for seed in seeds}
        codes = {seed: code for seed, name in names.items() if (code := read_code(plan.trials / name)) is not None}
        found = udr([code["code"] for code in codes.values()], [code["kl"] for code in codes.values()])
        pairs = zip(codes, found.tolist(), strict=True)
        rows += [(number, seed, value) for seed, value in pairs if math.isfinite(value)]
    return pd.DataFrame(rows, columns=["trial", "seed", schema.UDR])


def _scores(plan: Plan, number: int) -> pd.DataFrame:
    return read_scores(plan.trials / trial_name(number))


def _singles(plan: Plan, trials: pd.DataFrame, numbers: Sequence[int]) -> Iterator[Candidate]:
    """Each of some trials with the score that the study's rule gives it."""
    selected = {one.trial: one for one in ranked(trials, plan.rule, plan.config.score, plan.classes)}
    for number in numbers:
        one = selected.get(number, Selection(number, plan.config.followed_score, float("nan")))
        yield Candidate(name=trial_name(number), needs_labels=False, selections=(one,))


def _log_models(
    plan: Plan, writer: TrackingWriter, parameters: Parameters, baseline: Baseline, choices: Sequence[Candidate]
) -> None:
    """Attach a model of each choice: of a single trial to its run, any other to the parent run."""
    for choice in choices:
        try:
            folder = _build(plan, writer.outbox, parameters, baseline, choice)
        except (UserError, OSError) as error:
            logger.warning("there is no model of %s: %s", choice.name, error)
            continue
        pairs = [[one.trial, one.score] for one in choice.selections]
        tags = {schema.SELECTIONS: json.dumps(pairs)}
        if len(pairs) == 1:
            tags |= {schema.TRIAL: str(pairs[0][0]), schema.CHAMPION_SCORE: str(pairs[0][1])}
        key = PARENT if choice.name in OF_STUDY else choice.name
        about = {"tags": tags, "metrics": _metrics_of(choice.selections, plan.config.followed_score)}
        writer.log(ModelLogged(run=key, name=choice.name, folder=str(folder), about=about))


def _log_series(plan: Plan, writer: TrackingWriter, name: str) -> Mapping[str, float]:
    """Attach what a model that is packed makes of the series of test, and give the metrics of its alarms."""
    if plan.data.preprocessing.sequence is None:
        return {}
    try:
        detector = Detector.load(writer.outbox / "models" / name / "packed")
        frame = series_frame(detector, plan.data.splits["test"])
    except (UserError, OSError) as error:
        logger.warning("the report has no series of test: %s", error)
        return {}
    if frame is None:
        return {}
    writer.log_frame(frame, schema.SERIES_FILE, key=name)
    return alarm_metrics(frame, detector)


def _metrics_of(selections: Sequence[Selection], followed: str) -> Sequence[str]:
    """The metrics of its trial that stand beside a model; of AUROC and average precision those of its own score."""
    if len(selections) != 1:
        return ()
    score = selections[0].score
    if score == followed:
        return shown_in("model")
    own = [f"{split}_{area}/{score}" for split in ("val", "test") for area in AREAS]
    return [*(name for name in shown_in("model") if "labels" not in metric_of(name).needs), *own]


def _build(plan: Plan, outbox: Path, parameters: Parameters, baseline: Baseline, choice: Candidate) -> Path:
    """Build a model in the study's outbox, where it stays until it is uploaded, and return its folder."""
    folder = outbox / "models" / choice.name
    shutil.rmtree(folder, ignore_errors=True)

    def files(number: int) -> dict[str, Path]:
        name = trial_name(number)
        return {path.name: path for path in fetch(plan.trials / name, (WEIGHTS, SCORER), outbox / name)}

    configs = {one.trial: plan.config.trial(parameters(one.trial)) for one in choice.selections}
    raw = baseline if choice.with_baseline else None
    fdr = plan.config.anomaly.fdr
    pack(folder / "packed", plan.data, configs, choice, files, lambda number: _scores(plan, number), fdr, raw)
    rows_ND = plan.data.splits["validation"].normal_ND[:EXAMPLE_ROWS]
    output, sequence = Detector.load(folder / "packed").score(rows_ND), plan.data.preprocessing.sequence
    write_pyfunc(folder / "packed", plan.data.frame(rows_ND), output, folder / "model", sequence)
    return folder / "model"


def to_retrain(plan: Plan, store: StudyStore, writer: TrackingWriter) -> list[int]:
    """The trials that train the best models of sweeps again, by the study's rule, and that have not ended yet."""
    trials = writer.trials()
    kept = [one.number for one in store.points() if "sweep" in store.origin(one.number)]
    sweeps = {store.origin(number)["sweep"] for number in kept}
    found = ranked(trials[trials["trial"].isin({*kept, *sweeps})], plan.rule, plan.config.score, plan.classes)
    numbers = store.retrain([one.trial for one in found[: plan.config.objective.sweep.retrain]])
    return [number for number in numbers if store.is_open(number)]


def repeats_of(plan: Plan, store: StudyStore, writer: TrackingWriter) -> list[Task]:
    """The repeats that the config asks for and that are not done yet, the best trial first."""
    confirm = plan.config.confirm
    if not confirm.top:
        return []
    ranks = ranked(writer.trials(), plan.rule, plan.config.score, plan.classes)
    best = [one.trial for one in ranks[: confirm.top]]
    wanted = [(number, seed) for number in best for seed in range(1, confirm.seeds + 1)]
    for number, seed in wanted:
        # Where the journal and MLflow's run are lost, the repeat's folder has it.
        writer.restore(schema.repeat_name(number, seed), store.parameters(number))
    done = set(writer.confirmations()[["trial", "seed"]].itertuples(index=False, name=None))
    return [
        Task(key=schema.repeat_name(number, seed), number=number, repeat=seed, parameters=store.parameters(number))
        for number, seed in wanted
        if (number, seed) not in done
    ]
