"""Why the most anomalous test rows are: which of their features the model did not expect."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import reference_rows
from pipeline.vae.evaluation import likely_parts
from pipeline.vae.families import Family
from pipeline.vae.passes import Examples, rows_per_pass
from pipeline.vae.population import Population

# So many rows for each score: which score is looked at is chosen later.
TOP_ROWS = 10


def usual_cost(population: Population) -> NDArray[np.float64]:
    """What each feature costs each member in the reconstruction term of training rows, mean nats, shape (K, D)."""
    train, members = population.examples["train"], len(population.members)
    examples = train.rows(population.index(reference_rows(len(train.x_ND))))
    total_KD = torch.zeros(members, examples.x_ND.shape[1], dtype=torch.float64, device=examples.x_ND.device)
    for cost_KND, _ in costs(population.model, examples, members):
        total_KD += cost_KND.double().sum(dim=1)
    return np.asarray((total_KD / len(examples.x_ND)).cpu().numpy())


def explained_arrays(
    population: Population, member: int, usual_D: NDArray[np.float64], test_scores: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[Any]]:
    """What the test rows with the highest scores look like, feature by feature.

    Args:
        population: Trained.
        member: Which of its members.
        usual_D: This member's `usual_cost`.
        test_scores: This member's scores of the test rows.

    Returns:
        `top_place` (T,), places in the test split of the ten highest rows of each score; `top_inputs` and
        `top_reconstructions`, (T, D), scaled; `top_contributions`, (T, D): what each feature costs in the
        reconstruction term, nats, above what it costs in training rows.
    """
    highest = [np.argsort(-score_N, kind="stable")[:TOP_ROWS] for score_N in test_scores.values()]
    place_T = np.unique(np.concatenate(highest))
    examples = population.examples["test"].rows(population.index(place_T))
    passes = [
        (cost[member], residual[member])
        for cost, residual in costs(population.model, examples, len(population.members))
    ]
    cost_TD, residual_TD = (torch.cat(part).double().cpu().numpy() for part in zip(*passes, strict=True))
    input_TD = population.data.splits["test"].x_ND[place_T]
    return {
        "top_place": place_T,
        "top_inputs": input_TD,
        "top_reconstructions": (input_TD - residual_TD).astype(np.float32),
        "top_contributions": (cost_TD - usual_D).astype(np.float32),
    }


@torch.no_grad()
def costs(model: Family, examples: Examples, members: int) -> Iterator[tuple[Tensor, Tensor]]:
    """-log p(x_d|z) of each feature at the most likely code, nats, and x - E[x|z], both (K, N, D), pass by pass."""
    model.eval()
    for x_KBD, condition_KBC in examples.passes(members, rows_per_pass(model)):
        likely = likely_parts(model, x_KBD, condition_KBC)
        yield likely.negative_log_KBD, likely.residual_KBD
