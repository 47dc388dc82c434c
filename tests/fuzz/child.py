"""Runs cases one after the other in this process, and prints what came of each: `python -m tests.fuzz.child 0 100`."""

import faulthandler
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from click.testing import CliRunner, Result
from vae_study import api
from vae_study.cli import main
from vae_study.config.study import StudyConfig
from vae_study.study import cost
from vae_study.tracking import models

from tests.detector.builders import ensemble, study, table
from tests.fuzz.cases import Case, make
from tests.vae.builders import model_setup

MOST_BYTES, MOST_CHARACTERS = 4 * 2**30, 2000
# Ends a case that hangs, on a slow and busy machine, too.
PATIENCE_SECONDS = 200
# What comes before the first colon, an option, an argument, a key of a study file, or a file.
PLACE = re.compile(rf"^\S+: |--\w|'[A-Z]+'|\b({'|'.join(StudyConfig.model_fields)}|command)\b|\.\w+|/\w")


def wrong(case: Case, result: Result) -> str:
    """What is wrong with the outcome of a case; empty if nothing is."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception))
    said = result.stderr.strip()
    if result.exit_code == 0:
        return "" if result.stdout.strip() or "--no-report" in case.words else "said nothing"
    if result.exit_code != 2:
        return f"exit code {result.exit_code}: {said}"
    if len(said) >= MOST_CHARACTERS:
        return f"a message of {len(said)} characters: {said}"
    if "Traceback" in said or result.stdout.strip():
        return f"more than a message: {result.stdout} {said}"
    if said.startswith("Usage: "):
        return "" if "Error: " in said else f"no message: {said}"
    if not said.startswith("vae-study: ") or "\nvae-study: " in said:
        return f"not one message: {said}"
    return "" if PLACE.search(said.removeprefix("vae-study: ")) else f"no place: {said}"


def run(number: int, folder: Path, model: Path) -> str:
    """What is wrong with a case."""
    folder.mkdir()
    os.chdir(folder)
    case = make(number, folder, model)
    api.client_of, models.fetch_model, models.default_model = CLIENT_OF, FETCH_MODEL, DEFAULT_MODEL
    if case.model is not None:
        api.client_of = lambda *_: None  # type: ignore[assignment,return-value]
        models.fetch_model = lambda *_: case.model  # type: ignore[assignment,return-value]
        models.default_model = lambda *_: "champion"
    before = {path for path in sys.modules if path.startswith("made_")}
    result = CliRunner().invoke(main, case.words)
    for name in {path for path in sys.modules if path.startswith("made_")} - before:
        del sys.modules[name]
    said = wrong(case, result)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    said = said or (f"a peak of {peak:,} bytes" if peak > MOST_BYTES else "")
    shown = " ".join(map(repr, case.words))
    return f"{shown[:500]}\n{said}" if said else ""


CLIENT_OF, FETCH_MODEL, DEFAULT_MODEL = api.client_of, models.fetch_model, models.default_model


def cases(first: int, last: int) -> None:
    """Run cases and print for each its number and what is wrong with it."""
    # Private memory beyond this is refused by the system, which no case should come to know.
    resource.setrlimit(resource.RLIMIT_DATA, (2 * MOST_BYTES, 2 * MOST_BYTES))
    warnings.simplefilter("ignore")
    # One configuration, some batches.
    cost.DRAWS, cost.BATCHES = 1, 1
    out = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["VAE_STUDY_CACHE"], os.environ["TMPDIR"] = f"{name}/cache", name
        members = [model_setup(number, likelihood="gaussian", network__hidden=(4,), latent_dim=2) for number in (1, 2)]
        model = study(table(), members, place / "trials").pack(ensemble(0, 1), place / "model")
        for number in range(first, last):
            faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
            out.write(json.dumps({"number": number}) + "\n")
            out.flush()
            said = run(number, place / str(number), model)
            out.write(json.dumps({"number": number, "wrong": said}) + "\n")
            out.flush()
            os.chdir(place)
            shutil.rmtree(place / str(number), ignore_errors=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    cases(int(sys.argv[1]), int(sys.argv[2]))
