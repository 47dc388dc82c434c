"""The scoring of others; as a program, the worker of one of them: its name, columns, rows to score."""

import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch

from benchmarks.peers.networks import Net, pythae_vae
from benchmarks.turns import Turns

TRAINED_ROWS, DRAWS = 4096, 100
Scorer = Callable[[np.ndarray], object]


def with_pyod(net: Net, x_ND: np.ndarray) -> Scorer:
    """PyOD's `decision_function`, its squared error."""
    from pyod.models.vae import VAE

    widths = {"encoder_neuron_list": list(net.hidden), "decoder_neuron_list": list(net.hidden[::-1])}
    model = VAE(latent_dim=net.latent, epoch_num=1, device="cpu", verbose=0, **widths)
    model.fit(x_ND[:TRAINED_ROWS])
    return model.decision_function


def with_pythae(net: Net, x_ND: np.ndarray) -> Scorer:
    """Pythae's `get_nll`, the importance-weighted bound."""
    model = pythae_vae(net).eval()

    def score(rows_ND: np.ndarray) -> object:
        with torch.no_grad():
            return model.get_nll(torch.as_tensor(rows_ND), n_samples=DRAWS, batch_size=DRAWS)

    return score


SCORERS: Mapping[str, Callable[[Net, np.ndarray], Scorer]] = {"pyod": with_pyod, "pythae": with_pythae}


def main() -> None:
    """Score the same rows again and again."""
    torch.set_num_threads(1)
    name, columns, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    turns = Turns.quietly()
    x_ND = np.random.default_rng(0).normal(size=(max(rows, TRAINED_ROWS), columns)).astype(np.float32)
    score = SCORERS[name](Net(features=columns, hidden=(64, 32), latent=8), x_ND)
    while True:
        turns.begin()
        score(x_ND[:rows])
        turns.end()


if __name__ == "__main__":
    main()
