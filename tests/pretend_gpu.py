"""A GPU that is not there: the way of the code on a GPU runs on any machine, with real numbers.

    with PretendGpu() as gpu:
        batch = ModelBatch(setups, data, device=PRETEND)
        with gpu.counting("epoch"):
            batch.train_epoch()
    gpu.launches("epoch"), gpu.waits("epoch")

A tensor on it says that its device is PRETEND and has its numbers in the host's memory. What CUDA would not do raises
PretendGpuError, with the line of the package that asked for it:

- an operator on tensors of two devices; only a number without dimensions may come from the host,
- random numbers by a generator of another device,
- an operator for which torch has no CUDA kernel, by the table that torch is generated from.

What CUDA would do is counted: each kernel that is launched, the numbers that kernels read and write, and each place
where the host waits for the device: a value that Python asks for, a mask as an index, a copy from or to the host. It
knows neither streams nor how long anything takes, and rounds as the CPU does.

`record` stands for a CUDA graph: what it returns repeats the kernels of a function on the memory that they had, with
the numbers that Python had. Unlike CUDA, it also runs what it records.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.amp.autocast_mode import _cast
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

PRETEND = "pretend"
PACKAGE = "/vae_study/"
COPIES = ("_to_copy", "copy_", "_copy_from")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# Of these the host needs a value or a size that only the device knows.
WAITING = (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_consecutive", "_unique2",
    "bincount", "multinomial", "repeat_interleave",
)  # fmt: skip
# These launch no kernel, and are not known as views by their schemas.
WITHOUT_KERNEL = (
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias", "_unsafe_view",
    "_reshape_alias", "lift_fresh",
)  # fmt: skip
# Of these, torch.autocast rounds the factors.
PRODUCTS = ("bmm", "baddbmm", "mm", "addmm", "conv1d", "conv2d")
_HostGenerator = torch.Generator
_library, _others = (torch.library.Library(namespace, "IMPL") for namespace in ("aten", "_"))


class PretendGpuError(RuntimeError):
    """What CUDA would refuse."""


class PretendTensor(Tensor):
    """A tensor of the pretend GPU; `host` has its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "PretendTensor":
        """On the pretend GPU, with the numbers and the layout of a tensor of the host."""
        made = Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=torch.device(PRETEND, 0),
        )  # fmt: skip
        made.host = host
        return made

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: "PretendTensor") -> None:
        # torch exchanges what it knows of the tensor, and not `host`.
        Tensor.data.__set__(self, other)
        self.host = other.host

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            with torch.no_grad():
                copied = self.detach().clone()
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]

    def __repr__(self) -> str:
        return f"PretendTensor({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert PretendGpu.current is not None, "the pretend GPU is off"
        return PretendGpu.current.run(func, args, kwargs or {})


class PretendGenerator(_HostGenerator):
    """A generator of the pretend GPU: the numbers are those of a generator of the host with the same seed."""


