"""What `stop_when` would have saved and missed: finished studies are replayed, trial by trial.

    python -m benchmarks.stopping HOME STUDY... [--flat-for 10 20 30] [--min-gain 0.0001 0.001 0.01]

For each rule and study: after how many trials it stops, how much of the final hypervolume is missing then, and by how
much the test AUROC of the model that the study's own rule chooses among those trials differs from that of the whole
study. Run the studies with --concurrency 1: then their trials ended in the order of their numbers.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vae_study.api import load_study
from vae_study.config.study import StopWhenConfig
from vae_study.metrics import SIGNS
from vae_study.selection.ranking import choose
from vae_study.study.progress import StudyCurves
from vae_study.tracking.record import StudyRecord


@dataclass(frozen=True)
class Stop:
    """Where a rule stops a study: after how many trials, and what is lost there."""

    trials: int
    volume_lost: float
    auroc_lost: float


def replay(record: StudyRecord, flat_for: int, min_gain: float) -> Stop:
    """Where a rule stops a study; at its end if it does not."""
    rows = record.trials.sort_values("trial").to_dict("records")
    curves = StudyCurves(record.reference, [SIGNS[one["direction"]] for one in record.config["objectives"]])
    volumes, stop = [0.0], len(rows)
    for place, row in enumerate(rows, 1):
        volumes.append(curves.add(row["state"], row, row["feasible"])["study/hypervolume"])
        if stop == len(rows) and curves.is_flat(flat_for, min_gain):
            stop = place
    lost = auroc(record, len(rows)) - auroc(record, stop)
    return Stop(stop, 1 - volumes[stop] / volumes[-1], lost)


def auroc(record: StudyRecord, count: int) -> float:
    """The test AUROC of the model that the study's rule chooses among its first trials."""
    assert record.champion is not None
    first = record.trials[record.trials["trial"] < count]
    chosen = choose(first, record.champion.rule, record.config["anomaly"]["score"])
    assert chosen is not None
    return float(first.set_index("trial").loc[chosen.trial, f"test_auroc/{chosen.score}"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Print two tables: of each rule over all studies, and of each study by the rule of the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home")
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--flat-for", nargs="+", type=int, default=[10, 20, 30])
    parser.add_argument("--min-gain", nargs="+", type=float, default=[0.0001, 0.001, 0.01])
    given = parser.parse_args()
    records = [load_study(name, home=given.home) for name in given.studies]
    rows = []
    for flat_for, min_gain in itertools.product(given.flat_for, given.min_gain):
        stops = [replay(record, flat_for, min_gain) for record in records]
        share = sum(stop.trials for stop in stops) / sum(len(record.trials) for record in records)
        volume, lost = statistics.mean(stop.volume_lost for stop in stops), [stop.auroc_lost for stop in stops]
        rows.append([str(flat_for), f"{min_gain:g}", f"{share:.0%}", f"{volume:.1%}"])
        rows[-1] += [f"{statistics.mean(lost):.4f}", f"{max(lost):.4f}"]
    head = ["flat_for", "min_gain", "trials, of all", "hypervolume lost, mean", "AUROC lost, mean", "AUROC lost, worst"]
    print(table(head, rows))
    rule = 20, StopWhenConfig().min_gain
    stops = [replay(record, *rule) for record in records]
    rows = [
        [record.name, f"{stop.trials} of {len(record.trials)}", f"{stop.volume_lost:.2%}", f"{stop.auroc_lost:.4f}"]
        for record, stop in zip(records, stops, strict=True)
    ]
    print(f"\nflat_for {rule[0]}, min_gain {rule[1]:g}\n")
    print(table(["study", "stops after", "hypervolume lost", "AUROC lost"], rows))


if __name__ == "__main__":
    main()
