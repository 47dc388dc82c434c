"""How fast a GPU trains batches of models, kernel by kernel and as a CUDA graph, beside the tutorial loop and limits.

python -m benchmarks.gpu

One command for whoever has a GPU, about 8 minutes: tables in Markdown, as they are done. It has not yet been run on
one. First it checks that the GPU takes the same steps as the CPU.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vae_study.vae.device import (
    compute_in_float32,
    device_name,
    is_gpu_lost,
    is_out_of_memory,
    on_host,
    what_torch_sees,
)
from vae_study.vae.gpu import captured_step
from vae_study.vae.model_batch import ModelBatch

from benchmarks.engine import batch_of
from benchmarks.peers.environment import machine
from benchmarks.peers.networks import BATCH, NETS, Net, Tutorial, rows_of
from tests.vae.builders import digits_data, model_setup
from tests.vae.test_families import LIKELIHOODS, VARIANTS

# A step of Adam reads four numbers for each of a model's, and writes three.
PASSES_OF_ADAM = 7
# More than are measured: the schedules of 256 models take a gigabyte of the host.
EPOCHS = 10_000
CONFIGURATIONS = VARIANTS | LIKELIHOODS
STUDY = ("trials=32", "training.epochs=20", "confirm=null", "resources={cpu: 1, gpu: 1, trials_per_device: 16}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where to train; cpu tries the command itself")
    parser.add_argument(
        "--check", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS), help="what to check"
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["T", "A", "B", "conv"], help="networks to train")
    parser.add_argument("--models", nargs="+", type=int, default=[1, 16, 64, 256], help="sizes of batches")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure each number")
    parser.add_argument("--minutes", type=float, default=6.5, help="then, no further number is measured")
    parser.add_argument("--no-study", action="store_true", help="leave out the whole study")
    asked = parser.parse_args(words)
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"no GPU: this is {what_torch_sees()}; --device cpu tries the command itself")
    asked.until = time.monotonic() + 60 * asked.minutes
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """Check, then measure."""
    asked = arguments(words)
    torch.set_num_threads(1)
    compute_in_float32()
    print(f"{machine()}, {device_name(asked.device)}\n")
    print(f"{agreement(asked.device, asked.check)}\n", flush=True)
    launch_s, bytes_per_s = limits(asked.device, asked.seconds)
    print(f"A launch takes {launch_s * 1e6:.1f} us; memory moves {bytes_per_s / 1e9:,.0f} GB a second.")
    print(adam(asked, bytes_per_s), flush=True)
    for name in asked.nets:
        print(table(name, asked, bytes_per_s), flush=True)
    if not asked.no_study:
        print(study(asked.device))


def agreement(device: str, names: Sequence[str]) -> str:
    """How far one step's losses and gradients on the device are from the CPU's, over some configurations."""
    digits, found, failed = digits_data(), dict[str, float](), dict[str, str]()
    for name in names:
        setups = [model_setup(k, latent_dim=4, **CONFIGURATIONS[name]) for k in range(4)]
        try:
            ours, theirs = (one_step(ModelBatch(setups, digits, device=place)) for place in ("cpu", device))
        except RuntimeError as error:
            if is_gpu_lost(error):
                raise
            failed[name] = str(error).partition("\n")[0]
            continue
        found[name] = max(float((a - b).norm() / a.norm().clamp(min=1e-6)) for a, b in zip(ours, theirs, strict=True))
    far = {name: f"{off:.1e}" for name, off in found.items() if not off < 1e-3}
    text = f"One step of {len(names)} configurations, beside the CPU's: the largest relative difference of losses and "
    text += f"gradients is {max(found.values(), default=0):.1e}; {f'too far: {far}' if far else 'all agree'}."
    return f"{text} Failed: {failed}." if failed else text


def one_step(batch: ModelBatch) -> list[torch.Tensor]:
    """Losses and gradients of a step on the first rows, with the host's noise: devices draw different numbers."""
    models, rows = len(batch.setups), batch.batch_size
    random = torch.Generator().manual_seed(0)
    latent, features = batch.model.code_mask_KZ.shape[1], batch.model.shape.features
    noise, corruption = (torch.randn(models, rows, size, generator=random) for size in (latent, features))
    corruption_KBD = corruption.to(batch.device) if batch.model.corrupts else None
    batch.model.train()
    rows_KB = torch.arange(rows, device=batch.device).expand(models, -1).contiguous()
    weight_K = torch.ones(models, device=batch.device)
    losses = batch._step(rows_KB, noise.to(batch.device), weight_K, corruption_KBD, lambda: None)
    return on_host([losses.beside(weight_K), batch.adam.gradient_KP])


def limits(device: str, seconds: float) -> tuple[float, float]:
    """Seconds that a launch takes, and bytes that memory moves a second."""
    small, large = torch.zeros(1, device=device), torch.zeros(2**26, device=device)
    other = torch.empty_like(large)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    launch_s = timed(launches, device, seconds / 4) / 1000
    return launch_s, 2 * large.nbytes / timed(lambda: other.copy_(large), device, seconds / 4)


