"""A model that was trained in this process, as whoever scores with it has it."""

from pathlib import Path

from vae_study.detector.detector import Detector
from vae_study.study.single import SingleModel


def packed(model: SingleModel, folder: Path) -> Detector:
    """The model alone, written to a folder and read again."""
    for name, content in model.packed(is_alone=True).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Detector.load(folder)
