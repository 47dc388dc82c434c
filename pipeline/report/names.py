"""What metrics, parameters, anomaly scores and detectors are called. Plain text; escaping is the templates' task."""

from collections.abc import Iterable

SPLITS = {"val": "validation", "test": "test", "train": "training", "pseudo": "pseudo-anomaly"}
METRICS = {
    "reconstruction": "reconstruction",
    "kl": "KL",
    "elbo": "ELBO",
    "iwae": "importance-weighted bound",
    "squared_error": "squared error",
    "active_units": "active units",
    "auroc": "AUROC",
    "auprc": "average precision",
    "kl_weight": "KL weight",
    "probe_accuracy": "probe accuracy",
    "perplexity": "codebook perplexity",
}
NATS = ("reconstruction", "kl", "elbo", "iwae", "loss")
PARAMETERS = {"latent_dim": "latent size"}
SCORES = {
    "elbo": "negative ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "reconstruction_probability": "reconstruction probability",
    "squared_error": "squared error",
    "residual_mahalanobis": "residual Mahalanobis distance",
    "latent_mahalanobis": "latent Mahalanobis distance",
    "latent_knn": "latent nearest neighbours",
}
# What takes part in the comparison of detectors, where its metric's name does not say it.
DETECTORS = {
    "pseudo": "pseudo-anomaly AUROC",
    "ensemble_best": "ensemble of the best without labels",
    "ensemble_frontier": "ensemble of the frontier",
    "ensemble_labels": "ensemble of the best with labels",
    "input_knn": "raw nearest neighbours",
}
SCORES_IN_NATS = ("elbo", "reconstruction", "kl", "reconstruction_probability")


def metric_name(metric: str) -> str:
    """Such as "validation KL" for val/kl, or "test AUROC of KL" for test_auroc/kl."""
    split, _, name = metric.rpartition("/")
    if split.endswith("_auroc"):
        return f"{metric_name(split.replace('_', '/'))} of {score_name(name)}"
    return f"{SPLITS.get(split, split)} {METRICS.get(name, name.replace('_', ' '))}".strip()


def metric_unit(metric: str) -> str:
    """Such as "nats" for val/kl; empty for a metric without unit."""
    return "nats" if last_part(metric) in NATS else ""


def last_part(metric: str) -> str:
    """What is measured, without the split; an AUROC is one of whichever score."""
    split, _, name = metric.rpartition("/")
    return "auroc" if split.endswith("_auroc") else name


def axis_label(metric: str) -> str:
    """A metric's name, with its unit where it has one."""
    unit = metric_unit(metric)
    return f"{metric_name(metric)} ({unit} per example)" if unit else metric_name(metric)


def digits_of(metric: str) -> int:
    """Decimals that a metric deserves."""
    kind = last_part(metric)
    return 3 if kind.startswith(("auroc", "auprc", "probe")) else 0 if kind == "active_units" else 2


def hypervolume_unit(metrics: Iterable[str]) -> str:
    """Such as "nats²" for two metrics in nats; empty where a metric is in something else."""
    units = [metric_unit(metric) for metric in metrics]
    return units[0] + ("", "²", "³")[len(units) - 1] if all(units) and 0 < len(units) < 4 else ""


def parameter_name(name: str) -> str:
    """Such as "latent size" for latent_dim."""
    return PARAMETERS.get(name, name)


def score_name(score: str) -> str:
    """An anomaly score's name."""
    return SCORES.get(score, score.replace("_", " "))


def score_label(score: str) -> str:
    """An anomaly score's name, with its unit where it has one."""
    name = score_name(score)
    return f"{name} (nats per example)" if score in SCORES_IN_NATS else name


def detector_name(name: str) -> str:
    """A rule, an ensemble or the baseline."""
    return DETECTORS.get(name) or metric_name(name)
