"""Every metric, anomaly score and selection rule: its name, unit, direction, needs, and where it is shown.

To add a metric, add a row here and compute it in `vae/evaluation.py`. To add an anomaly score, add a row here and
compute it in `anomaly/scores.py`. Everything else (study files, search, tracking, report) asks these tables.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["minimize", "maximize"]
#: Multiplied by its sign, every objective is minimized.
SIGNS: Mapping[str, float] = {"minimize": 1.0, "maximize": -1.0}
#: Where a metric can be shown: the report's tables of all trials and of the frontier, what its live figures tell of a
#: trial and colour it by, its training curves, the comparison of studies, and beside a model in MLflow.
Place = Literal["trials", "frontier", "live", "colour", "training", "training without rate", "comparison", "model"]
#: The splits of metric names, such as "val" in "val/kl", in words.
SPLITS: Mapping[str, str] = {"val": "validation", "test": "test", "train": "training", "pseudo": "pseudo-anomaly"}

#: Burda et al. 2016, section 5: a dimension is used if its posterior mean varies over the data by more than this.
ACTIVE_VARIANCE = 0.01
#: Nats per example; a code with a smaller mean KL counts as collapsed.
COLLAPSED_KL = 0.05
#: An epoch's KL weight is the mean over its steps. From this mean on, the weight was 1 in every step, up to rounding.
FULL_KL_WEIGHT = 1 - 2.0**-22
#: What a hypervolume of 0 means.
NO_HYPERVOLUME = "no trial is better than the reference in every objective"
#: Thresholds are these percentiles of the scores of normal validation rows.
PERCENTILES = (90.0, 95.0, 99.0)


#: The default alarm budget, in alarms of 1,000 rows: as many as the highest percentile lets through.
ALARMS_PER_1000 = 10.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, on whichever split.

    Attributes:
        label: What people read, without the split.
        unit: Nats per example, or seconds; empty for a number without a unit.
        digits: Decimals that are shown.
        direction: Which way is better; None where neither is.
        steers: Whether its validation value can be an objective, a constraint, or the metric of early stopping.
        worst: The hypervolume's reference value; None where `study.plan` derives it from the data.
        needs: "labels" of anomalies in validation, a code with a "rate", or known "factors" of variation.
        shown: The places where it is shown, with the splits whose values are shown there.
    """

    label: str
    unit: Literal["nats", "s", ""] = ""
    digits: int = 2
    direction: Direction | None = None
    steers: bool = False
    worst: float | None = None
    needs: tuple[Literal["labels", "rate", "factors"], ...] = ()
    shown: Mapping[Place, Collection[str]] = field(default_factory=dict)


_VAL, _BOTH = ("val",), ("val", "test")
_NATS: dict[Place, Collection[str]] = dict.fromkeys(("trials", "live", "comparison", "model"), _VAL)
_TERM: dict[Place, Collection[str]] = {"training": _VAL}
_OTHER_TERM: dict[Place, Collection[str]] = {"training without rate": _VAL}
_MODEL: dict[Place, Collection[str]] = {"model": ("test",)}
_UNITS: dict[Place, Collection[str]] = {
    "frontier": _VAL, "live": _VAL, "colour": _VAL, **_TERM, **_OTHER_TERM
}  # fmt: skip

