"""The one call of Ray Tune."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from pipeline.spec.schema import ResourcesSpec
from pipeline.study.messages import Assignment
from pipeline.study.searcher import Ledger, LedgerSearcher
from pipeline.study.trial import VaeTrial


def run_trials(
    ledger: Ledger,
    assign: Callable[[int, dict[str, Any]], Assignment],
    concurrency: int,
    resources: ResourcesSpec,
    folder: Path,
) -> Exception | None:
    """Run trials until the ledger has no more to propose, or Ctrl-C.

    Args:
        ledger: Gives trials and takes what becomes of them.
        assign: Makes the message to a trial's worker from its number and parameters.
        concurrency: The most trials at once.
        resources: What one trial occupies.
        folder: Where Tune keeps its own notes, which nothing else reads.

    Returns:
        The first error in a hook of our own, which ended the study early; else None.
    """
    # One waiting trial a slot, so that all workers start side by side.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrency)
    searcher = LedgerSearcher(ledger, assign, concurrency)
    tuner = tune.Tuner(
        tune.with_resources(VaeTrial, {"cpu": resources.cpu, "gpu": resources.gpu}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
    return searcher.error


def _name(trial: Trial) -> str:
    assignment: Assignment = trial.config["assignment"]
    return Path(assignment.folder).name
