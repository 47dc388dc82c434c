"""What asked labels are worth: points of AUROC of the detector that `vae-study learn` chooses by them.

Of each table (see court.py) the detectors are fitted once, without labels: the one without a model, and some VAEs with
all of their scores. Half of the rows to test may be asked about, with anomalies thinned out to --prevalence; the other
half measures what was chosen, beside the ensemble that scores without labels.

Scores are kept in the folder --output, a file for each table: what is there is not fitted again.

python -m benchmarks.labels --data DIR... --output FOLDER [--every 3] [--draws 4]
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from vae_study.anomaly.detection import auroc
from vae_study.metrics import scores_of
from vae_study.selection.comparison import VOTE, combined
from vae_study.selection.labels import learned, rows_to_ask
from vae_study.selection.ranking import Selection

from benchmarks import court

MODELS: Mapping[str, Mapping[str, Any]] = {
    "VAE": {"training.epochs": 40},
    "VAE wide": {"model.latent_dim": 16, "objective.beta": 0.1, "training.epochs": 40},
    "VAE narrow": {"model.latent_dim": 2, "objective.beta": 1.0, "training.epochs": 30},
}
MOST_TRAIN, MOST_TEST = 1000, 2500
COUNTS = (5, 10, 20, 40)
MEMBERS, FEWEST = 5, 3
Rows = NDArray[np.float64]
Places = NDArray[np.int64]


def fitted(path: Path, output: Path) -> Path:
    """The file with the scores of all detectors of a table."""
    file = output / f"{path.parent.name} {path.stem}.npz"
    if not file.exists():
        case = court.Case.read(path, 0)
        found = dict(court.without_model(case))
        for name, settings in MODELS.items():
            found |= court.vae(case, name, settings)
        held = {f"held/{name}": held_M for name, (held_M, _) in found.items()}
        test = {f"test/{name}": test_T for name, (_, test_T) in found.items()}
        np.savez_compressed(file, is_anomaly=case.is_anomaly_T, **held, **test)
    return file


def kept_scores(file: Path) -> tuple[dict[int, pd.DataFrame], Rows, NDArray[np.bool_]]:
    """A table as a study keeps it: the scores of its trials and of the detector without a model, and the truth.

    Held-out rows are in the frames before the rows to test, so that scales can be fitted to them.
    """
    with np.load(file) as arrays:
        found, is_anomaly_T = {name: np.nan_to_num(arrays[name]) for name in arrays}, arrays["is_anomaly"]
    frames = {}
    for number, model in enumerate(MODELS):
        columns = {
            one: np.concatenate([found[f"{part}/{model} {one}"] for part in ("held", "test")])
            for one in scores_of(is_images=False)
        }
        held = len(found[f"held/{model} {VOTE}"])
        split = np.repeat(["validation", "test"], [held, len(is_anomaly_T)])
        frames[number] = pd.DataFrame({"split": split, "anomaly": False, **columns})
    # The detector without a model has other held-out rows; its scores are on their scale already.
    raw_T = np.sum([found[f"test/{name}"] for name in court.INPUTS], axis=0)
    return frames, np.concatenate([np.zeros(held), raw_T]), is_anomaly_T.astype(bool)


def orders(scores_DN: Rows, random: np.random.Generator) -> Mapping[str, Places]:
    """Ways to ask, the rows in their order; the first detector is the one that scores without labels."""
    rarity_DN = -np.log((scores_DN.shape[1] + 1 - rankdata(scores_DN, axis=1)) / scores_DN.shape[1])
    by: Callable[[Rows], Places] = lambda value_N: np.argsort(-value_N, kind="stable")  # noqa: E731
    mean, spread = by(rarity_DN.mean(axis=0)), by(rarity_DN.var(axis=0))
    both = np.array([*dict.fromkeys(np.stack([mean, spread], axis=1).ravel().tolist())])
    return {
        "at random": random.permutation(scores_DN.shape[1]),
        "highest of the ensemble": by(scores_DN[0]),
        "highest mean rarity": mean,
        "most disagreement": spread,
        "mean rarity and disagreement in turn": both,
        "highest of each detector in turn (ask)": rows_to_ask(scores_DN, max(COUNTS)),
    }


def gains(file: Path, draws: int, prevalence: float) -> Iterator[dict[str, Any]]:
    """Points of AUROC above the ensemble without labels, by how and how many rows are asked and how they choose."""
    frames, raw_N, is_anomaly_T = kept_scores(file)
    held = len(raw_N) - len(is_anomaly_T)
    voters = [Selection(number, VOTE, float("nan")) for number in frames]
    singles = {
        (number, one): frame[one].to_numpy(np.float64)
        for number, frame in frames.items()
        for one in scores_of(is_images=False)
    }
    scores_DN = np.stack([combined(frames, voters, raw_N), raw_N, *singles.values()])
    for draw in range(draws):
        random = np.random.default_rng(draw)
        anomalous, normal = (random.permutation(np.flatnonzero(is_anomaly_T == one)) for one in (True, False))
        (asked_a, other_a), (asked_n, other_n) = np.array_split(anomalous, 2), np.array_split(normal, 2)
        asked_a = asked_a[: max(FEWEST, round(prevalence / (1 - prevalence) * len(asked_n)))]
        if min(len(asked_a), len(other_a)) < FEWEST or len(asked_n) < max(COUNTS):
            continue
        pool = held + random.permutation(np.concatenate([asked_a, asked_n]))
        rest = held + np.concatenate([other_a, other_n])

        def measured(score_N: Rows, rest: Places = rest) -> float:
            return 100 * auroc(is_anomaly_T[rest - held], score_N[rest])

        usual = measured(scores_DN[0])
        for how, order in orders(scores_DN[:, pool], random).items():
            for count in COUNTS:
                place_L = pool[order[:count]]
                is_anomaly_L = is_anomaly_T[place_L - held]
                about = {"table": file.stem, "asked": how, "rows": count, "found": is_anomaly_L.sum()}
                learned_N = best_N = scores_DN[0]
                if 0 < is_anomaly_L.sum() < count:
                    learned_N = learned(frames, raw_N, place_L, is_anomaly_L, None, MEMBERS).score(frames, raw_N)
                    best_N = max(scores_DN, key=lambda one_N, y=is_anomaly_L, at=place_L: auroc(y, one_N[at]))
                yield about | {"chosen by": "learn", "gain": measured(learned_N) - usual}
                yield about | {"chosen by": "the best alone", "gain": measured(best_N) - usual}
        best = max(map(measured, scores_DN)) - usual
        yield {
            "table": file.stem,
            "asked": "oracle",
            "rows": 0,
            "found": 0,
            "chosen by": "the best alone",
            "gain": best,
        }


def markdown(found: pd.DataFrame) -> Iterator[str]:
    """A table of means over tables with their standard errors."""
    by = ["asked", "chosen by", "rows"]
    means = found.groupby([*by, "table"])[["gain", "found"]].mean()
    gain = means["gain"].groupby(by).agg(lambda one: f"{one.mean():+.2f} ({one.sem():.2f})").unstack("rows")
    anomalies = means["found"].groupby(by).mean().round(1).unstack("rows")
    yield f"{found['table'].nunique()} tables\n"
    yield f"| asked | chosen by | {' | '.join(f'{count} labels' for count in gain)} | anomalies among 20 |"
    yield "|---" * (3 + gain.shape[1]) + "|"
    for key, row in gain.iterrows():
        yield f"| {' | '.join(key)} | {' | '.join(row.fillna(''))} | {anomalies.loc[key].get(20, 0):.1f} |"
    learn = means["gain"].xs("learn", level="chosen by").unstack("asked")
    for how in learn:
        more = (learn[how] - learn["at random"]).groupby("rows").agg(lambda one: f"{one.mean():+.2f} ({one.sem():.2f})")
        yield f"learn, {how} minus at random: {', '.join(f'{n} labels {text}' for n, text in more.items())}"


def main() -> None:
    """Fit what is not fitted yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of .npz files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the scores")
    parser.add_argument("--every", type=int, default=1, help="of folders with more than 20 tables, every so many")
    parser.add_argument("--first", type=int, default=0, help="the place of the first of these")
    parser.add_argument("--draws", type=int, default=4, help="halves of the rows of each table")
    parser.add_argument("--prevalence", type=float, default=0.05, help="of anomalies among the rows to ask about")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    court.MOST_TRAIN, court.MOST_TEST = MOST_TRAIN, MOST_TEST
    asked.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for folder in asked.data:
        paths = sorted(folder.glob("*.npz"))
        for path in paths[asked.first :: asked.every] if len(paths) > 20 else paths:
            rows += gains(fitted(path, asked.output), asked.draws, asked.prevalence)
            print(path.stem, file=sys.stderr, flush=True)
    print("\n".join(markdown(pd.DataFrame(rows))))


if __name__ == "__main__":
    main()