#: By name without the split, in the order in which they are listed.
METRICS: Mapping[str, Metric] = {
    "reconstruction": Metric(
        label="reconstruction", unit="nats", direction="minimize", steers=True, shown={**_NATS, **_TERM, **_OTHER_TERM}
    ),
    "kl": Metric(label="KL", unit="nats", direction="minimize", steers=True, needs=("rate",), shown={**_NATS, **_TERM}),
    "elbo": Metric(
        label="ELBO", unit="nats", direction="maximize", steers=True, needs=("rate",), shown={**_NATS, **_TERM}
    ),
    "squared_error": Metric(label="squared error", direction="minimize", steers=True, shown=_OTHER_TERM),
    "auroc": Metric(
        label="AUROC",
        digits=3,
        direction="maximize",
        steers=True,
        worst=0.5,
        needs=("labels",),
        shown={"trials": _BOTH, "model": _BOTH},
    ),
    "auroc_low": Metric(label="AUROC, lower end", digits=3, direction="maximize", needs=("labels",), shown=_MODEL),
    "auroc_high": Metric(label="AUROC, upper end", digits=3, direction="maximize", needs=("labels",), shown=_MODEL),
    "point_auroc": Metric(label="AUROC of points", digits=3, direction="maximize", needs=("labels",), shown=_MODEL),
    "point_auprc": Metric(
        label="average precision of points", digits=3, direction="maximize", needs=("labels",), shown=_MODEL
    ),
    "pixel_auroc": Metric(label="AUROC of pixels", digits=3, direction="maximize", needs=("labels",), shown=_MODEL),
    "pixel_pro": Metric(
        label="per-region overlap of pixels", digits=3, direction="maximize", needs=("labels",), shown=_MODEL
    ),
    "vus_pr": Metric(label="VUS-PR of points", digits=3, direction="maximize", needs=("labels",), shown=_MODEL),
    "ranges_found": Metric(label="anomalous ranges found", digits=3, direction="maximize", needs=("labels",)),
    "detection_delay": Metric(
        label="mean delay of detection", unit="s", digits=0, direction="minimize", needs=("labels",)
    ),
    "false_alarms_a_day": Metric(label="false alarms a day", digits=2, direction="minimize"),
    "auprc": Metric(
        label="average precision", digits=3, direction="maximize", needs=("labels",), shown={"model": _BOTH}
    ),
    "precision_at_n": Metric(label="precision at n", digits=3, direction="maximize", needs=("labels",), shown=_MODEL),
    "probe_accuracy": Metric(label="probe accuracy", digits=3, direction="maximize", shown={"frontier": ("test",)}),
    "label_accuracy": Metric(label="label accuracy", digits=3, direction="maximize", shown={"frontier": ("test",)}),
    "ms_ssim": Metric(label="MS-SSIM", digits=3, direction="maximize", shown={"frontier": ("test",)}),
    "sharpness": Metric(label="sharpness", digits=3, direction="maximize", shown={"frontier": ("test",)}),
    "sample_distance": Metric(
        label="distance of samples", digits=2, direction="minimize", shown={"frontier": ("test",)}
    ),
    "perplexity": Metric(label="codebook perplexity", direction="maximize", shown={"frontier": _VAL}),
    "active_units": Metric(label="active units", digits=0, direction="maximize", steers=True, worst=0.0, shown=_UNITS),
    "mig": Metric(label="MIG", digits=3, direction="maximize", needs=("factors",)),
    "dci_disentanglement": Metric(label="DCI disentanglement", digits=3, direction="maximize", needs=("factors",)),
    "dci_completeness": Metric(label="DCI completeness", digits=3, direction="maximize", needs=("factors",)),
    "dci_informativeness": Metric(label="DCI informativeness", digits=3, direction="maximize", needs=("factors",)),
    "sap": Metric(label="SAP", digits=3, direction="maximize", needs=("factors",)),
    "factor_vae_score": Metric(label="FactorVAE score", digits=3, direction="maximize", needs=("factors",)),
    "modularity": Metric(label="modularity", digits=3, direction="maximize", needs=("factors",)),
    "udr": Metric(label="UDR", digits=3, direction="maximize"),
    "total_correlation": Metric(
        label="total correlation", unit="nats", digits=3, direction="minimize", shown={"training": ("train",)}
    ),
    "covariance_distance": Metric(label="covariance distance", direction="minimize", shown={"training": ("train",)}),
    "similarity_loss": Metric(
        label="learned similarity's loss", unit="nats", direction="minimize", shown={"training": ("train",)}
    ),
    "discriminator_loss": Metric(label="discriminator's loss", unit="nats", shown={"training": ("train",)}),
    "decoder_loss": Metric(label="decoder's loss", unit="nats", shown={"training": ("train",)}),
    "kl_weight": Metric(label="KL weight", needs=("rate",), shown={"training": ("train",)}),
    "iwae": Metric(label="importance-weighted bound", unit="nats", direction="maximize", needs=("rate",)),
    "loss": Metric(label="loss", unit="nats", direction="minimize"),
    "collapsed": Metric(label="collapsed", digits=0, direction="minimize"),
}
#: Metrics that each anomaly score has too, as "val_auroc/kl".
AREAS = ("auroc", "auprc")
#: By their names in the table of detectors, what detectors are compared by.
AREA_LABELS: Mapping[str, str] = {
    "auroc": METRICS["auroc"].label,
    "average_precision": METRICS["auprc"].label,
    "alarm_precision": "precision within the alarm budget",
}
#: The metrics that may steer a search, by their names in a study file.
STEERING: Mapping[str, Metric] = {f"val/{name}": metric for name, metric in METRICS.items() if metric.steers}


