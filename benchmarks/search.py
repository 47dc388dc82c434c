"""Which search finds the frontier with the fewest epochs of training: Markdown.

Four workers, simulated side by side in one process, train real models until a budget of epochs is spent. Compared are
tpe with stopping on the frontier (also with crowded fronts cut to their most spread out), tpe alone, random search
alone, and tpe with Ray's own ASHA on the ELBO.
"""

import argparse
import heapq
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from vae_study.api import check_study
from vae_study.search import early_stopping
from vae_study.search.early_stopping import among_best_fronts, due
from vae_study.search.study_store import StudyStore
from vae_study.selection.ranking import hypervolume, non_dominated
from vae_study.study.messages import Task, rungs_of
from vae_study.study.plan import Plan
from vae_study.study.trial_run import trial_seed
from vae_study.tracking.schema import trial_name
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
PARETO = "early_stopping={kind: pareto}"
CUTTING = "tpe + pareto that cuts crowded fronts"
METHODS = {
    "tpe + pareto": [PARETO],
    CUTTING: [PARETO],
    "tpe": ["early_stopping={kind: none}"],
    "random": ["early_stopping={kind: none}", "sampler.kind=random"],
    "tpe + Ray's ASHA on the ELBO": ["early_stopping={kind: none}"],
}
BASELINE = "random"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="an .npz with X and y, beside digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=48, help="the budget in whole trials")
    parser.add_argument("--epochs", type=int, default=54, help="of a whole trial")
    parser.add_argument("--workers", type=int, default=4, help="trials side by side")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="studies at once, a thread each")
    parser.add_argument("--output", type=Path, help="CSV with every point of every curve")
    return parser.parse_args()


@dataclass
class Running:
    """A running trial: its model, its epochs so far, its rungs."""

    number: int
    model_batch: ModelBatch
    rungs: tuple[int, ...]
    history: list[tuple[int, float]]
    metrics: dict[str, float]

    @property
    def has_finished(self) -> bool:
        return self.model_batch.epoch >= self.model_batch.training.epochs

    def advance(self) -> None:
        """Train one epoch."""
        self.metrics = self.model_batch.train_epoch()[0]
        self.history.append((self.model_batch.epoch, self.metrics["train/kl_weight"]))


class Search:
    """One study until its budget is spent."""

    def __init__(self, plan: Plan, url: str, method: str):
        self.plan, self.store = plan, StudyStore(plan.config, plan.name, url)
        self.asha = None
        if "ASHA" in method:
            config = plan.config.training
            self.asha = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="val/elbo",
                mode="max",
                max_t=config.epochs,
                grace_period=max(1, round(config.epochs / 27)),
                reduction_factor=3,
            )

    def begin(self) -> Running:
        """The next trial."""
        proposal = self.store.ask()
        config = self.plan.config
        setup = ModelSetup(config=config.trial(proposal.parameters), seed=trial_seed(config.seed, proposal.number))
        task = Task(key=trial_name(proposal.number), number=proposal.number, parameters=dict(proposal.parameters))
        if self.asha:
            self.asha.on_trial_add(None, SimpleNamespace(trial_id=task.key, config={}))
        return Running(proposal.number, ModelBatch([setup], self.plan.data), rungs_of(config, task), [], {})

    def goes_on(self, trial: Running) -> bool:
        """Whether a trial is not stopped after its last epoch."""
        if self.asha:
            told = {"epoch": trial.model_batch.epoch, **trial.metrics}
            known = SimpleNamespace(trial_id=trial_name(trial.number))
            return bool(self.asha.on_trial_result(None, known, told) == TrialScheduler.CONTINUE)
        rung = due(trial.rungs, reversed(trial.history))
        if rung is None:
            return True
        return self.store.should_continue(trial.number, rung, trial.metrics, is_late=rung < trial.model_batch.epoch)

    def curve(self, budget: int, workers: int) -> Iterator[dict[str, float]]:
        """After each trial's end: epochs spent, trials by state, and the finished trials' hypervolume."""
        clock = [(0, slot, self.begin()) for slot in range(workers)]
        spent = 0
        while spent < budget:
            now, slot, trial = heapq.heappop(clock)
            trial.advance()
            spent += 1
            if not np.isfinite(list(trial.metrics.values())).all():
                self.store.fail(trial.number, "diverged")
            elif trial.has_finished:
                self.store.finish(trial.number, trial.metrics)
            elif not self.goes_on(trial):
                self.store.stop(trial.number, trial.metrics)
            else:
                heapq.heappush(clock, (now + 1, slot, trial))
                continue
            heapq.heappush(clock, (now + 1, slot, self.begin()))
            yield {"epochs": spent, **self._so_far()}

    def _so_far(self) -> dict[str, float]:
        counts = self.store.counts()
        values = np.asarray(self.store.finished_values()).reshape(-1, len(self.plan.signs)) * self.plan.signs
        corner = np.asarray(self.plan.signs) * list(self.plan.reference.values())
        front = values[non_dominated(values)]
        ends = {"least": front[:, 0].min(), "most": front[:, 0].max()} if len(front) else {}
        volume = hypervolume(values, list(corner))
        return {"finished": counts["finished"], "pruned": counts["pruned"], "hypervolume": volume, **ends}


