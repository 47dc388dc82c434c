"""Every number in the sentences and alternative texts of the golden study's report, computed again by hand."""

import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from vae_study.report.build import write_report
from vae_study.report.frames import Missing
from vae_study.report.frontier import hypervolume_history, knee
from vae_study.report.sections.detection import curves
from vae_study.report.sections.importances import Importances, importances
from vae_study.report.sections.progress import training_curves
from vae_study.report.tables import StudyTables

from .golden import CONFIG, FOLDER, REFERENCE, golden
from .golden.by_hand import (
    OBJECTIVES,
    Row,
    finished,
    frontier,
    is_known,
    mean_precision,
    numbers,
    pairs,
    rows,
    scored_test_rows,
)

WORDS = (FOLDER / "words.txt").read_text()
# What a sentence may state without measuring it: levels of confidence, thresholds, the ends of scales.
CONSTANTS = {"0.05", "0.5", "1", "5.0", "95", "99", "100"}


def listed(items: list[Any]) -> str:
    return f"{', '.join(map(str, items[:-1]))} and {items[-1]}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def signed(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")


def general() -> dict[str, Any]:
    states = [row["state"] for row in rows()]
    history, (first, *_), (*_, last) = rows("history"), ordered(frontier()), ordered(frontier())
    best = max((row for row in finished() if is_known(row["val/elbo"])), key=lambda row: row["val/elbo"])
    on_plane = [row for row in rows() if row["state"] != "failed" and all(is_known(row[m]) for m in OBJECTIVES)]
    lost = [row for row in rows() if row["preemptions"]]
    silent = [row for row in finished() if row["val/active_units"] < 1 or row["val/kl"] < 0.05]
    weights = {n: max(e["train/kl_weight"] for e in history if e["trial"] == n) for n in numbers(*rows())}
    short = [row for row in rows() if weights[row["trial"]] < 0.99 and row["state"] in ("finished", "pruned")]
    highest = max((row for row in finished() if is_known(row["val/auroc"])), key=lambda row: row["val/auroc"])
    known = [row["val/elbo"] for row in finished() if is_known(row["val/elbo"])]
    return {
        **{state: states.count(state) for state in ("finished", "pruned", "failed", "running")},
        "trials": len(states),
        "drawn": len(on_plane),
        "off_plane": states.count("finished") - sum(row["state"] == "finished" for row in on_plane),
        "frontier": len(frontier()),
        "first": first["trial"],
        "last": last["trial"],
        **{f"first_{axis}": f"{first[m]:.2f}" for axis, m in zip("xy", OBJECTIVES, strict=True)},
        **{f"last_{axis}": f"{last[m]:.2f}" for axis, m in zip("xy", OBJECTIVES, strict=True)},
        "epochs": len(history),
        "minutes": f"{sum(e['time/epoch_seconds'] for e in history) / 60:.1f}",
        "lost": len(lost),
        "times": sum(row["preemptions"] for row in lost),
        "lost_trial": lost[0]["trial"],
        "best": signed(best["val/elbo"]),
        "worst": signed(min(known)),
        "with_elbo": len(known),
        "best_trial": best["trial"],
        "best_beta": f"{best['beta']:.3g}",
        "best_latent": best["latent_dim"],
        "other_auroc": f"{best['test/auroc']:.3f}",
        "difference": f"{pairs(*scored_test_rows()) - best['test/auroc']:.3f}",
        "collapsed": len(silent),
        "smallest_beta": f"{min(row['beta'] for row in silent):.3g}",
        "collapsed_trials": listed(numbers(*silent)),
        "short_trials": listed(numbers(*short)),
        "short_pruned": sum(row["state"] == "pruned" for row in short),
        "highest_auroc": f"{highest['val/auroc']:.3f}",
        "highest_at": f"{highest['val/reconstruction']:.2f}",
        "parameters": len(CONFIG["search"]),
    }


def ordered(found: list[Row]) -> list[Row]:
    return sorted(found, key=lambda row: row["val/reconstruction"])


def stopping() -> dict[str, Any]:
    budget = CONFIG["training"]["epochs"]
    seconds = {n: [e["time/epoch_seconds"] for e in rows("history") if e["trial"] == n] for n in numbers(*rows())}
    stopped = [len(seconds[row["trial"]]) for row in rows() if row["state"] == "pruned"]
    ended = [len(seconds[row["trial"]]) for row in rows() if row["state"] in ("finished", "pruned")]
    spared = [
        statistics.fmean(seconds[row["trial"]]) * (budget - len(seconds[row["trial"]]))
        for row in rows()
        if row["state"] == "pruned"
    ]
    return {
        "reduction": CONFIG["early_stopping"]["reduction_factor"],
        "grace": CONFIG["early_stopping"]["min_epochs"],
        "pruned_share": percent(len(stopped) / len(rows())),
        "stops": listed([f"{stopped.count(at)} after {at} epochs" for at in sorted(set(stopped))]),
        "trained": sum(ended),
        "budget": budget * len(ended),
        "trained_share": percent(sum(ended) / (budget * len(ended))),
        "saved": f"{sum(spared):.1f}",
    }