def last_part(metric: str) -> str:
    """The key in METRICS of a full name: "kl" of "val/kl", and "auroc" of "test_auroc/kl"."""
    split, _, name = metric.rpartition("/")
    return next((area for area in AREAS if split.endswith(f"_{area}")), name)


def metric_of(metric: str) -> Metric:
    """The row of a full name such as "val/kl"; a plain one for a name that is not listed."""
    name = last_part(metric)
    return METRICS.get(name) or Metric(label=name.replace("_", " "))


def sign_of(metric: str) -> float:
    """-1 for a metric of which more is better, else 1."""
    return -1.0 if metric_of(metric).direction == "maximize" else 1.0


def shown_in(place: Place) -> tuple[str, ...]:
    """The full names of the metrics that are shown in a place."""
    return tuple(f"{split}/{name}" for name, metric in METRICS.items() for split in metric.shown.get(place, ()))


#: What a score is computed from: the reconstruction term, the KL or rate, the squared error, draws of the code, each
#: feature's residual, the posterior mean. The last two are compared with those of training rows.
Part = Literal["reconstruction", "rate", "error", "draws", "residual", "code"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One anomaly score; higher is more anomalous.

    Attributes:
        label: What people read.
        unit: Per example; empty for a number without a unit.
        needs: What it is computed from.
        collapsed: What it is if the decoder ignores the code and always returns about the mean of the training rows.
        of_images: Whether only images have it.
    """

    label: str
    unit: Literal["nats", ""] = ""
    collapsed: str
    needs: frozenset[Part]
    of_images: bool = False


def _of(*parts: Part) -> frozenset[Part]:
    return frozenset(parts)


_MEAN, _CODES = "the cost of the training mean as a prediction", "a distance between codes that say almost nothing"
_SQUARED, _PLAIN = (f"the {kind} distance from the training mean" for kind in ("squared", "plain Mahalanobis"))

#: By name, in the order in which they are listed.
SCORES: Mapping[str, Score] = {
    "elbo": Score(
        label="negative ELBO",
        unit="nats",
        collapsed=_MEAN,
        needs=_of("reconstruction", "rate"),
    ),
    "reconstruction": Score(
        label="reconstruction",
        unit="nats",
        collapsed=_MEAN,
        needs=_of("reconstruction"),
    ),
    "kl": Score(label="KL", unit="nats", collapsed="noise around a code that says nothing", needs=_of("rate")),
    "reconstruction_probability": Score(
        label="reconstruction probability",
        unit="nats",
        collapsed=_MEAN,
        needs=_of("draws"),
    ),
    "squared_error": Score(label="squared error", collapsed=_SQUARED, needs=_of("error")),
    "residual_mahalanobis": Score(
        label="residual Mahalanobis distance",
        collapsed=_PLAIN,
        needs=_of("residual"),
    ),
    "map_maximum": Score(
        label="maximum of the anomaly map",
        collapsed="the largest distance of a region from the training mean",
        needs=_of("residual"),
        of_images=True,
    ),
    "latent_mahalanobis": Score(
        label="latent Mahalanobis distance",
        collapsed=_CODES,
        needs=_of("code"),
    ),
    "latent_knn": Score(
        label="latent nearest neighbours",
        collapsed=_CODES,
        needs=_of("code"),
    ),
}
#: The score of `val/auroc` and `test/auroc` where a study names none.
DEFAULT_SCORE = "elbo"
#: Scores that need no fit to training rows, so that their AUROC can be computed after every epoch.
SIMPLE_SCORES = tuple(name for name, score in SCORES.items() if score.needs <= _of("reconstruction", "rate", "error"))
#: Scores that look at the code only.
CODE_SCORES = tuple(name for name, score in SCORES.items() if score.needs <= _of("rate", "code"))


def scores_of(is_images: bool) -> tuple[str, ...]:
    """The names of the scores that images, or other examples, have, in the order of SCORES."""
    return tuple(name for name, score in SCORES.items() if is_images or not score.of_images)


def need(scores: Iterable[str], part: Part) -> bool:
    """Whether any of some scores is computed from a part."""
    return any(part in SCORES[name].needs for name in scores)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to choose a trial and its score, by validation only.

    Attributes:
        metric: The metric that is compared; one that ends in "/" has a value for each anomaly score.
        score: The score that goes with it where the study names none; None where the rule chooses the score too.
        needs_labels: Whether validation has to have labelled anomalies.
    """

    metric: str
    score: str | None
    needs_labels: bool = False


#: By their names in a study file. Each has the score that worked best with it on real data sets: docs/benchmarks.md.
RULES: Mapping[str, Rule] = {
    "val/auroc": Rule(metric="val_auroc/", score=None, needs_labels=True),
    "val/auprc": Rule(metric="val_auprc/", score=None, needs_labels=True),
    "val/elbo": Rule(metric="val/elbo", score="elbo"),
    "val/reconstruction": Rule(metric="val/reconstruction", score="residual_mahalanobis"),
    "pseudo": Rule(metric="pseudo_auroc/", score="residual_mahalanobis"),
}
#: The default rules with labels: for anomalies that are rare in validation, and otherwise. Average precision depends on
#: the highest scores, which count if anomalies are rare (Saito and Rehmsmeier 2015), but with few anomalies it is too
#: noisy to choose by: docs/benchmarks.md.
LABEL_DEFAULTS = ("val/auprc", "val/auroc")
RARE_PREVALENCE, LEAST_RARE = 0.05, 25
#: The default rules where no label may be used: for codes with a KL, and for codes without one, which have no ELBO.
LABEL_FREE_DEFAULTS = ("val/elbo", "val/reconstruction")
#: Several trials as one detector.
ENSEMBLES = ("ensemble_best", "ensemble_frontier", "ensemble_labels")
#: The detector without a model; and what it was in studies of earlier releases.
BASELINE = "without_model"
BASELINES = (BASELINE, "input_knn")
#: What labels choose after the end of a study, see `selection.labels`.
LEARNED = "learned"
#: What is no single trial: its model belongs to the study.
OF_STUDY = (*ENSEMBLES, BASELINE)
#: The ensembles that the model name `ensemble` stands for: the first one that a study has.
ENSEMBLE_PREFERENCE = ("ensemble_labels", "ensemble_best")
#: What people read, where the name of a rule's metric does not say it.
DETECTOR_LABELS: Mapping[str, str] = {
    "pseudo": "pseudo-anomaly AUROC",
    "ensemble_best": "label-free ensemble of the best trials",
    "ensemble_frontier": "ensemble of the frontier",
    "ensemble_labels": "label-based ensemble of the best trials",
    BASELINE: "detector without a model",
    LEARNED: "ensemble chosen by labels that were asked for",
    "input_knn": "nearest neighbours on the input",
}


@dataclass(frozen=True, kw_only=True)
class PublicTables:
    """What detectors without labels did on public tables: paired differences in points of AUROC, with standard errors.

    Attributes:
        tables: How many there are.
        more, error: The detector without a model minus the distance to the fifth neighbour.
        model, model_error: What one VAE adds to the detector without a model.
        better, worse: On how many of the tables the first difference is above 0.1, and below -0.1; 0 if not counted.
    """

    tables: int
    more: float
    error: float
    model: float
    model_error: float
    better: int = 0
    worse: int = 0


#: By collection, as docs/benchmarks.md has them ("A court of tables").
PUBLIC_TABLES: Mapping[str, PublicTables] = {
    "OddBench": PublicTables(tables=64, more=2.9, error=0.8, model=0.4, model_error=0.3, better=42, worse=12),
    "ADBench": PublicTables(tables=13, more=0.5, error=0.5, model=0.3, model_error=0.4),
}


def difference_columns(metric: str, reference: str) -> tuple[str, str, str]:
    """The columns of the table of detectors that say how much better one is on test than another on the same rows.

    Args:
        metric: A key of AREA_LABELS.
        reference: "chosen", the study's own choice, or "baseline".

    Returns:
        The names of the difference, such as `auroc_minus_baseline`, and of the two ends of its paired interval.
    """
    name = f"{metric}_minus_{reference}"
    return name, f"{name}_low", f"{name}_high"
