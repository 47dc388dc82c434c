"""How many kernels a GPU is asked for, and how often the host waits for it, counted on the pretend GPU of the tests.

python -m benchmarks.launches
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace

from vae_study.config.study import DiagnosticsConfig
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of

from benchmarks.peers.environment import machine
from tests.pretend_gpu import PRETEND, PretendGpu
from tests.vae.builders import digits_data, first, model_setup
from tests.vae.test_families import LIKELIHOODS, VARIANTS

ROWS = {"train": 200, "validation": 100, "test": 100}


def main(words: Sequence[str] | None = None) -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", type=int, default=4, help="size of the batch")
    parser.add_argument("--only", nargs="+", choices=VARIANTS | LIKELIHOODS, help="configurations to count")
    asked = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    digits = digits_data()
    data = replace(digits, splits={name: first(split, ROWS[name]) for name, split in digits.splits.items()})
    print(f"{machine()}, batches of {asked.models}\n")
    heads = ("kernels a step", "kernels a measuring", "waits a step", "waits an epoch", "waits a checkpoint")
    print(f"| | {' | '.join((*heads, 'kernels an outcome', 'waits an outcome'))} |\n|---|{'---|' * 7}")
    for name, values in (VARIANTS | LIKELIHOODS).items():
        if asked.only is None or name in asked.only:
            print(f"| {name} | {' | '.join(map(str, counts(values, data, asked.models)))} |", flush=True)


def counts(values: dict, data: object, models: int) -> tuple[int, ...]:
    """The numbers of a row of the table."""
    sizes = {"training__batch_size": 32, "latent_dim": 4}
    with PretendGpu() as gpu:
        batch = ModelBatch([model_setup(k, **sizes, **values) for k in range(models)], data, device=PRETEND)
        gpu.count_calls("step", batch, "_step")
        with gpu.counting("epoch"):
            batch.train_epoch()
        with gpu.counting("measuring"):
            batch.measure("validation")
        with gpu.counting("checkpoint"):
            batch.state(0)
        with gpu.counting("outcome"):
            outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))
    steps = batch.steps_per_epoch
    return (
        gpu.launches("step").total() // steps,
        gpu.launches("measuring").total(),
        gpu.waits("step").total() // steps,
        gpu.waits("epoch").total(),
        gpu.waits("checkpoint").total(),
        gpu.launches("outcome").total() // models,
        gpu.waits("outcome").total() // models,
    )


if __name__ == "__main__":
    main()
