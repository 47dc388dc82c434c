"""Columns that have one value in all training rows: another value is what no training row has."""

import numpy as np
from vae_study.anomaly.detection import auroc
from vae_study.data.differences import Differences
from vae_study.data.scales import fit_column_scale
from vae_study.report.sections.highest_rows import OTHER, Reason, _reason
from vae_study.selection.comparison import Baseline

from .tables import fit, prepared, table

RANDOM = np.random.default_rng(0)


def changed(rows=100):
    """Two columns of noise and one that is 3, but in the last tenth of the rows, which are the anomalies."""
    is_anomaly_N = np.arange(rows) >= 0.9 * rows
    return table(np.stack([*RANDOM.normal(size=(2, rows)), 3.0 - is_anomaly_N], axis=1), label_N=is_anomaly_N * 1)


def test_the_detector_without_a_model_finds_what_differs_there_only():
    for scale in ("unit", "standard", "quantile"):
        scores = Baseline.of(prepared(changed(400), anomaly_labels=(1,), scale=scale)).scores
        assert auroc(scores["anomaly"].to_numpy(), scores["without_model"].to_numpy()) > 0.99


def test_the_same_value_in_another_precision_is_no_other_value():
    for trained, same, other in ((0.3, np.float32(0.3), 0.301), (np.float32(0.3), 0.3, 0.299), (-1e-9, -1e-9, 0)):
        scale = fit_column_scale("standard", np.full(5, trained), None)
        assert scale(np.array([trained, same, other, np.nan])).tolist()[:3] == [0, 0, 10]
    # Whole numbers are exact.
    assert fit_column_scale("unit", np.full(5, 2e7), None)(np.array([2e7, 2e7 + 1])).tolist() == [0, 1]


def test_scoring_says_how_many_rows_have_another_value():
    source = changed()
    found = Differences(fit(source, np.arange(80)))
    found.add(source)
    found.add(source)
    (note,) = found.notes()
    assert note.startswith("warning: 20 of 200 rows have another value of 'feature 2' than all training rows, which")
    none = Differences(fit(source, np.arange(80)))
    none.add(table(source.x_ND[:80], label_N=None))
    assert [*none.notes()] == []


def test_the_report_says_that_it_is_another_value():
    reason = Reason(column="valve", value=None, expected=3.0, beyond=OTHER, nats=12.34)
    assert _reason(reason) == "valve another value, not 3 (+12.3 nats)"
