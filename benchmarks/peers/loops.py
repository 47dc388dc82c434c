"""The training loops of others; as a program, the worker of one of them."""

import sys
import tempfile
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.networks import BATCH, EPOCHS, NETS, Net, Tutorial, pythae_vae, rows_of
from benchmarks.turns import Turns


def tutorial(net: Net, turns: Turns) -> None:
    """The loop of a tutorial: DataLoader, autograd, Adam, a running sum of losses."""
    model = Tutorial(net)
    loader = DataLoader(TensorDataset(torch.as_tensor(rows_of(net))), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while True:
        turns.begin()
        total = 0.0
        for (x,) in loader:
            optimizer.zero_grad()
            loss = model.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item()
        turns.end()


def with_lightning(net: Net, turns: Turns) -> None:
    """The same model as a LightningModule."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Tutorial(net)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss = self.model.loss(batch[0])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

        def on_train_epoch_start(self) -> None:
            turns.begin()

        def on_train_epoch_end(self) -> None:
            turns.end()

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    loader = DataLoader(TensorDataset(torch.as_tensor(rows_of(net))), batch_size=BATCH, shuffle=True)
    lightning.Trainer(max_epochs=EPOCHS, **quiet).fit(Module(), loader)


def with_pythae(net: Net, turns: Turns) -> None:
    """The same networks in pythae's VAE and trainer."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    x_ND = torch.as_tensor(rows_of(net))
    sizes = {"per_device_train_batch_size": BATCH, "num_epochs": EPOCHS, "learning_rate": 1e-3, "no_cuda": True}
    config = BaseTrainerConfig(output_dir=tempfile.mkdtemp(), **sizes)
    trainer = BaseTrainer(pythae_vae(net), BaseDataset(x_ND, torch.zeros(len(x_ND))), training_config=config)
    trainer.prepare_training()
    for epoch in range(1, EPOCHS):
        turns.begin()
        trainer.train_step(epoch)
        turns.end()


def with_pyod(net: Net, turns: Turns) -> None:
    """The same network as PyOD's detector; it has no convolutions."""
    from pyod.models.vae import VAE

    class Detector(VAE):  # type: ignore[misc, valid-type]
        def training_prepare(self) -> None:
            super().training_prepare()
            turns.begin()

        def epoch_update(self) -> None:
            turns.end()
            turns.begin()

    widths = {"encoder_neuron_list": list(net.hidden), "decoder_neuron_list": list(net.hidden[::-1])}
    settings = {"batch_size": BATCH, "epoch_num": EPOCHS, "dropout_rate": 0.0, "device": "cpu", "verbose": 0}
    Detector(latent_dim=net.latent, **widths, **settings).fit(rows_of(net))


LOOPS: Mapping[str, Callable[[Net, Turns], None]] = {
    "tutorial loop": tutorial,
    "Lightning": with_lightning,
    "pythae": with_pythae,
    "PyOD VAE": with_pyod,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    LOOPS[sys.argv[1]](NETS[sys.argv[2]], Turns.quietly())
