"""The end of a study: the champion, the finalists' files, the parent run's last words."""

from pathlib import Path

import pandas as pd

from pipeline.choosing import Pick, choose
from pipeline.choosing.baseline import baseline_scores
from pipeline.choosing.comparison import compare, detectors
from pipeline.search.pareto import frontier_of
from pipeline.study.files import EXAMPLES, SCORES, WEIGHTS
from pipeline.study.plan import Plan
from pipeline.study.stage import TRIALS_FOLDER
from pipeline.tracking import layout
from pipeline.tracking.layout import trial_name
from pipeline.tracking.study import close_study, trials_so_far
from pipeline.tracking.writer import TrackingWriter


def finish_study(plan: Plan, writer: TrackingWriter, is_complete: bool) -> None:
    """Choose the champion, compare it with other choices, attach the finalists' files, and close the parent run."""
    trials = trials_so_far(writer)
    champion = choose(trials, plan.rule, plan.spec.anomaly.score)
    objectives = [objective.metric for objective in plan.spec.objectives]
    frontier: list[int] = frontier_of(trials, objectives, plan.signs)["trial"].tolist()
    _attach(plan, writer, trials, {*frontier, *([champion.trial] if champion else [])})
    if champion is not None:
        _compare(plan, writer, trials, frontier)
    state = "finished" if is_complete else "interrupted"
    close_study(writer, state, _note(plan, trials, frontier, champion), plan.rule, champion)


def _attach(plan: Plan, writer: TrackingWriter, trials: pd.DataFrame, finalists: set[int]) -> None:
    for number in trials.loc[trials["state"] == "finished", "trial"]:
        files = [SCORES, *([EXAMPLES, WEIGHTS] if number in finalists else [])]
        writer.log_files(trial_name(number), [_folder(plan, number) / file for file in files])


def _compare(plan: Plan, writer: TrackingWriter, trials: pd.DataFrame, frontier: list[int]) -> None:
    found = detectors(
        trials, frontier, plan.label_free_rule, plan.spec.anomaly.score, members=plan.spec.ensemble.members
    )
    table, scores = compare(
        found, lambda number: pd.read_parquet(_folder(plan, number) / SCORES), baseline_scores(plan.data)
    )
    writer.log_frame(table, layout.CHOICES_FILE, writer.parent_id)
    writer.log_frame(scores, layout.DETECTORS_FILE, writer.parent_id)


def _folder(plan: Plan, number: int) -> Path:
    return plan.folder / TRIALS_FOLDER / trial_name(number)


def _note(plan: Plan, trials: pd.DataFrame, frontier: list[int], champion: Pick | None) -> str:
    counts = trials["state"].value_counts().to_dict()
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    chosen = "No trial was chosen."
    if champion is not None:
        chosen = f"Chosen by {plan.rule}: **{trial_name(champion.trial)}**, scored by {champion.score}."
    names = ", ".join(trial_name(number) for number in frontier) or "none"
    return (
        f"{chosen}\n\n{len(trials)} trials on {plan.data.source}: {states}.\n\n"
        f"Frontier ({len(frontier)}): {names}.\n\n`vae-study report {plan.name}` writes the report again."
    )