def detection(tables: StudyTables) -> dict[str, Any]:
    normal, anomalous = scored_test_rows()
    highest = sorted([(s, False) for s in normal] + [(s, True) for s in anomalous], key=lambda pair: -pair[0])
    alarms = max(1, round(0.010 * len(highest)))
    real = real_among(highest, alarms)
    ends = binomtest(round(real), alarms).proportion_ci(method="wilson")
    told = tables.of(curves)
    assert not isinstance(told, Missing)
    examples = [row for row in rows("scores") if row["split"] == "test"]
    precisions = real_among(highest, len(anomalous))
    return {
        "test_rows": len(highest),
        "anomalies": len(anomalous),
        "normals": len(normal),
        "unscored": len(examples) - len(highest),
        "alarms": alarms,
        "alarms_of_100": f"{100 * real / alarms:.0f}",
        "alarms_share": percent(real / alarms),
        "alarms_low": f"{100 * ends.low:.0f}",
        "alarms_high": f"{100 * ends.high:.0f}",
        "alarms_share_low": percent(ends.low),
        "alarms_share_high": percent(ends.high),
        "found": percent(real / len(anomalous)),
        "real_of_100": f"{100 * precisions / len(anomalous):.0f}",
        "auroc": f"{pairs(normal, anomalous):.3f}",
        "average": f"{mean_precision(normal, anomalous):.3f}",
        "chance": f"{len(anomalous) / len(highest):.3f}",
        "normal_median": f"{statistics.median(normal):.2f}",
        "anomalous_median": f"{statistics.median(anomalous):.2f}",
        "top": 10,
        "top_anomalies": sum(is_real for _, is_real in highest[:10]),
        # test_golden.py checks these ends against a bootstrap of its own.
        **{f"auroc_{end}": f"{getattr(told.auroc, end):.3f}" for end in ("low", "high")},
        **{f"average_{end}": f"{getattr(told.average_precision, end):.3f}" for end in ("low", "high")},
        "width": f"{told.auroc.high - told.auroc.low:.2f}",
    }


def real_among(highest: list[tuple[float, bool]], size: int) -> float:
    """The anomalies among so many highest scores; rows that tie at the border count by their share."""
    border = highest[size - 1][0]
    above = [is_real for score, is_real in highest if score > border]
    tied = [is_real for score, is_real in highest if score == border]
    return sum(above) + statistics.fmean(tied) * (size - len(above))


def chosen() -> dict[str, Any]:
    names = {21: "chosen", 3: "second"}
    own = {row["trial"]: row for row in rows()}
    found: dict[str, Any] = {"chosen": 21, "second": 3}
    for trial, name in names.items():
        seeds = [row["test/auroc"] for row in rows("confirmations") if row["trial"] == trial]
        values = [own[trial]["test/auroc"], *seeds]
        found[f"{name}_mean"] = f"{statistics.fmean(values):.3f}"
        found[f"{name}_deviation"] = f"{statistics.stdev(values):.3f}"
        found["seeds"] = len(values)
    return {**found, "chosen_beta": f"{own[21]['beta']:.3g}", "chosen_latent": own[21]["latent_dim"]}


def computed(tables: StudyTables) -> dict[str, Any]:
    """What test_golden.py checks against a computation of its own: the knee, hypervolumes, shares of variance."""
    volume, shares, drawn, bend = (
        tables.of(part) for part in (hypervolume_history, importances, training_curves, knee)
    )
    assert isinstance(shares, Importances)
    assert not any(isinstance(part, Missing) for part in (volume, drawn, bend))
    (row,) = (row for row in rows() if row["trial"] == bend.trial)
    last = volume.hypervolume_N[-1]
    enough = next(n for n, v in zip(volume.trial_N, volume.hypervolume_N, strict=True) if v >= 0.99 * last)
    explained = dict(zip(shares.parameters, shares.share_PT.tolist(), strict=True))
    assert max(explained["kl_annealing.schedule"]) < 0.05
    return {
        "knee": bend.trial,
        **{f"knee_{axis}": f"{row[metric]:.2f}" for axis, metric in zip("xy", OBJECTIVES, strict=True)},
        **{f"reference_{axis}": f"{REFERENCE[metric]:.2f}" for axis, metric in zip("xy", OBJECTIVES, strict=True)},
        "volume": f"{last:.2f}",
        "first_volume": f"{volume.hypervolume_N[0]:.2f}",
        "enough": enough,
        "enough_epochs": sum(epoch["trial"] <= enough for epoch in rows("history")),
        **{
            f"{name.rpartition('.')[2]}_{place}": percent(share)
            for name, of_targets in explained.items()
            for place, share in enumerate(of_targets)
        },
        "curves": listed(list(drawn.trials)),
        "curve_count": len(drawn.trials),
    }


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of the report that have a number and are of no table, up to the appendix."""
    folder: Path = tmp_path_factory.mktemp("golden")
    write_report(golden(), folder)
    lines = (folder / "report.md").read_text().partition("\n## Appendix")[0].splitlines()
    return [line for line in lines if re.search(r"\d", line) and not line.startswith("|")]


def test_every_number_in_a_sentence_is_the_one_that_the_parquet_gives(prose: list[str]) -> None:
    tables = StudyTables(golden())
    values = {**general(), **stopping(), **detection(tables), **chosen(), **computed(tables)}
    assert prose == WORDS.format(**values).splitlines()
    assert not [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]


def test_no_measured_number_is_written_down_beside_the_computed_ones() -> None:
    assert set(re.findall(r"\d[\d.]*\d|\d", re.sub(r"\{[^}]*\}", "", WORDS))) <= CONSTANTS
    assert len(re.findall(r"\{[^}]*\}", WORDS)) > 100
