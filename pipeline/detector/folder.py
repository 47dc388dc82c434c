"""The folder of a packed detector: nothing but JSON and safetensors, so that opening it runs no code of anybody's."""

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pipeline.errors import UserError
from pipeline.vae.outcome import SCORER_FILE, WEIGHTS_FILE

BASELINE_FILE, REFERENCE = "baseline.safetensors", "reference"
# How other formats begin that weights are often kept in.
BEGINNINGS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it, which can hold a pickle",
    b"\x80": "a pickle, which would run code",
    b"\x93NUMPY": "a NumPy file",
}


# None is any size but 0.
Shape = tuple[int | None, ...]


def trial_folder(number: int) -> str:
    """The name of the folder with one trial's files."""
    return f"trial-{number:04d}"


def trial_files(number: int) -> list[str]:
    """The files of one trial, as paths in the folder."""
    return [f"{trial_folder(number)}/{name}" for name in (WEIGHTS_FILE, SCORER_FILE)]


def require_exactly(folder: Path, names: Collection[str]) -> None:
    """Nothing where the folder has these files and nothing else.

    Raises:
        UserError: A file is missing, or is none of them.
    """
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    folders = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()}
    parents = {parent.as_posix() for name in names for parent in Path(name).parents}
    unknown = sorted(found - {*names}) or sorted(folders - parents)
    if unknown:
        raise UserError(f"{folder / unknown[0]}: came a file that belongs to no detector; expected {_listed(names)}")
    missing = sorted({*names} - found)
    if missing:
        raise UserError(f"{folder / missing[0]}: is missing; expected {_listed(names)}")


def _listed(names: Collection[str]) -> str:
    shown = [*itertools.islice(sorted(names), 5)]
    return f"{', '.join(shown)} and {len(names) - len(shown)} more" if len(names) > len(shown) else ", ".join(shown)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        UserError: It is none, or torn.
    """
    try:
        content = path.read_bytes()
        # Copies, since where a tensor begins in memory may decide the last bits of a product.
        return {name: tensor.clone() for name, tensor in load(content).items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a safetensors file") from None
    except (SafetensorError, ValueError, KeyError) as error:
        kinds = (kind for beginning, kind in BEGINNINGS.items() if content.startswith(beginning))
        came = next(kinds, f"a torn file, or none of safetensors ({error})")
        raise UserError(f"{path}: came {came}; expected a whole safetensors file") from None


def require_shapes(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, shapes: Mapping[str, Shape]) -> None:
    """Nothing where there are tensors of these names, with this type and these shapes.

    Raises:
        UserError: They are another model's.
    """
    odd = sorted(tensors.keys() ^ shapes.keys())
    if odd:
        raise UserError(f"{path}: {odd[0]}: another model has it, or lacks it; expected what this one's trial left")
    for name, shape in shapes.items():
        came = tensors[name]
        fits = came.ndim == len(shape) and all(
            size > 0 if wanted is None else size == wanted for size, wanted in zip(came.shape, shape, strict=True)
        )
        if not fits or came.dtype != dtype:
            kind = f"{dtype} {tuple('any' if size is None else size for size in shape)}"
            raise UserError(f"{path}: {name}: came {came.dtype} {tuple(came.shape)}, expected {kind}")
