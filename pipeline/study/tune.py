"""The one call of Ray Tune."""

import os
import tempfile
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from pipeline.spec.schema import ResourcesSpec
from pipeline.study.halt import Halt
from pipeline.study.local_ray import whole_device
from pipeline.study.searcher import LedgerScheduler, LedgerSearcher

# For so many workers that wait the cluster may grow at a time; Ray Tune looks at all of them again and again.
MOST_WAITING = 64


class _Ends(tune.Stopper):
    """Ends Tune's run when the study is to end; its workers are then stopped one by one, and save their trials."""

    def __init__(self, halt: Halt, searcher: LedgerSearcher):
        self.halt, self.searcher = halt, searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.halt.why is not None or self.searcher.is_done

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles all that it is given, for a restore that is never used."""
        return {}


def run_workers(
    searcher: LedgerSearcher, workers: int, resources: ResourcesSpec, halt: Halt, trainable: type[tune.Trainable]
) -> None:
    """Keep workers at work until there is none left to do, or the study is to end.

    Args:
        searcher: Has them started, and gives them their orders.
        workers: The most that are to start side by side.
        resources: What one occupies.
        halt: Says when to end early.
        trainable: What a worker is.
    """
    os.environ |= {
        # One waiting worker a slot, so that all start side by side.
        "TUNE_MAX_PENDING_TRIALS_PG": str(min(workers, MOST_WAITING)),
        # Signals, results and errors are the driver's own business.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    ordinary = tune.PlacementGroupFactory([{"CPU": resources.cpu, "GPU": resources.gpu}])
    alone = tune.PlacementGroupFactory([whole_device(resources)])
    # With variables of their own (for a library that is not used here), workers could not be the processes that are
    # there already.
    class_cache.DEFAULT_ENV_VARS = {}
    # Ray writes what it hands to workers into its logs: keys to object stores are each node's own.
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS_" not in name}
    # Tune's own notes are never read again.
    with tempfile.TemporaryDirectory(prefix="vae-study-tune-") as notes:
        tune.Tuner(
            tune.with_resources(trainable, lambda config: alone if config["assignment"].is_alone else ordinary),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=LedgerScheduler(searcher),
                num_samples=-1,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=notes,
                verbose=0,
                stop=_Ends(halt, searcher),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _name(trial: Trial) -> str:
    return f"worker-{trial.trial_id}"
