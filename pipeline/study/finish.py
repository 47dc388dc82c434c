"""The end of a study: the champion, the finalists' files, the parent run's last words."""

import pandas as pd

from pipeline.champion import choose
from pipeline.search.pareto import frontier_of
from pipeline.study.files import EXAMPLES, SCORES, WEIGHTS
from pipeline.study.plan import Plan
from pipeline.study.stage import TRIALS_FOLDER
from pipeline.tracking.layout import trial_name
from pipeline.tracking.study import close_study, trials_so_far
from pipeline.tracking.writer import TrackingWriter


def finish_study(plan: Plan, writer: TrackingWriter, is_complete: bool) -> None:
    """Choose the champion, attach the finalists' files, and close the parent run."""
    trials = trials_so_far(writer)
    champion = choose(trials, plan.rule)
    objectives = [objective.metric for objective in plan.spec.objectives]
    frontier: list[int] = frontier_of(trials, objectives, plan.signs)["trial"].tolist()
    finalists = {*frontier, champion}
    for number in trials.loc[trials["state"] == "finished", "trial"]:
        files = [SCORES, *([EXAMPLES, WEIGHTS] if number in finalists else [])]
        folder = plan.folder / TRIALS_FOLDER / trial_name(number)
        writer.log_files(trial_name(number), [folder / file for file in files])
    note = _note(plan, trials, frontier, champion)
    close_study(writer, "finished" if is_complete else "interrupted", note, champion, plan.rule)


def _note(plan: Plan, trials: pd.DataFrame, frontier: list[int], champion: int | None) -> str:
    counts = trials["state"].value_counts().to_dict()
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    chosen = f"Chosen by {plan.rule}: **{trial_name(champion)}**." if champion is not None else "No trial was chosen."
    names = ", ".join(trial_name(number) for number in frontier) or "none"
    return (
        f"{chosen}\n\n{len(trials)} trials on {plan.spec.data.source}: {states}.\n\n"
        f"Frontier ({len(frontier)}): {names}.\n\n`vae-study report {plan.name}` writes the report again."
    )
