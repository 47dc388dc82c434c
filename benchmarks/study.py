"""The same configurations of digits, from the command line to the last record in MLflow: ours and what people write.

Every way trains the same configurations with the same network, batch size, optimizer and epochs on the same splits,
logs every epoch to MLflow in a SQLite file, and is timed as a whole process, start-up included. Ours measures eight
scores, keeps checkpoints, models and files as well. Ways are interleaved; medians and ratios count.

A sweep of beta is another study: a few trainings, whose latent sizes are drawn from the same range, with as many models
on their way as `--points`. It is as good as the others where its hypervolume of validation reconstruction and KL is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from vae_study.config.model import ModelConfig
from vae_study.config.study import DataConfig
from vae_study.data import prepare
from vae_study.selection.ranking import hypervolume
from vae_study.tracking.study import environment
from vae_study.vae.evaluation import trade_off_reference

ROOT = Path(__file__).parents[1]
DATA = {
    "source": "digits",
    "anomaly_labels": [8],
    "scale": "unit",
    "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
}


MODEL = {"family": "vae", "network": {"kind": "mlp", "hidden": [256, 128]}, "likelihood": "bernoulli"}
LATENT_DIM = {"low": 2, "high": 32, "log": True, "type": "int"}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 8, 32], help="trials_per_device of our own rows")
    parser.add_argument("--sweeps", type=int, nargs="*", default=[1, 2, 4], help="rows of so many sweeps of beta")
    parser.add_argument("--sweep-epochs", type=int, default=120)
    parser.add_argument("--points", type=int, default=24, help="models that a sweep keeps")
    parser.add_argument("--without", nargs="*", default=[], help="rows to leave out, such as ray_tune")
    return parser.parse_args()


def main() -> None:
    """Measure and print a table."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        data, listed = Path(folder) / "data.npz", Path(folder) / "configurations.json"
        write_data(data)
        listed.write_text(json.dumps(configurations(options.trials)))
        peers = [name for name in ("ray_tune", "plain_optuna") if name not in options.without]
        rows = [*peers, *(f"vae-study, {slots} a device" for slots in options.slots)]
        rows += [f"vae-study, {count} sweeps" for count in options.sweeps]
        found: dict[str, list[tuple[float, dict[str, float]]]] = {row: [] for row in rows}
        for number in range(options.rounds):
            for row in rows:
                place = Path(folder) / f"{number}-{rows.index(row)}"
                place.mkdir()
                found[row].append(timed(row, data, listed, options, place))
                print(f"round {number + 1}: {row}: {found[row][-1][0]:.1f} s", file=sys.stderr)
    print(table(found, options))


def configurations(trials: int) -> list[dict[str, Any]]:
    """Configurations at random, on the scales of the search."""
    random = np.random.default_rng(0)
    betas = np.exp(random.uniform(np.log(0.05), np.log(20), trials))
    sizes = np.exp(random.uniform(np.log(2), np.log(32), trials))
    return [{"beta": float(beta), "latent_dim": round(float(size))} for beta, size in zip(betas, sizes, strict=True)]


def write_data(path: Path) -> None:
    """The splits, for those who read arrays."""
    splits = prepare(DataConfig.model_validate(DATA)).splits
    np.savez(
        path,
        train=splits["train"].x_ND,
        validation=splits["validation"].normal_ND,
        test=splits["test"].x_ND,
        test_is_anomaly=splits["test"].is_anomaly_N,
    )


