"""Training steps a second of batches of K models, beside what others write and beside the floor: tables in Markdown.

python -m benchmarks.engine
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.environment import interpreter, machine, versions
from benchmarks.peers.networks import BATCH, EPOCHS, NETS, ROWS, STEPS, Net, Tutorial, rows_of
from benchmarks.turns import Turns, Worker, measure, ratio

PEERS = ("Lightning", "pythae", "PyOD VAE")
ALONE = ("tutorial loop", *PEERS)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="networks to train")
    parser.add_argument("--models", nargs="+", type=int, default=[1, 4, 16, 64], help="sizes of batches")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each line; their median counts")
    parser.add_argument("--peers", type=Path, help="virtual environment of the peers; made if it is not there")
    parser.add_argument("--no-peers", action="store_true", help="leave out what has to be installed first")
    parser.add_argument("--worker", nargs=3, metavar=("NAME", "NET", "MEMBERS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def batch_of(net: Net, models: int, device: str = "cpu", epochs: int = EPOCHS) -> Any:
    """A batch of ours, the same networks as the tutorial's."""
    from vae_study.config.data import DataConfig
    from vae_study.config.model import TrialConfig
    from vae_study.data import Table, build_dataset
    from vae_study.vae.model_batch import ModelBatch
    from vae_study.vae.stacking import ModelSetup

    count = ROWS * 5 // 3 + 2
    names = tuple(f"feature {number}" for number in range(net.features))
    image = (net.side, net.side) if net.channels else None
    table = Table(x_ND=rows_of(net, count), feature_names=names, image_shape=image, where="the table")
    data = build_dataset(table, DataConfig(source="parquet", path="table.parquet", scale="none"))
    data = replace(data, sequence_shape=(net.steps, net.features // net.steps) if net.steps else None)
    kind = "conv" if net.channels else "recurrent" if net.steps else "mlp"
    network = {"kind": kind, "hidden": net.hidden, "channels": net.channels or (1,)}
    model = {"network": network, "latent_dim": net.latent, "likelihood": "gaussian", "sigma": 1.0}
    config = TrialConfig.model_validate({"model": model, "training": {"epochs": epochs, "batch_size": BATCH}})
    return ModelBatch([ModelSetup(config=config, seed=seed) for seed in range(models)], data, device=device)


def ours(net: Net, models: int, turns: Turns) -> None:
    """A batch of ours, without its measurements on validation."""
    model_batch = batch_of(net, models)
    assert model_batch.steps_per_epoch == STEPS
    measured_s, measure = 0.0, model_batch.measure_beside

    def timed(split: str, beside: torch.Tensor) -> Any:
        nonlocal measured_s
        started = time.process_time()
        found = measure(split, beside)
        measured_s = time.process_time() - started
        return found

    model_batch.measure_beside = timed  # type: ignore[method-assign]
    while True:
        turns.begin()
        model_batch.train_epoch()
        turns.end(without=measured_s)


def products(net: Net, models: int) -> Iterator[Callable[[], object]]:
    """Every matrix product of a step, forward and backward, by the kernel that is best for it, from the same memory."""
    from vae_study.vae.kernels import is_wide, onednn

    up = list(pairwise((net.features, *net.hidden)))
    head = (net.hidden[-1], net.latent)
    down = list(pairwise((net.latent, *net.hidden[::-1], net.features)))
    for index, (inputs, outputs) in enumerate([*up, head, head, *down]):
        x, weight, y = (torch.randn(models, *size) for size in ((BATCH, inputs), (inputs, outputs), (BATCH, outputs)))
        if is_wide(weight, BATCH):
            for k in range(models):
                yield lambda x=x[k], w=weight[k].T: onednn(x, w)
                yield lambda x=x[k].T, y=y[k].T: onednn(x, y)
                if index:
                    yield lambda y=y[k], w=weight[k]: onednn(y, w)
            continue
        yield lambda x=x, w=weight, y=y: torch.bmm(x, w, out=y)
        into_weight, into_x = torch.empty_like(weight), torch.empty_like(x)
        yield lambda x=x, y=y, out=into_weight: torch.bmm(x.mT, y, out=out)
        if index:
            yield lambda y=y, w=weight, out=into_x: torch.bmm(y, w.mT, out=out)


def floor(net: Net, models: int, turns: Turns) -> None:
    """The matrix products of an epoch, and a fused pass of Adam a step: what no engine on these kernels leaves out."""
    from vae_study.vae.kernels import FUSED_ADAMW

    model = Tutorial(net)
    size = sum(parameter.numel() for parameter in model.parameters())
    buffers = [[torch.rand(size)] for _ in range(4 * models)]
    one = {"lr": 1e-9, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8}
    jobs = list(products(net, models))
    while True:
        turns.begin()
        for _ in range(STEPS):
            for job in jobs:
                job()
            for k in range(models):
                rows = buffers[4 * k : 4 * k + 4]
                FUSED_ADAMW(*rows, [], [torch.tensor(3.0)], **one, amsgrad=False, maximize=False)
        turns.end()


def work(name: str, net: Net, models: int) -> None:
    """Be the worker of one of our own lines of the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    {"ours": ours, "floor": floor}[name](net, models, Turns.quietly())


def start(net: str, asked: argparse.Namespace, python: str) -> dict[tuple[str, int], Worker]:
    """The workers of a network's table by name and number of models; those that do not come up are left out.

    All start at once: each has to import torch first.
    """
    commands = {("tutorial loop", 1): [sys.executable, "-m", "benchmarks.peers.loops", "tutorial loop", net]}
    for name in () if asked.no_peers else PEERS:
        if not ((NETS[net].channels or NETS[net].steps) and name == "PyOD VAE"):
            commands[name, 1] = [python, "-m", "benchmarks.peers.loops", name, net]
    for models in asked.models:
        # The floor is that of linear layers.
        for name in ("ours",) if NETS[net].channels or NETS[net].steps else ("ours", "floor"):
            worker = ["--worker", name, net, str(models)]
            commands[name, models] = [sys.executable, "-m", "benchmarks.engine", *worker]
    started = {key: Worker(command, STEPS * key[1], key[0]) for key, command in commands.items()}
    return {key: worker for key, worker in started.items() if worker.is_ready()}


def table(name: str, workers: dict[tuple[str, int], Worker]) -> str:
    """A network's table."""
    head = f"\n#### {name}: {NETS[name]}\n\n| | ms a model-step | model-steps a second | "
    columns = [f"{other} / this" for other in ALONE]
    text = head + " | ".join([*columns, "this / floor"]) + " |\n|---|" + "---|" * (len(columns) + 3) + "\n"
    for (line, models), worker in workers.items():
        if line == "floor":
            continue
        cells = [f"{worker.ms:.3f}", f"{1e3 / worker.ms:,.0f}"]
        cells += [ratio(workers.get((other, 1)), worker) for other in ALONE]
        floor_too = workers.get(("floor", models)) if line == "ours" else None
        cells.append("–" if floor_too is None else ratio(worker, floor_too))
        text += f"| {f'ours, K = {models}' if line == 'ours' else line} | {' | '.join(cells)} |\n"
    return text


def main() -> None:
    """Measure network after network."""
    asked = arguments()
    if asked.worker:
        name, net, models = asked.worker
        work(name, NETS[net], int(models))
    with tempfile.TemporaryDirectory() as folder:
        python = "" if asked.no_peers else interpreter(asked.peers or Path(folder))
        known = "" if asked.no_peers else versions(python)
        peers = f"peers: {known or 'left out'}"
        print(f"{machine()}, {asked.rounds} rounds of {STEPS} steps of {BATCH} rows; {peers}")
        for net in asked.nets:
            workers = start(net, asked, python)
            measure(list(workers.values()), asked.rounds)
            print(table(net, workers), flush=True)


if __name__ == "__main__":
    main()
