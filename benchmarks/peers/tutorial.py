"""The loop of the tutorials: a DataLoader, autograd, Adam, and metrics of the validation rows after every epoch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

LEARNING_RATE, BATCH = 1e-3, 128


class Vae(nn.Module):
    """A Bernoulli VAE with hidden widths 256 and 128."""

    def __init__(self, features: int, latent_dim: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(128, latent_dim), nn.Linear(128, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, features)
        )

    def forward(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction term and KL of each example, nats, (B,) each."""
        hidden = self.encoder(x_BD)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        cost = functional.binary_cross_entropy_with_logits(self.decoder(z), x_BD, reduction="none").sum(dim=1)
        kl = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1)
        return cost, kl


def train(
    data: Path, beta: float, latent_dim: int, epochs: int, seed: int, log: Callable[[int, dict[str, float]], None]
) -> dict[str, float]:
    """Train one configuration, log every epoch, and give the last metrics with the test AUROC of the negative ELBO."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with np.load(data) as arrays:
        rows = {name: torch.as_tensor(arrays[name]) for name in arrays.files}
    loader = DataLoader(TensorDataset(rows["train"]), batch_size=BATCH, shuffle=True, drop_last=True)
    model = Vae(rows["train"].shape[1], latent_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    metrics: dict[str, float] = {}
    for epoch in range(1, epochs + 1):
        total = 0.0
        for (x_BD,) in loader:
            cost, kl = model(x_BD)
            loss = (cost + beta * kl).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        with torch.no_grad():
            cost, kl = model(rows["validation"])
        metrics = {
            "train_loss": total / len(loader),
            "val_reconstruction": cost.mean().item(),
            "val_kl": kl.mean().item(),
            "val_elbo": -(cost + kl).mean().item(),
        }
        log(epoch, metrics)
    with torch.no_grad():
        cost, kl = model(rows["test"])
    return {**metrics, "test_auroc": float(roc_auc_score(rows["test_is_anomaly"], cost + kl))}
