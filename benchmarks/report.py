"""How long `vae-study report` takes, as whole processes from the shell, on a made-up study in MLflow.

    python benchmarks/report.py --trials 1000

The study is written by the code that real studies are written by; the models' scores and pictures are those of one
trained model. A report reads the files of the parent run, which have all trials and epochs; their runs make MLflow's
database as large as it would be, and take a third of a second each. Prints a Markdown table: the first report, the same
again (served as it is), and with --force.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from vae_study.api import check_study
from vae_study.config.model import TrialConfig
from vae_study.selection.comparison import Baseline, candidates, compare
from vae_study.selection.ranking import Selection, frontier_of
from vae_study.storage import Folder
from vae_study.study.plan import Plan
from vae_study.study.trial_files import EXAMPLES, SCORES, read_scores, write_outcome
from vae_study.tracking import schema
from vae_study.tracking.record import EpochRecord, RunRecord, trials_frame
from vae_study.tracking.store import open_client, runs_by_key
from vae_study.tracking.study import close_study, open_study
from vae_study.tracking.writer import TrackingWriter
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import ModelSetup

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
NAME = "report"
STATES, SHARES = ("finished", "pruned", "failed"), (0.8, 0.15, 0.05)
SCORE, RULE = "elbo", "val/auroc"
# By a small process in between: the most memory of a process counts what it was forked from.
MEASURE = """
import json, os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([status, time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--runs", type=int, default=1000, help="trials that have a run in MLflow, the others are in its files only"
    )
    parser.add_argument("--home", type=Path, help="keep the study here, or take the one that is here already")
    return parser.parse_args()


def configuration(random: np.random.Generator) -> dict[str, float | int | str]:
    """A place in the search space of the digits."""
    schedule, bits = str(random.choice(["none", "linear", "cyclical"])), str(random.choice(["none", "total"]))
    return {
        "objective.beta": float(np.exp(random.uniform(np.log(0.05), np.log(20)))),
        "model.latent_dim": int(np.exp(random.uniform(np.log(2), np.log(33)))),
        "objective.kl_annealing.schedule": schedule,
        **({"objective.kl_annealing.warmup": float(random.uniform(0.1, 0.5))} if schedule == "linear" else {}),
        "objective.free_bits.kind": bits,
        **({"objective.free_bits.nats": float(np.exp(random.uniform(-4, 0)))} if bits == "total" else {}),
    }


def curves(random: np.random.Generator, parameters: dict[str, float | int | str], epochs: int) -> pd.DataFrame:
    """A plausible course of training: a row an epoch with 12 metrics, nats where they are any."""
    beta, size = float(parameters["objective.beta"]), int(parameters["model.latent_dim"])
    epoch_E = np.arange(1, epochs + 1)
    settled_E = 1 - np.exp(-epoch_E / 12)
    rate = (5 + 30 * (1 - np.exp(-size / 8))) / (1 + beta**1.1) * random.uniform(0.75, 1.1)
    kl_E = np.maximum(rate * settled_E + random.normal(0, 0.05, epochs), 0.005)
    reconstruction_E = 14.6 + 12.2 * np.exp(-rate / 11) + 12 * (1 - settled_E) + random.normal(0, 0.3, epochs)
    weight_E = np.minimum(1, epoch_E / (0.3 * epochs))
    return pd.DataFrame(
        {
            "train/loss": reconstruction_E + beta * weight_E * kl_E,
            "train/reconstruction": reconstruction_E - 0.4,
            "train/kl": kl_E,
            "train/kl_weight": weight_E,
            "val/reconstruction": reconstruction_E,
            "val/kl": kl_E,
            "val/elbo": -(reconstruction_E + kl_E),
            "val/squared_error": 0.2 * (reconstruction_E - 10),
            "val/active_units": np.floor(np.minimum(size, kl_E / 1.6)),
            "val/collapsed": (kl_E < 0.1).astype(float),
            "val/auroc": np.clip(0.6 + 0.3 * settled_E * np.exp(-((np.log(rate / 11)) ** 2)), 0, 1),
            "time/epoch_seconds": random.uniform(0.4, 0.6, epochs),
        }
    )


def train(plan: Plan, folder: Path) -> dict[str, float]:
    """One model, whose files stand for all trials'; gives its metrics at the end."""
    config = TrialConfig.model_validate({"model": {"network": {"hidden": (64, 32)}}, "training": {"epochs": 3}})
    model_batch = ModelBatch([ModelSetup(config=config, seed=0)], plan.data)
    for _ in range(3):
        model_batch.train_epoch()
    outcome = outcomes_of(model_batch, plan.config.diagnostics)[0]
    write_outcome(Folder.at(folder), outcome)
    return outcome.metrics


def told(
    number: int, random: np.random.Generator, epochs: int, final: dict[str, float]
) -> tuple[RunRecord, pd.DataFrame]:
    """A trial at its end, and its history."""
    parameters, state = configuration(random), str(random.choice(STATES, p=SHARES)) if number else STATES[0]
    length = {"finished": epochs, "pruned": max(1, epochs // 3), "failed": max(1, epochs // 10)}[state]
    history = curves(random, parameters, epochs).head(length)
    noise = random.normal(0, 0.01)
    last = {name: value + noise for name, value in final.items()} if state == "finished" else {}
    why = {schema.FAILURE: "error", schema.REASON: "ValueError: no"} if state == "failed" else {}
    tags = {schema.KIND: "trial", schema.TRIAL: str(number), schema.STATE: state, **why}
    texts = {name: schema.text_value(value) for name, value in parameters.items()}
    return RunRecord(tags, texts, {**dict(history.iloc[-1]), **last}), history


def write(writer: TrackingWriter, number: int, run: RunRecord, history: pd.DataFrame) -> None:
    """A trial's run, as its driver tells it."""
    key, now = schema.trial_name(number), time.time_ns() // 10**6
    about = {name: run.tags[name] for name in (schema.KIND, schema.TRIAL)}
    writer.start(key, schema.trial_run_name(number, run.params), run.params, about)
    rows = zip(history.index + 1, history.to_dict("records"), strict=True)
    writer.log_epochs(key, [EpochRecord(epoch=epoch, timestamp_ms=now + epoch, metrics=row) for epoch, row in rows])
    final = {name: value for name, value in run.metrics.items() if name not in history}
    writer.end(key, number, final, {name: value for name, value in run.tags.items() if name not in about})


def tell(writer: TrackingWriter, options: argparse.Namespace, final: dict[str, float]) -> tuple[pd.DataFrame, ...]:
    """All trials; gives the frames of trials and of epochs."""
    random, runs, histories = np.random.default_rng(0), [], []
    for number in range(options.trials):
        run, history = told(number, random, options.epochs, final)
        if number < options.runs:
            write(writer, number, run, history)
        runs.append(run)
        histories.append(history.assign(trial=number, epoch=history.index + 1))
    return trials_frame(runs), pd.concat(histories, ignore_index=True)


def finish(plan: Plan, writer: TrackingWriter, files: Path, trials: pd.DataFrame, history: pd.DataFrame) -> None:
    """The champion's files, the detectors compared, the parent's last words."""
    best = writer.trials().query("state == 'finished'").sort_values(RULE).iloc[-1]
    champion = Selection(int(best["trial"]), SCORE, float(best[RULE]))
    frontier = frontier_of(trials, list(plan.reference), plan.signs)["trial"].tolist()
    found, scores = (
        candidates(trials, frontier, ("val/elbo", "val/auroc"), SCORE, members=5),
        read_scores(Folder.at(files)),
    )
    table, compared = compare(found, lambda _: scores, Baseline.of(plan.data).scores)
    writer.log_frame(table, schema.CHOICES_FILE)
    writer.log_frame(compared, schema.DETECTORS_FILE)
    writer.log_files(schema.trial_name(champion.trial), [files / SCORES, files / EXAMPLES])
    close_study(writer, "finished", "made up", RULE, champion)
    writer.drain()
    ids = {
        key: run.info.run_id for key, run in runs_by_key(writer.client, writer.client.get_run(writer.parent_id)).items()
    }
    trials["run_id"] = [ids.get(schema.trial_name(number)) for number in trials["trial"]]
    writer.log_frame(trials, schema.TRIALS_FILE)
    writer.log_frame(history, schema.HISTORY_FILE)


def make(options: argparse.Namespace, home: Path) -> None:
    """The study, in a SQLite store in `home`."""
    overrides = [f"trials={options.trials}", f"training.epochs={options.epochs}", "confirm=null"]
    plan = check_study(CONFIG, overrides, NAME, home)
    files = plan.scratch / "files"
    final = train(plan, files)
    client = open_client(f"sqlite:///{home}/mlflow.db")
    writer = open_study(client, plan.config, NAME, plan.data, plan.reference, RULE, plan.scratch)
    finish(plan, writer, files, *tell(writer, options, final))
    writer.drain()
    writer.close()


def timed(home: Path, folder: Path, *options: str) -> tuple[float, float, float]:
    """One report as a process of its own: seconds, its CPU seconds, and the most memory that it took, MB."""
    command = [
        sys.executable,
        "-m",
        "vae_study",
        "report",
        NAME,
        "--home",
        str(home),
        "--output",
        str(folder),
        *options,
    ]
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE, cwd=CONFIG.parents[1])
    status, seconds, busy, memory = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, busy, memory


def main() -> None:
    """Make the study, report it three times, print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch) / "home"
        if not (home / "mlflow.db").exists():
            started = time.monotonic()
            make(options, home)
            print(f"{options.trials:,} trials of {options.epochs} epochs written in {time.monotonic() - started:.0f} s")
        print("\n| report of | seconds | CPU seconds | MB | page, MB |\n|---|---|---|---|---|")
        folder = Path(scratch) / "report"
        for name, words in (("the study", ()), ("the same again", ()), ("the same, --force", ("--force",))):
            seconds, busy, memory = timed(home, folder, *words)
            page = (folder / "report.html").stat().st_size / 1e6
            print(f"| {name} | {seconds:.1f} | {busy:.1f} | {memory:,.0f} | {page:.1f} |")


if __name__ == "__main__":
    main()
