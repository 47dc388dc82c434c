"""How much of the labels a code holds: a linear classifier on it, trained with few labels. Arrays in, a number out."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
Labels = NDArray[np.str_]


def probe_accuracy(
    train_NZ: Floats, train_label_N: Labels, test_NZ: Floats, test_label_N: Labels, share: float, seed: int
) -> float:
    """Share of test codes whose label a logistic regression on a few labelled training codes finds.

    This is the semi-supervised use of a VAE (Kingma et al. 2014, model M1).

    Args:
        train_NZ, train_label_N: Posterior means and labels of which some are shown to the classifier.
        test_NZ, test_label_N: Posterior means and labels of other examples.
        share: Share of each class that is shown, from 0 to 1; at least one example a class.
        seed: Of the choice of those.

    Returns:
        Accuracy from 0 to 1; NaN where fewer than two classes occur in training.
    """
    classes = np.unique(train_label_N)
    known_N = np.isin(test_label_N, classes)
    if len(classes) < 2 or not known_N.any():
        return float("nan")
    random = np.random.default_rng(seed)
    shown = np.concatenate([_some(random, np.flatnonzero(train_label_N == label), share) for label in classes])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train_NZ[shown], train_label_N[shown])
    return float(classifier.score(test_NZ[known_N], test_label_N[known_N]))


def _some(random: np.random.Generator, rows: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    return random.choice(rows, size=max(1, round(share * len(rows))), replace=False)
