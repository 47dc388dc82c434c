"""A family that is told some labels: which, what they do to the loss, and that nobody else sees them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.distributions import Categorical, Normal, kl_divergence
from vae_study.config.data import DataConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import prepare
from vae_study.errors import UserError
from vae_study.vae.families.semi_supervised import TEMPERATURE, label_order
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import compatibility_key

from tests.vae.builders import model_setup, train

ROWS = 24


def setups(shares=(0.05, 0.5), **values):
    return [
        model_setup(3 + k, **{"family": "semi_supervised", "labels__share": share, **values})
        for k, share in enumerate(shares)
    ]


def test_a_share_of_each_label_is_told_one_row_at_least_and_more_with_a_larger_share(digits):
    indicator_NC = digits.condition("train")
    order_N = label_order(indicator_NC)
    before = set()
    for share in (0.001, 0.05, 0.2, 0.9):
        told_N = order_N < share
        counts_C, all_C = indicator_NC[told_N].sum(axis=0), indicator_NC.sum(axis=0)
        np.testing.assert_array_equal(counts_C, np.maximum(1, np.ceil(share * all_C)))
        assert before <= set(np.flatnonzero(told_N))
        before = set(np.flatnonzero(told_N))
    # Which, does not depend on the order of the labels.
    np.testing.assert_array_equal(label_order(indicator_NC[:, ::-1]), order_N)
    assert (label_order(np.zeros((5, 3), np.float32)) == 1).all()


def slow_loss(batch, x_BD, told_BC, noise_BZ, k):
    """Row by row: reconstruction, rate and log q(y|x) of the told label, or None where none is told."""
    model, classes = batch.alone(k).model, told_BC.shape[1] - 1
    share = batch.setups[k].config.model.labels.share
    for x_D, told_C, noise_Z in zip(x_BD, told_BC, noise_BZ, strict=True):
        x_11D = x_D[None, None]
        logit_C = model.label(model.classifier(x_11D))[0, 0, :classes]
        q = Categorical(logits=logit_C)
        is_told = bool(told_C[-1] < share)
        if is_told:
            label_C = told_C[:-1]
            rate = math.log(classes)
        else:
            gumbel_C = -torch.log(-torch.log(Normal(0, 1).cdf(noise_Z[:classes])))
            label_C = torch.softmax((q.logits + gumbel_C) / TEMPERATURE, dim=0)
            rate = kl_divergence(q, Categorical(logits=torch.zeros_like(logit_C)))
        hidden = model.encoder(torch.cat([x_D, label_C])[None, None])
        mean_Z, sigma_Z = model.mean(hidden)[0, 0], (0.5 * model.log_variance(hidden)[0, 0]).exp()
        z_Z = mean_Z + sigma_Z * noise_Z[classes:]
        rate = rate + kl_divergence(Normal(mean_Z, sigma_Z), Normal(0.0, 1.0)).sum()
        decoded = model.decode(torch.cat([label_C, z_Z])[None, None])
        cost = model.likelihood.negative_log(decoded, x_11D).sum()
        yield cost, rate, (q.log_prob(label_C.argmax()) if is_told else None)


def test_the_loss_is_that_of_the_definition_row_by_row(digits):
    batch = ModelBatch(setups(beta=0.7, labels__weight=3.0, latent_dim=3), digits, dtype=torch.float64)
    told = batch._told.x_ND[:ROWS], batch._told.condition_NC[:ROWS]
    noise_KBZ = batch.model.noise(1, ROWS, batch.generators("batches"))[0]
    batch.model.train()
    code = batch.model.code(*(one.expand(2, -1, -1) for one in told), noise_KBZ)
    decoded_KBE = batch.model.decode(code.z_KBZ)
    cost_KB = batch.model.likelihood.negative_log(decoded_KBE, told[0].expand(2, -1, -1)).sum(dim=2)
    for k in range(2):
        slow = [*slow_loss(batch, *told, noise_KBZ[k], k)]
        known = [one for *_, one in slow if one is not None]
        assert len(known) in range(1, ROWS)
        torch.testing.assert_close(cost_KB[k], torch.stack([cost for cost, _, _ in slow]), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(code.rate_KBR[k].sum(dim=1), torch.stack([rate for _, rate, _ in slow]))
        torch.testing.assert_close(code.auxiliary_K[k], -3.0 * torch.stack(known).mean())


def test_a_label_that_is_drawn_to_measure_comes_as_often_as_the_classifier_says(digits):
    batch = ModelBatch(setups(), digits)
    train(batch, 1)
    model = batch.model.eval()
    x_KBD = batch.examples["validation"].x_ND[:1].expand(2, -1, -1)
    draw = model.encode(x_KBD, None)
    classes, counts_KC = len(digits.classes), 0
    for noise_KBZ in model.noise(3000, 1, batch.generators("evaluation")):
        label_KBC = draw(noise_KBZ).z_KBZ[..., :classes].detach()
        assert label_KBC.sum() == 2
        counts_KC = counts_KC + label_KBC[:, 0]
    logit_KC = model.label(model.classifier(x_KBD))[:, 0, :classes]
    expected_KC = 3000 * torch.softmax(logit_KC.double(), dim=1)
    for counts_C, expected_C in zip(counts_KC.numpy(), expected_KC.detach().numpy(), strict=True):
        assert chisquare(counts_C, expected_C * counts_C.sum() / expected_C.sum()).pvalue > 1e-3


def test_measuring_is_told_no_label_and_training_none_beyond_the_share(digits):
    split = digits.splits["train"]
    changed = split.label_code_N.copy()
    # Rows that are not told exchange their labels; the order is that of the true ones.
    order_N = label_order(digits.condition("train"))
    rows = np.flatnonzero((order_N >= 0.5) & (order_N < 1))
    batches = []
    for codes in (split.label_code_N, changed):
        data = replace(digits, splits={**digits.splits, "train": replace(split, label_code_N=codes)})
        batch = ModelBatch(setups(shares=(0.5,)), data)
        if codes is changed:
            told_NC = batch.model.told(digits.condition("train"))
            told_NC[rows, :-1] = told_NC[np.roll(rows, 7), :-1]
            batch._told = batch._told._replace(condition_NC=batch.tensor(told_NC))
        batches.append((train(batch, 2), batch.measure("train")[0].sampled_reconstruction_N))
    assert batches[0][0] == batches[1][0]
    np.testing.assert_array_equal(batches[0][1], batches[1][1])


def test_rows_whose_label_is_not_known_are_told_to_nobody_and_all_others_with_a_share_of_one():
    data = prepare(DataConfig(source="digits", anomaly_labels=(8,), unlabelled=(0, 1, 2, 3)))
    assert data.classes == ("4", "5", "6", "7", "9")
    batch = ModelBatch(setups(shares=(1.0, 0.1), training__epochs=15), data)
    told_NC = batch._told.condition_NC.numpy()
    label_N = data.splits["train"].label_N
    for share, is_told_N in ((1.0, np.isin(label_N, data.classes)), (0.1, told_NC[:, -1] < 0.1)):
        np.testing.assert_array_equal(told_NC[:, -1] < share, is_told_N)
        assert (told_NC[is_told_N, :-1].argmax(axis=1) == [data.classes.index(one) for one in label_N[is_told_N]]).all()
    train(batch, 15)
    # By chance, a fifth of those whose label is known.
    for outcome in outcomes_of(batch, DiagnosticsConfig(iwae_draws=0)):
        assert outcome.metrics["test/label_accuracy"] > 0.4


def test_the_accuracy_is_the_share_of_normal_rows_whose_likeliest_label_is_their_own(digits):
    batch = ModelBatch(setups(training__epochs=12), digits)
    train(batch, 12)
    test, model = digits.splits["test"], batch.model.eval()
    x_KND = torch.as_tensor(test.x_ND[~test.is_anomaly_N]).expand(2, -1, -1)
    logit_KNC = model.label(model.classifier(x_KND))[..., : len(digits.classes)]
    for k, outcome in enumerate(outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))):
        said = [digits.classes[place] for place in logit_KNC[k].argmax(dim=1)]
        right = [one == own for one, own in zip(said, test.label_N[~test.is_anomaly_N], strict=True)]
        assert outcome.metrics["test/label_accuracy"] == pytest.approx(np.mean(right))
    # Half of the labels are worth more than one in twenty.
    assert np.mean([one == own for one, own in zip(said, test.label_N[~test.is_anomaly_N], strict=True)]) > 0.3


def test_models_with_other_shares_and_weights_are_trained_together_and_steps_have_no_label(digits):
    few, many = setups(shares=(0.01, 0.9), labels__weight=2.0)
    assert compatibility_key(few.config) == compatibility_key(many.config)
    by_step = model_setup(
        family="semi_supervised", latent="step", network__kind="recurrent", network__hidden=(8,)
    ).config.model
    with pytest.raises(UserError, match="expected 'window' for family semi_supervised"):
        by_step.require_data(has_pixels=True, has_sequences=True)
