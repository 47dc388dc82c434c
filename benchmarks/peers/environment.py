"""The peers' own environment, which never touches the project's; and what a table says of its making."""

import os
import subprocess
import venv
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("lightning", "pythae", "pyod", "tqdm")


def interpreter(place: Path) -> str:
    """The interpreter of an environment with the peers, which is made if it is not there."""
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        constraint = ["--constraint", str(REPOSITORY / "constraints.txt")]
        for package in ("torch", *PACKAGES):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *constraint, package], check=False)
    return str(python)


def versions(python: str, packages: Sequence[str] = PACKAGES) -> str:
    """Of packages in an environment; those that are not there are left out."""
    code = (
        "import sys; from importlib.metadata import distributions\n"
        "for one in distributions():\n    if one.name in sys.argv: print(one.name, one.version)"
    )
    found = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=False)
    return ", ".join(found.stdout.splitlines())


def machine() -> str:
    """Day, processor, torch and commit of a measurement."""
    return (
        f"{date.today()}, {_processor()}, {os.cpu_count()} CPUs, one thread each, torch {torch.__version__}, "
        f"commit {_commit()}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "an unknown CPU")


def _commit() -> str:
    """The checkout's commit, and whether it has changes."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