def adam(asked: argparse.Namespace, bytes_per_s: float) -> str:
    """A sentence on Adam's step alone, in one pass and in several."""
    batch = batch_of(NETS["A"], 64 if asked.device == "cuda" else 1, asked.device, EPOCHS)
    batch._begin_epoch()
    batch.adam.is_fused = False
    columns_3K1, one_pass = batch.adam.columns_3SK1[:, 0], batch.adam.one_pass

    def microseconds(way: Any) -> str:
        batch.adam.one_pass = way
        return f"{1e6 * timed(lambda: batch.adam.step_by(columns_3K1), asked.device, asked.seconds / 4):,.0f} us"

    limit = PASSES_OF_ADAM * 4 * batch.adam.parameters_KP.numel() / bytes_per_s
    one = microseconds(one_pass) if one_pass else "not used"
    text = f"Adam of {len(batch.setups)} models of net A: {microseconds(None)} in several passes; in one: {one}; "
    return f"{text}memory allows {1e6 * limit:,.0f} us."


def timed(work: Callable[[], object], device: str, seconds: float) -> float:
    """Seconds that a piece of work takes, by the clock, after a warm-up."""
    work()
    wait(device)
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - started < seconds:
        work()
        count += 1
        wait(device)
    return (time.perf_counter() - started) / count


def free_memory() -> None:
    """Give back what earlier measurements held on the device."""
    gc.collect()
    torch.cuda.empty_cache()


def wait(device: str) -> None:
    """Until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def table(name: str, asked: argparse.Namespace, bytes_per_s: float) -> str:
    """A network's table."""
    net = NETS[name]
    loop_s = tutorial(net, asked.device, asked.seconds)
    text = f"\n#### {name}: {net}; the tutorial loop takes {1 / loop_s:,.0f} steps a second\n\n"
    heads = ("models", "model-steps a second, kernel by kernel", "as a graph", "graph / loop", "graph / memory limit")
    text += f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
    for models in asked.models:
        (eager_s, size), (graph_s, _) = (measured(net, models, asked, is_graph) for is_graph in (False, True))
        limit_s = PASSES_OF_ADAM * size * 4 / bytes_per_s
        cells = [f"{models / one:,.0f}" if one else "–" for one in (eager_s, graph_s)]
        cells += [f"{models * loop_s / graph_s:.1f}", f"{graph_s / limit_s:.1f}"] if graph_s else ["–", "–"]
        text += f"| {models} | {' | '.join(cells)} |\n"
    return text


def measured(net: Net, models: int, asked: argparse.Namespace, is_graph: bool) -> tuple[float | None, int]:
    """Seconds of a step, and the numbers that the models have; None without graphs, memory or time."""
    has_graphs = asked.device in captured_step.RECORDERS
    if (is_graph and not has_graphs) or time.monotonic() > asked.until:
        return None, 0
    # That one failed with another net says nothing of this one.
    captured_step.REFUSED.clear()
    free_memory()
    try:
        with graphs(is_graph):
            batch = batch_of(net, models, asked.device, EPOCHS)
            seconds = timed(lambda: steps(batch), asked.device, asked.seconds) / batch.steps_per_epoch
            return (None if is_graph and captured_step.REFUSED else seconds), batch.adam.parameters_KP.numel()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None, 0


@contextmanager
def graphs(are_used: bool) -> Iterator[None]:
    """With or without CUDA graphs."""
    before = dict(captured_step.RECORDERS)
    if not are_used:
        captured_step.RECORDERS.clear()
    try:
        yield
    finally:
        captured_step.RECORDERS.update(before)


def steps(batch: Any) -> None:
    """An epoch's steps, without what is measured after them."""
    weight_SK, rows_SKB = batch._begin_epoch(), batch._minibatches()
    batch._take_steps(rows_SKB, weight_SK)
    for progress in batch.progress_K:
        progress.epoch += 1


def tutorial(net: Net, device: str, seconds: float) -> float:
    """Seconds of a step of one model in a loop as a tutorial has it, the rows on the device already."""
    torch.manual_seed(0)
    model = Tutorial(net).to(device)
    optimizer, rows = torch.optim.Adam(model.parameters(), lr=1e-3), torch.as_tensor(rows_of(net)).to(device)

    def epoch() -> None:
        for batch in rows[torch.randperm(len(rows), device=device)].split(BATCH):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()

    return timed(epoch, device, seconds) / (len(rows) // BATCH)


def study(device: str) -> str:
    """Trials an hour of a whole study, the start of Ray and the scoring of the models included."""
    free_memory()
    settings = [setting.replace("gpu: 1", "gpu: 0") if device == "cpu" else setting for setting in STUDY]
    words = [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as home:
        command = ["run", "search_spaces/digits.yaml", "--home", home, "--no-report", *words]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "vae_study", *command], check=True, stdout=subprocess.DEVNULL)
        rate = 32 * 3600 / (time.perf_counter() - started)
    return f"\nA study of 32 trials of 20 epochs: {rate:,.0f} trials an hour."


if __name__ == "__main__":
    main()
