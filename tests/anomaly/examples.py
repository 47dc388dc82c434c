"""Scores with labels, from hypothesis or from two shifted normal distributions."""

import numpy as np
from hypothesis import strategies as st

# Few values, so that there are ties, or any.
values = st.integers(-2, 2).map(float) | st.floats(-1e300, 1e300)
examples = st.lists(st.tuples(st.booleans(), values), min_size=2, max_size=60).map(
    lambda rows: (np.array([label for label, _ in rows]), np.array([score for _, score in rows]))
)
both_classes = examples.filter(lambda pair: pair[0].any() and not pair[0].all())


def shifted(random, normal, anomalous, shift):
    """Normal scores, and anomalous ones that are higher by so many standard deviations."""
    is_anomaly_N = np.arange(normal + anomalous) >= normal
    return is_anomaly_N, random.normal(size=len(is_anomaly_N)) + shift * is_anomaly_N
