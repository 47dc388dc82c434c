"""How many members a device is given, from what packs of each size cost."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.spec.trial import TrialSpec
from pipeline.vae import crowding
from pipeline.vae.crowding import most_profitable
from pipeline.vae.population import Member, Population

SPEC = {"model": {"network": {"hidden": [16]}, "latent_dim": 2}, "training": {"batch_size": 32, "epochs": 1}}
MEMBER = Member(spec=TrialSpec.model_validate(SPEC), seed=0)


class Small(Population):
    """On a device with memory for five members."""

    def __init__(self, members, *others, **named):
        if len(members) > 5:
            raise MemoryError
        super().__init__(members, *others, **named)


def found(data):
    return most_profitable(MEMBER, data, "elbo", "cpu", None)


@settings(max_examples=30)
@given(fixed=st.floats(0, 100), each=st.floats(0.01, 100))
def test_a_pack_is_doubled_as_long_as_that_makes_a_member_a_tenth_cheaper(few, fixed, each):
    with pytest.MonkeyPatch.context() as patch:
        # What is decided is the size; what a size costs is given.
        patch.setattr(crowding, "_epoch_seconds", lambda population: fixed + each * len(population.members))
        size = found(few)
    costs = [fixed / members + each for members in (1, 2, 4, 8, 16, 32, 64)]
    pays = [after <= 0.9 * before for before, after in itertools.pairwise(costs)]
    assert size == 2 ** ([*pays, False].index(False))


def test_memory_that_does_not_suffice_ends_the_doubling(few, monkeypatch):
    monkeypatch.setattr(crowding, "_epoch_seconds", lambda population: 1.0)
    assert found(few) == 64
    monkeypatch.setattr(crowding, "Population", Small)
    assert found(few) == 4


def test_what_is_tried_leaves_the_member_and_the_data_as_they_were(few):
    rows = {name: split.x_ND.copy() for name, split in few.splits.items()}
    assert found(few) in {1, 2, 4, 8, 16, 32, 64}
    assert MEMBER.spec == TrialSpec.model_validate(SPEC)
    assert all((few.splits[name].x_ND == before_ND).all() for name, before_ND in rows.items())
