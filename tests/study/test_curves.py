import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.config.search_space import Choices, Range
from vae_study.selection.ranking import frontier_of, hypervolume
from vae_study.study.progress import StudyCurves, log10_parameters
from vae_study.tracking.schema import ENDED

# Few values, so that there are equal points and shared coordinates; and some that are no numbers.
VALUES = st.integers(0, 4).map(float) | st.floats(-3, 6) | st.sampled_from([math.nan, math.inf])


@st.composite
def studies(draw):
    names = [f"m{place}" for place in range(draw(st.integers(1, 4)))]
    signs = draw(st.tuples(*[st.sampled_from([1.0, -1.0])] * len(names)))
    metrics = st.fixed_dictionaries({}, optional={name: VALUES for name in names})
    ended = st.tuples(st.sampled_from(ENDED), metrics, st.booleans())
    return names, signs, draw(st.lists(ended, max_size=12))


@given(studies())
def test_each_step_is_what_all_trials_so_far_give_at_once(study):
    names, signs, ended = study
    reference = {name: 3.0 for name in names}
    curves = StudyCurves(reference, signs)
    for count, (state, metrics, is_feasible) in enumerate(ended, 1):
        told = curves.add(state, metrics, is_feasible)
        assert curves.step == count
        rows = [{"trial": number, "state": s, "feasible": f, **m} for number, (s, m, f) in enumerate(ended[:count])]
        front = frontier_of(pd.DataFrame(rows).reindex(columns=["trial", "state", "feasible", *names]), names, signs)
        values_NM = front[names].to_numpy(np.float64) * signs
        assert told["study/frontier_size"] == len(front)
        volume = hypervolume(values_NM, [sign * 3.0 for sign in signs])
        assert told["study/hypervolume"] == pytest.approx(volume, rel=1e-9, abs=1e-9)
        assert [told[f"study/{name}"] for name in ENDED] == [
            sum(s == name for s, *_ in ended[:count]) for name in ENDED
        ]


@given(studies(), st.randoms())
def test_the_order_in_which_trials_end_does_not_change_where_the_curves_arrive(study, random):
    names, signs, ended = study
    ends = []
    for order in (ended, random.sample(ended, len(ended))):
        curves = StudyCurves({name: 3.0 for name in names}, signs)
        told = [curves.add(*one) for one in order]
        ends.append(told[-1] if told else {})
    assert ends[0] == pytest.approx(ends[1])


def test_log_scaled_numbers_alone_get_their_logarithm():
    search = {
        "beta": Range(low=0.01, high=10, log=True),
        "latent_dim": Range(low=1, high=100, log=True, type="int"),
        "kl_annealing.warmup": Range(low=0.1, high=0.5),
        "likelihood": Choices(choices=("bernoulli", "gaussian")),
        "free_bits.nats": Range(low=0.01, high=1, log=True),
    }
    parameters = {"beta": 0.1, "latent_dim": 100, "kl_annealing.warmup": 0.1, "likelihood": "gaussian"}
    assert log10_parameters(search, parameters) == pytest.approx({"log10/beta": -1, "log10/latent_dim": 2})