def measure(source: str, method: str, seed: int, options: argparse.Namespace) -> pd.DataFrame:
    """One study's curve."""
    torch.set_num_threads(1)
    if method == CUTTING:
        early_stopping.RULES = {**early_stopping.RULES, "pareto": partial(among_best_fronts, spares_front=False)}
    settings = [*METHODS[method], f"seed={seed}", f"sampler.seed={seed}", f"training.epochs={options.epochs}"]
    # Stopped trials leave epochs for further ones.
    settings += [f"trials={100 * options.trials}", "confirm=null"]
    if source != "digits":
        data = f"{{source: npz, path: {options.table.resolve()}, scale: standard}}"
        settings += [f"data={data}", "model.likelihood=gaussian", "model.network.hidden=[64, 32]"]
    with tempfile.TemporaryDirectory() as folder:
        plan = check_study(CONFIG, settings, name="search", home=Path(folder))
        search = Search(plan, f"sqlite:///{folder}/study.db", method)
        curve = pd.DataFrame(search.curve(options.trials * options.epochs, options.workers))
    return curve.assign(source=source, method=method, seed=seed)


def epochs_to_reach(curve: pd.DataFrame, level: float) -> float:
    """Epochs spent until a hypervolume was reached; infinite where it never was."""
    reached = curve.loc[curve["hypervolume"] >= level, "epochs"]
    return float(reached.min()) if len(reached) else float("inf")


def rows(curves: pd.DataFrame, budget: int) -> Iterator[dict[str, Any]]:
    """A row a data set and method, medians over the seeds."""
    for (source, method), some in curves.groupby(["source", "method"], sort=False):
        found = []
        for _seed, curve in some.groupby("seed"):
            others = curves.query("source == @source and seed == @_seed and method == @BASELINE")
            level = others["hypervolume"].iloc[-1]
            last = curve.iloc[-1]
            share = epochs_to_reach(curve, level) / budget
            found.append(
                [share, last["hypervolume"] / level, last["least"], last["most"], last["finished"], last["pruned"]]
            )
        medians, shares = np.median(found, axis=0), np.asarray(found)[:, 0]
        yield {
            "data": source,
            "search": method,
            "share of the epochs": f"{medians[0]:.2f} ({shares.min():.2f} to {shares.max():.2f})",
            "hypervolume": f"{medians[1]:.3f}",
            "frontier from, nats": f"{medians[2]:.1f}",
            "to, nats": f"{medians[3]:.1f}",
            "finished": f"{medians[4]:.0f}",
            "pruned": f"{medians[5]:.0f}",
        }


def main() -> None:
    """Measure all and print a table."""
    options = arguments()
    sources = ["digits", *([options.table.stem] if options.table else [])]
    runs = list(product(sources, options.methods, range(options.seeds)))
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        curves = pd.concat(pool.map(measure, *zip(*runs, strict=True), [options] * len(runs)))
    if options.output:
        curves.to_csv(options.output, index=False)
    table = list(rows(curves, options.trials * options.epochs))
    budget = f"{options.trials} trials of {options.epochs} epochs"
    print(f"{date.today()}: {budget}, {options.workers} workers, {options.seeds} seeds\n")
    print("| " + " | ".join(table[0]) + " |")
    print("|" + "---|" * len(table[0]))
    for row in table:
        print("| " + " | ".join(row.values()) + " |")


if __name__ == "__main__":
    main()