class _AnyGenerator(_HostGenerator):
    """In the place of torch.Generator: makes the generators of both devices."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        return PretendGenerator() if torch.device(device).type == PRETEND else _HostGenerator(device)


@functools.cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(PRETEND)
    getattr(torch, PRETEND).get_amp_supported_dtype = lambda: [torch.bfloat16]
    _others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in PRODUCTS:
        product = getattr(torch.ops.aten, name).default
        _library.impl(name, functools.partial(_autocast, product), "AutocastPrivateUse1")


def _autocast(product: Any, *args: Any, **kwargs: Any) -> Any:
    """A product with its factors in the dtype of torch.autocast."""
    off = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(off):
        return product(*_cast(args, PRETEND, torch.get_autocast_dtype(PRETEND)), **kwargs)


@functools.cache
def _has_kernel_on_cuda() -> Mapping[str, bool]:
    """Of each of torch's operators whether it runs on CUDA: by a kernel of its own or made of others."""
    table = files("torchgen") / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = yaml.load(table.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    known, through = {}, {}
    for entry in entries:
        name = entry["func"].partition("(")[0]
        keys = [key.strip() for keys in entry.get("dispatch") or {} for key in keys.split(",")]
        is_composite = not keys or "ufunc_inner_loop" in entry or any(key.startswith("Composite") for key in keys)
        known[name] = is_composite or "CUDA" in keys
        if "structured_delegate" in entry:
            through[name] = entry["structured_delegate"]
        known |= {other.strip(): True for other in entry.get("autogen", "").split(",") if other.strip() not in known}
    return known | {name: known.get(other, True) for name, other in through.items()}


class PretendGpu(TorchDispatchMode):
    """Switches the pretend GPU on for a `with`, and counts."""

    current: "PretendGpu | None" = None

    def __init__(self) -> None:
        super().__init__()
        _register()
        self._counted: list[str] = []
        self._launches: Counter[tuple[str, str]] = Counter()
        self._waits: Counter[tuple[str, str]] = Counter()
        self._traffic: Counter[str] = Counter()
        self._tape: list[Any] | None = None

    @contextlib.contextmanager
    def counting(self, what: str) -> Iterator[None]:
        """Count what happens under a name; names may lie in each other."""
        self._counted.append(what)
        try:
            yield
        finally:
            self._counted.pop()

    def count_calls(self, what: str, owner: Any, method: str) -> None:
        """Count under a name what happens in each call of a method of an object."""
        whole = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.counting(what):
                return whole(*args, **kwargs)

        setattr(owner, method, counted)

    def launches(self, what: str) -> Counter[str]:
        """How often each kernel was launched under a name."""
        return Counter({kernel: count for (name, kernel), count in self._launches.items() if name == what})

    def traffic(self, what: str) -> int:
        """How many numbers the kernels under a name have read and written, each tensor as a whole."""
        return self._traffic[what]

    def waits(self, what: str) -> Counter[str]:
        """How often the host waited under a name, by why and where."""
        return Counter({place: count for (name, place), count in self._waits.items() if name == what})

    @property
    def is_recording(self) -> bool:
        """Whether a graph is being recorded; then the host may neither wait nor draw."""
        return self._tape is not None

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """What repeats the kernels of a step, as a CUDA graph does."""
        self._tape = tape = []
        try:
            step()
        finally:
            self._tape = None

        def replay() -> None:
            self._count("a graph", 1)
            with torch.no_grad(), _disable_current_modes():
                for func, args, kwargs, out in tape:
                    _repeat(func, args, kwargs, out)

        return replay

    def __enter__(self) -> "PretendGpu":
        with contextlib.ExitStack() as stack:
            stack.enter_context(_replaced(PretendGpu, "current", self))
            stack.enter_context(_replaced(torch, "Generator", _AnyGenerator))
            # In inference mode no tensor of a class of its own can be made.
            stack.enter_context(_replaced(torch.inference_mode, "__enter__", _enter_no_grad))
            stack.enter_context(_replaced(torch.inference_mode, "__exit__", _leave_no_grad))
            # The threads of autograd would not know of this mode.
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            stack.enter_context(_Functions())
            super().__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operator, on the host if nothing of it is on the pretend GPU."""
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        from_gpu = any(isinstance(one, PretendTensor) for one in tensors)
        asked = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        to_gpu = from_gpu if asked is None else asked == PRETEND
        if not (from_gpu or to_gpu):
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        self._judge(func, name, args, tensors, to_gpu)
        host_args, host_kwargs = tree_map_only(PretendTensor, lambda one: one.host, (args, kwargs))
        if asked is not None:
            del host_kwargs["device"]
            if name != "_to_copy":
                host_kwargs["device"] = torch.device("cpu")
        out = func(*host_args, **host_kwargs)
        if not _is_view(func) and name not in WITHOUT_KERNEL:
            if self._counted:
                self._traffic.update(dict.fromkeys(self._counted, _moved(func, host_args, host_kwargs, out)))
            if self._tape is not None:
                self._tape.append((func, host_args, host_kwargs, out))
        if not to_gpu:
            return out
        out = tree_map_only(Tensor, PretendTensor, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if from_gpu else out

    def _judge(self, func: Any, name: str, args: Any, tensors: list[Tensor], to_gpu: bool) -> None:
        """Count an operator, and refuse it where CUDA would."""
        from_host = [one for one in tensors if not isinstance(one, PretendTensor)]
        if name in COPIES:
            to_gpu = isinstance(args[0], PretendTensor) if name == "copy_" else to_gpu
            if not to_gpu or from_host:
                return self._wait(f"a copy {'from' if to_gpu else 'to'} the host")
        elif any(one.dim() for one in from_host) and len(from_host) < len(tensors):
            if name not in INDEXING or not isinstance(args[0], PretendTensor):
                raise PretendGpuError(f"{func}: tensors of two devices, at {_place()}")
            self._wait("an index of the host")
        full = f"{name}.{func._schema.overload_name}".rstrip(".")
        if func._schema.name.startswith("mkldnn") or not _has_kernel_on_cuda().get(full, True):
            raise PretendGpuError(f"{func}: no kernel for CUDA, at {_place()}")
        if name in WAITING:
            self._wait(name)
        if name in INDEXING and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
            self._wait("a mask as an index")
        if not _is_view(func) and name not in WITHOUT_KERNEL:
            self._count(name, len(args[0]) if name.startswith("_foreach") else 1)

    def _count(self, kernel: str, times: int) -> None:
        for what in set(self._counted):
            self._launches[what, kernel] += times

    def _wait(self, why: str) -> None:
        if self.is_recording:
            raise PretendGpuError(f"{why} while a graph is recorded, at {_place()}")
        for what in set(self._counted):
            self._waits[what, f"{why}, {_place()}"] += 1


class _Functions(TorchFunctionMode):
    """The functions that torch answers before any operator: tensors from Python's numbers, lists as indices, draws."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in ("tensor", "as_tensor") and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if isinstance(first, PretendTensor):
            if name == "new_tensor":
                dtype = kwargs.get("dtype") or first.dtype
                return torch.tensor(args[1], dtype=dtype).to(first.device)
            if name == "tolist":
                return first.cpu().tolist()
            if name in ("__getitem__", "__setitem__"):
                args = (first, _on_device(args[1], first.device), *args[2:])
        if (generator := kwargs.get("generator")) is not None:
            device = kwargs.get("device") or (first.device if isinstance(first, Tensor) else "cpu")
            if (torch.device(device).type == PRETEND) is not isinstance(generator, PretendGenerator):
                raise PretendGpuError(f"{name}: a generator of another device, at {_place()}")
            if PretendGpu.current is not None and PretendGpu.current.is_recording:
                raise PretendGpuError(f"{name}: a draw while a graph is recorded, at {_place()}")
        return func(*args, **kwargs)


def _is_view(func: Any) -> bool:
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def _moved(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """How many numbers an operator reads and writes."""
    written = [
        given
        for place, one in enumerate(func._schema.arguments)
        for given in tree_leaves(args[place] if place < len(args) else kwargs.get(one.name))
        if isinstance(given, Tensor) and one.alias_info is not None and one.alias_info.is_write
    ]
    given = {id(one): one.numel() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
    new = {id(one): one.numel() for one in tree_leaves(out) if isinstance(one, Tensor) and id(one) not in given}
    return sum(given.values()) + sum(new.values()) + sum(one.numel() for one in written)


def _repeat(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Run an operator again, into the memory of its first result."""
    again = func(*args, **kwargs)
    if not any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments):
        for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
            if isinstance(old, Tensor):
                old.copy_(new)


def _on_device(index: Any, device: torch.device) -> Any:
    if isinstance(index, tuple):
        return tuple(_on_device(one, device) for one in index)
    return torch.tensor(index, dtype=torch.long).to(device) if isinstance(index, list) else index


def _enter_no_grad(mode: Any) -> None:
    mode.without = torch.no_grad()
    mode.without.__enter__()


def _leave_no_grad(mode: Any, *error: Any) -> None:
    mode.without.__exit__(*error)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _place() -> str:
    """The innermost line of the package that is being run, such as "vae/objective.py:12"."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if PACKAGE in file:
            return f"{file.rpartition(PACKAGE)[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of the package"
