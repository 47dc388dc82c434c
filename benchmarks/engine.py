"""Training steps a second of packs of K members, beside what others write and beside the floor: tables in Markdown."""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

REPOSITORY = Path(__file__).parents[1]
ROWS, BATCH, EPOCHS = 4096, 128, 100_000
STEPS = ROWS // BATCH
PEERS = {"Lightning": "lightning", "pythae": "pythae", "PyOD VAE": "pyod"}
ALONE = ("tutorial loop", *PEERS)


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network of the benchmark: encoder and mirrored decoder."""

    features: int
    hidden: tuple[int, ...]
    latent: int
    channels: tuple[int, ...] = ()

    @property
    def side(self) -> int:
        """Height and width of the image, where there are convolutions."""
        return math.isqrt(self.features)

    def __str__(self) -> str:
        layers = "-".join(map(str, (self.features, *self.hidden, self.latent)))
        return f"{layers}, convolutions {'-'.join(map(str, self.channels))}" if self.channels else layers


NETS = {
    "T": Net(features=30, hidden=(64, 32), latent=8),
    "A": Net(features=784, hidden=(256, 128), latent=16),
    "B": Net(features=784, hidden=(400, 400), latent=20),
    "conv": Net(features=256, hidden=(64,), latent=8, channels=(8, 16)),
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="networks to train")
    parser.add_argument("--members", nargs="+", type=int, default=[1, 4, 16, 64], help="sizes of packs")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each line; their median counts")
    parser.add_argument("--peers", type=Path, help="virtual environment of the peers; made if it is not there")
    parser.add_argument("--no-peers", action="store_true", help="leave out what has to be installed first")
    parser.add_argument("--worker", nargs=3, metavar=("NAME", "NET", "MEMBERS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def rows_of(net: Net, count: int = ROWS) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows that hang together, in [0, 1]."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(count, 8)) @ random.normal(size=(8, net.features))
    return np.asarray(1 / (1 + np.exp(-hidden)), np.float32)


# What others write ---------------------------------------------------------------------------------------------------


def encoder_of(net: Net) -> nn.Sequential:
    """Features to the last hidden layer."""
    parts: list[nn.Module] = [nn.Unflatten(1, (1, net.side, net.side))] if net.channels else []
    for inputs, outputs in pairwise((1, *net.channels)):
        parts += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    parts += [nn.Flatten()] if net.channels else []
    for inputs, outputs in pairwise((flat_of(net), *net.hidden)):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts)


def decoder_of(net: Net) -> nn.Sequential:
    """Code to features."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise((net.latent, *net.hidden[::-1], flat_of(net))):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    if not net.channels:
        return nn.Sequential(*parts[:-1])
    side = net.side >> len(net.channels)
    parts.append(nn.Unflatten(1, (net.channels[-1], side, side)))
    for inputs, outputs in pairwise((*net.channels[::-1], 1)):
        parts += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts[:-1], nn.Flatten())


def flat_of(net: Net) -> int:
    """Inputs of the first hidden layer."""
    return net.channels[-1] * (net.side >> len(net.channels)) ** 2 if net.channels else net.features


