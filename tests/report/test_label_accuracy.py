"""How far a few labels go: what the report shows of trials that were told some."""

from dataclasses import replace

import numpy as np
import pytest
from vae_study.report.frames import Missing
from vae_study.report.page import pages, panels
from vae_study.report.sections.code import code_facts
from vae_study.report.sections.labels import LabelAccuracy, label_accuracy
from vae_study.report.tables import StudyTables, tidy
from vae_study.tracking.record import StudyRecord

SHARES = (0.01, 0.05, 0.2)


@pytest.fixture
def told(digits: StudyRecord) -> StudyRecord:
    """The study as if its trials had been told labels, of each share alike."""
    random = np.random.default_rng(3)
    share_N = np.resize(SHARES, len(digits.trials))
    accuracy_N = np.where(digits.trials["state"] == "finished", random.random(len(share_N)), np.nan)
    trials = digits.trials.assign(**{"labels.share": share_N, "test/label_accuracy": accuracy_N})
    search = {**digits.config["search"], "labels.share": {"choices": list(SHARES)}}
    return replace(digits, trials=trials, config={**digits.config, "search": search})


def test_every_finished_trial_is_a_point_at_its_share(told: StudyRecord):
    found = label_accuracy(tidy(told))
    assert isinstance(found, LabelAccuracy)
    finished = [row for row in told.trials.to_dict("records") if row["state"] == "finished"]
    expected = [(row["trial"], row["labels.share"], row["test/label_accuracy"]) for row in finished]
    assert [*found.trials.itertuples(index=False, name=None)] == expected
    for share in SHARES:
        own = [accuracy for _, of_one, accuracy in expected if of_one == share]
        assert found.means[share] == pytest.approx(np.mean(own))
    assert found.highest == max(accuracy for *_, accuracy in expected)
    probes = [row["test/probe_accuracy"] for row in finished]
    assert found.probe == pytest.approx(np.nanmedian(probes))


def test_it_is_on_the_page_where_two_shares_were_tried_and_only_there(told: StudyRecord, digits: StudyRecord):
    tables = StudyTables(tidy(told))
    assert all("Accuracy against the share of labels" in text for text in pages(tables, panels(tables)))
    facts = code_facts(tidy(told))
    row = told.trials.set_index("trial").loc[told.champion.trial]
    assert (facts.label_accuracy, facts.told_share) == (row["test/label_accuracy"], row["labels.share"])
    one = replace(told, trials=told.trials.assign(**{"labels.share": 0.05}))
    for record in (one, digits):
        assert isinstance(label_accuracy(tidy(record)), Missing)
        tables = StudyTables(tidy(record))
        assert not any("Accuracy against the share" in text for text in pages(tables, panels(tables)))
