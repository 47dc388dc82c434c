"""The cases: what a person may give to the command, each made from its number alone."""

import json
import os
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.fuzz.files import column, csv_bytes, write_data
from tests.fuzz.values import WORDS, changed, damaged, garbled, setting, value, written

STUDIES = Path(__file__).parents[2] / "search_spaces"
BASES = [YAML(typ="safe").load(STUDIES.joinpath(f"{name}.yaml").read_text()) for name in ("digits", "breast_cancer")]
BASES += [{"study": "small", "data": {"source": "digits"}}]
OUTPUTS = ["out.csv", "out.parquet", "out", "/dev/full", "none/out.csv", ".", "new.csv"]
MODEL_COLUMNS = {"a": 0, "b": 0, "c": 0, "constant": 6, "e": 0, "kind": 2}


@dataclass(frozen=True)
class Case:
    """What is given to the command.

    Attributes:
        words: What follows `vae-study`.
        model: The folder of the model that `score` finds, where it does.
    """

    words: list[str]
    model: Path | None = None


def make(number: int, folder: Path, model: Path) -> Case:
    """The files of a case, in an empty folder, and its command; `model` is a sound model to start from."""
    chance = random.Random(number)
    kinds: list[Callable[[int, Path, Path, random.Random], Case]] = [_study, _data, _score, _command]
    return chance.choices(kinds, [9, 6, 3, 2])[0](number, folder, model, chance)


def _written(folder: Path, document: Any, chance: random.Random, *, is_text_kept: bool = False) -> Path:
    path, text = folder / "study.yaml", written(document)
    path.write_bytes(text.encode() if is_text_kept or chance.random() < 0.75 else garbled(text, chance))
    return path


def _options(chance: random.Random) -> list[str]:
    words: list[str] = []
    while chance.random() < 0.3:
        words += chance.choice(
            [
                ["--set", setting(chance)],
                ["--set", setting(chance)],
                ["--set", setting(chance)],
                ["--trials", str(chance.choice([1, 0, -1, 10**30, *WORDS]))],
                ["--epochs", str(chance.choice([1, 2, 0, 10**7]))],
                ["--seed", str(chance.choice([0, -1, 2**64, 10**4000]))],
                ["--name", chance.choice(WORDS)],
                ["--columns"],
            ]
        )
    return words


def _study(number: int, folder: Path, model: Path, chance: random.Random) -> Case:
    """A study file in which something is changed."""
    document = deepcopy(chance.choice(BASES))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3, 12])):
        changed(document, chance)
    return Case(["check", str(_written(folder, document, chance)), *_options(chance)])


def _data(number: int, folder: Path, model: Path, chance: random.Random) -> Case:
    """Data of a person's own."""
    data = write_data(folder, chance, number)
    if chance.random() < 0.2:
        label = ["--label", chance.choice(["label", "a", "none"])] if chance.random() < 0.3 else []
        return Case(["init", str(data.get("path", data["source"])), "--output", "drawn.yaml", *label])
    training = {"batch_size": 16, "epochs": 2}
    may_be_conv = data["source"] in ("images", "idx") and chance.random() < 0.5
    network = {"kind": "conv" if may_be_conv else "mlp", "hidden": [8]}
    document = {"study": "own", "data": data, "training": training, "model": {"network": network}}
    if chance.random() < 0.2:
        changed(document, chance)
    columns = ["--columns"] if chance.random() < 0.3 else []
    return Case(["check", str(_written(folder, document, chance, is_text_kept=True)), *columns])


def _score(number: int, folder: Path, model: Path, chance: random.Random) -> Case:
    """New rows for a model, one of which may not be as it was."""
    copy, rows = folder / "model", chance.choice([40, 40, 1, 0])
    shutil.copytree(model, copy)
    if chance.random() < 0.6:
        _tampered(copy, chance)
    (folder / "new.csv").write_bytes(
        csv_bytes({name: column(kind, rows, chance) for name, kind in MODEL_COLUMNS.items()}, chance)
    )
    data = str(folder / "new.csv")
    if chance.random() < 0.2:
        data = str(write_data(folder, chance, number).get("path", "digits"))
    more: list[str] = []
    while chance.random() < 0.3:
        more += chance.choice(
            [
                ["--explain"],
                ["--fdr", str(chance.choice([0.1, 0, 1, -1, "nan", "inf", 1e-300, "x"]))],
                ["--key", chance.choice(["a", "kind", *WORDS])],
                ["--source", chance.choice(["csv", "npz", "parquet", "images", "none"])],
                ["--device", chance.choice(["cuda", "cpu", "none", "cuda:99", "meta", ""])],
                ["--model", chance.choice(["ensemble", "trial-0001", "..", "trial-x"])],
                ["--output", chance.choice(OUTPUTS)],
            ]
        )
    return Case(["score", "digits", data, "--output", "scores.csv", *more], copy)


def _tampered(model: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(path for path in model.rglob("*") if path.is_file()))
    if path.suffix == ".json" and chance.random() < 0.8:
        plain = json.loads(path.read_text())
        for _ in range(chance.randint(1, 2)):
            _replaced(plain, chance)
        path.write_text(json.dumps(plain, default=str))
        return
    match chance.randrange(5):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.mkdir()
        case 2:
            path.unlink()
            os.mkfifo(path)
        case _:
            path.write_bytes(damaged(path.read_bytes(), chance))


def _replaced(plain: Any, chance: random.Random) -> None:
    """Something in JSON becomes something else, in place."""
    place = plain
    while True:
        keys: list[Any] = [*place] if isinstance(place, dict) else [*range(len(place))]
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.2:
            break
        place = place[key]
    if chance.random() < 0.2:
        del place[key]
    else:
        place[key] = value(chance)


def _command(number: int, folder: Path, model: Path, chance: random.Random) -> Case:
    """Commands on a HOME that has no study."""
    home = folder / "home"
    match chance.randrange(5):
        case 0:
            home.write_text("a file")
        case 1:
            home.mkdir()
            (home / "mlflow.db").write_bytes(chance.randbytes(chance.choice([0, 50, 9000])))
        case 2:
            (home / "digits").mkdir(parents=True)
            (home / "digits" / chance.choice(["config.json", "owner.json", "journal.jsonl"])).write_bytes(
                chance.choice([b"", b"{}", b"[]", b'{"study": 3}', chance.randbytes(50), b'{"op": 1}\n'])
            )
    name = chance.choice(["digits", "digits", *WORDS])
    words = chance.choice(
        [
            ["status", name],
            ["status"],
            ["report", name],
            ["report", name, "other"],
            ["score", name, "digits"],
            ["promote", name, "trial-0001"],
            ["serve", name],
            ["sync", name],
            ["sync", name, "--rebuild"],
            ["resume", name, "--no-report"],
            ["ui"],
            [name],
            ["check"],
            ["run", "none.yaml", "--concurrency", chance.choice(["0", "x", "max", "-1"])],
            ["init", chance.choice([*WORDS, "/dev/zero", "/dev/null", ".", "digits"])],
        ]
    )
    place = str(chance.choice([home, home, "/dev/null", "/proc/none", "s3:/x"]))
    return Case(words if words[0] in ("check", "init") else [*words, "--home", place])