class Tutorial(nn.Module):
    """A VAE as a tutorial has it."""

    def __init__(self, net: Net):
        super().__init__()
        self.encoder, self.decoder = encoder_of(net), decoder_of(net)
        self.mean, self.log_variance = (nn.Linear(net.hidden[-1], net.latent) for _ in range(2))

    def loss(self, x: Tensor) -> Tensor:
        """Half the squared error and the KL, of an example."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        error = 0.5 * functional.mse_loss(self.decoder(z), x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.square() - log_variance.exp())
        return (error + kl) / len(x)


class Turns:
    """A worker's side of taking turns: an epoch each time that the parent asks, and what it cost."""

    def __init__(self, answers: TextIO):
        self.answers, self.started = answers, 0.0
        self.taken = 0.0

    def begin(self) -> None:
        """Wait to be asked; when nobody will ask any more, this process ends."""
        print("ready" if not self.started else self.taken, file=self.answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self.started = time.process_time()

    def end(self, without: float = 0.0) -> None:
        """The epoch is over; `without`: seconds of it that were no training."""
        self.taken = time.process_time() - self.started - without


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
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encoder_of(net)
            self.mean, self.log_variance = (nn.Linear(net.hidden[-1], net.latent) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            hidden = self.layers(x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decoder_of(net)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    model = VAE(VAEConfig(input_dim=(net.features,), latent_dim=net.latent), encoder=Encoder(), decoder=Decoder())
    x_ND = torch.as_tensor(rows_of(net))
    sizes = {"per_device_train_batch_size": BATCH, "num_epochs": EPOCHS, "learning_rate": 1e-3, "no_cuda": True}
    config = BaseTrainerConfig(output_dir=tempfile.mkdtemp(), **sizes)
    trainer = BaseTrainer(model, BaseDataset(x_ND, torch.zeros(len(x_ND))), training_config=config)
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


# Ours ----------------------------------------------------------------------------------------------------------------


def ours(net: Net, members: int, turns: Turns) -> None:
    """A pack of the pipeline, without its measurements on validation."""
    from pipeline.data import Table, dataset_of
    from pipeline.spec.data import DataSpec
    from pipeline.spec.trial import TrialSpec
    from pipeline.vae.population import Member, Population

    count = ROWS * 5 // 3 + 2
    names = tuple(f"feature {number}" for number in range(net.features))
    image = (net.side, net.side) if net.channels else None
    table = Table(x_ND=rows_of(net, count), feature_names=names, image_shape=image, where="the table")
    data = dataset_of(table, DataSpec(source="parquet", path="table.parquet", scale="none"))
    network = {"kind": "conv" if net.channels else "mlp", "hidden": net.hidden, "channels": net.channels or (1,)}
    model = {"network": network, "latent_dim": net.latent, "likelihood": "gaussian", "sigma": 1.0}
    spec = TrialSpec.model_validate({"model": model, "training": {"epochs": EPOCHS, "batch_size": BATCH}})
    population = Population([Member(spec=spec, seed=seed) for seed in range(members)], data)
    assert population.steps_per_epoch == STEPS
    measured_s, measure = 0.0, population.measure

    def timed(split: str) -> Any:
        nonlocal measured_s
        started = time.process_time()
        found = measure(split)
        measured_s = time.process_time() - started
        return found

    population.measure = timed  # type: ignore[method-assign]
    while True:
        turns.begin()
        population.train_epoch()
        turns.end(without=measured_s)


def products(net: Net, members: int) -> Iterator[Callable[[], object]]:
    """Every matrix product of a step, forward and backward, by the kernel that is best for it, from the same memory."""
    from pipeline.vae.manual.layers import is_wide, onednn

    up = list(pairwise((net.features, *net.hidden)))
    head = (net.hidden[-1], net.latent)
    down = list(pairwise((net.latent, *net.hidden[::-1], net.features)))
    for index, (inputs, outputs) in enumerate([*up, head, head, *down]):
        x, weight, y = (torch.randn(members, *size) for size in ((BATCH, inputs), (inputs, outputs), (BATCH, outputs)))
        if is_wide(weight, BATCH):
            for k in range(members):
                yield lambda x=x[k], w=weight[k].T: onednn(x, w, None, "none", [], "")
                yield lambda x=x[k].T, y=y[k].T: onednn(x, y, None, "none", [], "")
                if index:
                    yield lambda y=y[k], w=weight[k]: onednn(y, w, None, "none", [], "")
            continue
        yield lambda x=x, w=weight, y=y: torch.bmm(x, w, out=y)
        into_weight, into_x = torch.empty_like(weight), torch.empty_like(x)
        yield lambda x=x, y=y, out=into_weight: torch.bmm(x.mT, y, out=out)
        if index:
            yield lambda y=y, w=weight, out=into_x: torch.bmm(y, w.mT, out=out)


def floor(net: Net, members: int, turns: Turns) -> None:
    """The matrix products of an epoch, and a fused pass of Adam a step: what no engine on these kernels leaves out."""
    model = Tutorial(net)
    size = sum(parameter.numel() for parameter in model.parameters())
    buffers = [[torch.rand(size)] for _ in range(4 * members)]
    one = {"lr": 1e-9, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8}
    jobs = list(products(net, members))
    while True:
        turns.begin()
        for _ in range(STEPS):
            for job in jobs:
                job()
            for k in range(members):
                rows = buffers[4 * k : 4 * k + 4]
                torch._fused_adamw_(*rows, [], [torch.tensor(3.0)], **one, amsgrad=False, maximize=False)
        turns.end()


def work(name: str, net: Net, members: int) -> None:
    """Be the worker of one line of the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Libraries print; the parent reads numbers only.
    turns = Turns(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    if name == "ours":
        ours(net, members, turns)
    if name == "floor":
        floor(net, members, turns)
    alone: Mapping[str, Callable[[Net, Turns], None]] = dict(
        zip(ALONE, (tutorial, with_lightning, with_pythae, with_pyod), strict=True)
    )
    alone[name](net, turns)


# The parent ----------------------------------------------------------------------------------------------------------


def peers_python(place: Path) -> str:
    """The interpreter of the peers' own environment, which never touches the project's."""
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        constraint = ["--constraint", str(REPOSITORY / "constraints.txt")]
        for package in ("torch", *PEERS.values()):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *constraint, package], check=False)
    return str(python)


class Line:
    """A worker and what it said, in milliseconds a step and member."""

    def __init__(self, python: str, name: str, net: str, members: int):
        command = [python, __file__, "--worker", name, net, str(members)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, env=environment, **streams)
        self.name, self.members, self.times_ms = name, members, list[float]()

    def is_ready(self) -> bool:
        """Wait until it is; False if it ended instead. Asked once."""
        return self.process.stdout.readline().strip() == "ready"

    def round(self) -> None:
        """Have it train for an epoch."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.times_ms.append(1e3 * float(self.process.stdout.readline()) / STEPS / self.members)

    def close(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()


def measure(lines: Sequence[Line], rounds: int) -> None:
    """All in turn, round by round, so that a machine's slow minute meets them all; the first round warms up."""
    for _ in range(rounds + 1):
        for line in lines:
            line.round()
    for line in lines:
        del line.times_ms[0]
        line.close()


def ratio(slow: Line | None, fast: Line) -> str:
    """How many times as long the slow one takes: the median of the rounds' ratios."""
    if slow is None:
        return "–"
    pairs = zip(slow.times_ms, fast.times_ms, strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


def table(name: str, lines: Sequence[Line]) -> str:
    """A network's table."""
    by_name = {(line.name, line.members): line for line in lines}
    head = f"\n#### {name}: {NETS[name]}\n\n| | ms a member-step | member-steps a second | "
    columns = [f"{other} / this" for other in ALONE]
    text = head + " | ".join([*columns, "this / floor"]) + " |\n|---|" + "---|" * (len(columns) + 3) + "\n"
    for line in lines:
        if line.name == "floor":
            continue
        ms, bound = statistics.median(line.times_ms), by_name.get(("floor", line.members))
        cells = [f"{ms:.3f}", f"{1e3 / ms:,.0f}", *(ratio(by_name.get((other, 1)), line) for other in ALONE)]
        own = f"ours, K = {line.members}" if line.name == "ours" else line.name
        distance = "–" if bound is None or line.name != "ours" else ratio(line, bound)
        text += f"| {own} | {' | '.join(cells)} | {distance} |\n"
    return text


def commit() -> str:
    """The checkout's commit, and whether it has changes."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def versions(python: str, packages: Sequence[str]) -> str:
    """Of packages in an environment; those that are not there are left out."""
    code = (
        "import sys; from importlib.metadata import distributions\n"
        "for one in distributions():\n    if one.name in sys.argv: print(one.name, one.version)"
    )
    found = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=False)
    return ", ".join(found.stdout.splitlines())


def processor() -> str:
    """The CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "an unknown CPU")


def contestants(net: str, asked: argparse.Namespace, python: str) -> Iterator[tuple[str, str, int]]:
    """Interpreter, name and number of members of each line of a network's table."""
    yield sys.executable, "tutorial loop", 1
    for name in () if asked.no_peers else PEERS:
        if not (NETS[net].channels and name == "PyOD VAE"):
            yield python, name, 1
    for members in asked.members:
        yield sys.executable, "ours", members
        if not NETS[net].channels:
            yield sys.executable, "floor", members


def main() -> None:
    """Measure network after network."""
    asked = arguments()
    if asked.worker:
        name, net, members = asked.worker
        work(name, NETS[net], int(members))
    with tempfile.TemporaryDirectory() as folder:
        python = "" if asked.no_peers else peers_python(asked.peers or Path(folder))
        known = "" if asked.no_peers else versions(python, ["torch", *PEERS.values()])
        print(
            f"{date.today()}, {processor()}, {os.cpu_count()} CPUs, one thread each, torch {torch.__version__}, "
            f"commit {commit()}, {asked.rounds} rounds of {STEPS} steps of {BATCH} rows; peers: {known or 'left out'}"
        )
        for net in asked.nets:
            # All start at once: each has to import torch first.
            started = [
                Line(interpreter, name, net, size) for interpreter, name, size in contestants(net, asked, python)
            ]
            lines = [line for line in started if line.is_ready()]
            measure(lines, asked.rounds)
            print(table(net, lines), flush=True)
            if missing := {line.name for line in started} - {line.name for line in lines}:
                print(f"Not measured: {', '.join(sorted(missing))}.\n")


if __name__ == "__main__":
    main()
