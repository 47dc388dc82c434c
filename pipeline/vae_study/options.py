"""The options that several commands of the command line share, as decorators."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


home = click.option(
    "--home",
    metavar="PLACE",
    envvar="VAE_STUDY_HOME",
    # storage.DEFAULT_HOME, which takes pyarrow's import: --help would wait for it.
    default="studies",
    show_default=True,
    help="Folder of all studies; also s3://bucket/...",
)
tracking = click.option(
    "--tracking-uri", metavar="URI", help="MLflow's store.  [default: MLFLOW_TRACKING_URI, else sqlite in HOME]"
)
places = _together(home, tracking)
address = click.option(
    "--address",
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    default="http://127.0.0.1:8265",
    show_default=True,
    help="The cluster's dashboard.",
)
config_options = _together(
    click.argument("config", type=click.Path(path_type=Path)),
    click.option("--name", help="The study's name.  [default: the config's `study`]"),
    click.option("--trials", type=int, help="Budget of trials."),
    click.option("--epochs", type=int, help="Epochs of each trial."),
    click.option("--seed", type=int, help="Seed of the sampler and of all trials."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any key of the study file; null removes it."
    ),
)


def config(function: Any) -> Any:
    """A command with the argument CONFIG and its options, which it gets as `config`, `name` and `overrides`."""

    @wraps(function)
    def command(
        settings: tuple[str, ...], trials: int | None, epochs: int | None, seed: int | None, **others: Any
    ) -> None:
        given = {"trials": trials, "training.epochs": epochs, "seed": seed, "sampler.seed": seed}
        function(
            overrides=[*settings, *(f"{key}={value}" for key, value in given.items() if value is not None)], **others
        )

    return config_options(command)


class TrialCount(click.ParamType[int | str]):
    """A number of trials, 1 or more, or `max`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or "max"."""
        if value == "max":
            return "max"
        if not str(value).isdecimal() or int(value) == 0:
            self.fail(f"got {value!r}, expected a number of trials, 1 or more, or max", param, ctx)
        return int(value)


class GpuNumbers(click.ParamType[tuple[int, ...]]):
    """Numbers of GPUs with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers, each once."""
        words = str(value).split(",")
        if not all(word.strip().isdecimal() for word in words):
            self.fail(f"got {value!r}, expected numbers of GPUs as nvidia-smi has them, such as 2,3", param, ctx)
        return tuple(dict.fromkeys(int(word) for word in words))


concurrency = click.option(
    "--concurrency",
    type=TrialCount(),
    metavar="NUMBER|max",
    help="Largest number of parallel trials; max: what an autoscaling cluster can hold.  [default: what fits now]",
)
price = click.option("--price-per-hour", type=float, metavar="PRICE", help="What one worker costs an hour.")
limits = _together(
    click.option("--hours", type=float, help="End the training after so many hours; 0.5 are 30 minutes."),
    click.option("--max-cost", type=float, metavar="COST", help="End it when all workers have cost as much."),
    price,
)
study_storage = click.option(
    "--study-storage",
    metavar="URL",
    envvar="VAE_STUDY_STORAGE",
    help="Optuna's store.  [default: sqlite in HOME/NAME]",
)
model = click.option(
    "--model",
    metavar="NAME",
    help="champion, ensemble, or one such as trial-0007.  [default: champion; of a study without labels ensemble]",
)
running = _together(
    study_storage,
    click.option("--ray-address", metavar="ADDRESS", help="A Ray cluster.  [default: RAY_ADDRESS, else a local Ray]"),
    click.option("--gpus", type=GpuNumbers(), metavar="2,3", help="Of this machine, use these only.  [default: all]"),
    concurrency,
    limits,
    click.option("--no-report", is_flag=True, help="Do not write the report."),
)