def timed(
    row: str, data: Path, listed: Path, options: argparse.Namespace, place: Path
) -> tuple[float, dict[str, float]]:
    """Seconds of the whole process, and what its trials came to."""
    epochs, trials, least = options.epochs, options.trials, options.epochs
    if row.endswith("sweeps"):
        sweeps = int(row.split()[1])
        command, trials, least = swept(sweeps, options, place), sweeps * options.points, 0
    elif row.startswith("vae-study"):
        command = [*ours(json.loads(listed.read_text()), epochs, int(row.split()[1]), place)]
    else:
        words = [str(data), str(listed), str(epochs), str(place)]
        command = [sys.executable, "-m", f"benchmarks.peers.{row}", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # Never a Ray of somebody else's that runs here; ours sees to that itself.
    environ |= {"RAY_ADDRESS": "local"} if row == "ray_tune" else {}
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    return seconds, last_metrics(place, trials, least)


def ours(configurations: list[dict[str, Any]], epochs: int, pack: int, place: Path) -> list[str]:
    """The command of a study that tries just these configurations."""
    search = {"beta": {"low": 0.05, "high": 20, "log": True}, "latent_dim": LATENT_DIM}
    more = {"search": search, "enqueue": configurations, "trials": len(configurations)}
    return study_command(place, epochs, trials_per_device=pack, **more)


def swept(sweeps: int, options: argparse.Namespace, place: Path) -> list[str]:
    """The command of a study of sweeps alone, whose models are not trained again."""
    sweep = {"low": 0.05, "high": 5, "points": options.points, "retrain": 0}
    more = {"objective": {"kind": "sweep", "sweep": sweep}, "search": {"latent_dim": LATENT_DIM}, "trials": sweeps}
    return study_command(place, options.sweep_epochs, sampler={"kind": "random"}, **more)


def study_command(place: Path, epochs: int, trials_per_device: int = 1, **more: Any) -> list[str]:
    """The command of a study of this network, with what is its own."""
    config = {
        "study": "study",
        "data": DATA,
        "model": MODEL,
        "training": {"epochs": epochs, "batch_size": 128, "learning_rate": 1e-3},
        "resources": {"cpu": 1, "gpu": 0, "trials_per_device": trials_per_device},
        **more,
    }
    path = place / "config.yaml"
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", "vae_study", "run", str(path), "--home", str(place), "--no-report"]


def last_metrics(place: Path, trials: int, epochs: int) -> dict[str, float]:
    """The means over trials of what MLflow has, and the hypervolume; every trial has to be there, with these epochs."""
    client = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=5000)
    # Ours has a run of the study itself, too, which repeats the champion's metrics.
    runs = [run for run in runs if run.info.run_name != "study"]
    means, points = {}, []
    for name in ("val_reconstruction", "val_kl", "test_auroc"):
        ending = name.replace("test_auroc", "test_auroc/elbo").replace("val_", "val/")
        values = [run.data.metrics[key] for run in runs for key in (name, ending) if key in run.data.metrics]
        assert len(values) == trials, f"{name}: {len(values)} trials of {trials}"
        means[name] = statistics.fmean(values)
        points.append(values)
    corner = trade_off_reference(prepare(DataConfig.model_validate(DATA)), [ModelConfig.model_validate(MODEL)])
    means["hypervolume"] = hypervolume(np.array(points[:2]).T, [*corner.values()])
    for run in runs:
        key = next((key for key in ("val_kl", "val/kl") if key in run.data.metrics), None)
        assert not epochs or key is None or len(client.get_metric_history(run.info.run_id, key)) >= epochs
    return means


def table(found: dict[str, list[tuple[float, dict[str, float]]]], options: argparse.Namespace) -> str:
    """Markdown: medians of seconds, ratios within each round, and what the trials came to."""
    about = environment()
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "ray", "optuna"))
    peers = [row for row in found if not row.startswith("vae")]
    lines = [
        f"{options.trials} trials of {options.epochs} epochs, sweeps of {options.sweep_epochs} epochs with "
        f"{options.points} models each, {os.cpu_count()} cores; medians of {options.rounds} "
        f"interleaved rounds, {date.today()}; {versions}",
        "",
        "| | s | "
        + "".join(f"times {row} | " for row in peers)
        + "validation reconstruction | validation KL | test AUROC of the ELBO | hypervolume |",
        "|---|" + "---|" * (5 + len(peers)),
    ]
    for row, measured in found.items():
        ratios = [
            f"{statistics.median(other[0] / own[0] for own, other in zip(measured, found[peer], strict=True)):.1f}"
            for peer in peers
        ]
        means = [statistics.fmean(one[1][name] for one in measured) for name in measured[0][1]]
        cells = [row, f"{statistics.median(seconds for seconds, _ in measured):.0f}", *ratios]
        cells += [f"{means[0]:.2f}", f"{means[1]:.2f}", f"{means[2]:.3f}", f"{means[3]:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
