"""Ask for the labels that help most in choosing a detector, and choose anew by them, without new training."""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.anomaly.detection import auroc, interval
from vae_study.anomaly.paired import Difference, ScoredRows
from vae_study.errors import UserError
from vae_study.metrics import BASELINE, DETECTOR_LABELS, LEARNED, OF_STUDY, SCORES
from vae_study.paths import HOME, Home, client_of, saved_config, source_of
from vae_study.selection.comparison import Baseline, Candidate
from vae_study.selection.labels import learned, rows_to_ask
from vae_study.selection.ranking import Selection
from vae_study.tracking.record import StudyRecord
from vae_study.tracking.schema import CHAMPION_ALIAS, MODEL_NAME, SELECTIONS, WITH_BASELINE, trial_name

Floats = NDArray[np.float64]
ROW, LABEL = "row", "label"
LABELS = {"0": False, "1": True, "0.0": False, "1.0": True}
#: Of training rows, which show the columns of a model.
EXAMPLE_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class KeptScores:
    """What a finished study knows of its validation and test rows.

    Attributes:
        record: The study.
        models: The trials that are part of a model, each with the name of one.
        frames: The scores of these trials, one row per validation or test row.
    """

    record: StudyRecord
    models: Mapping[int, str]
    frames: Mapping[int, pd.DataFrame]

    @classmethod
    def of(cls, client: Any, name: str, home: Home, tracking_uri: str | None) -> Self:
        """Read them. Raise UserError if the study has not finished, or its rows are labelled already."""
        from vae_study.tracking.learned import kept_trials
        from vae_study.tracking.reader import read_study, trial_scores

        source = source_of(home, tracking_uri)
        record, models = read_study(source, name), kept_trials(client, name)
        if record.detectors.empty or not models:
            raise UserError(f"the study {name!r} has kept no models yet; expected a study that has finished")
        if count := int(record.detectors["anomaly"].sum()):
            raise UserError(
                f"the study {name!r} knows {count:,} anomalies among its validation and test rows already, and chooses "
                "by them; expected a study without labels"
            )
        return cls(record=record, models=models, frames=trial_scores(source, record, sorted(models)))

    @property
    def rows(self) -> pd.DataFrame:
        """The validation and test rows, with the scores of the ensembles and of the detector without a model."""
        return self.record.detectors

    def columns(self) -> Iterator[Floats]:
        """The scores of each detector that can be chosen: each trial by each score, and what is no single trial."""
        yield from (self.rows[name].to_numpy(np.float64) for name in OF_STUDY if name in self.rows)
        for frame in self.frames.values():
            yield from (frame[name].to_numpy(np.float64) for name in SCORES if name in frame)

    def score(self, tags: Mapping[str, str]) -> Floats | None:
        """What a model of the study says of the rows, from its tags; None if it is no model of the study's."""
        model, pairs = tags.get(MODEL_NAME, ""), json.loads(tags.get(SELECTIONS, "[]"))
        if model in self.rows:
            return self.rows[model].to_numpy(np.float64)
        if not pairs:
            return None
        voters = tuple(Selection(trial, score, float("nan")) for trial, score in pairs)
        with_baseline = tags.get(WITH_BASELINE) == "true"
        candidate = Candidate(name=model, needs_labels=True, selections=voters, with_baseline=with_baseline)
        return candidate.score(self.frames, self.rows[BASELINE].to_numpy(np.float64))


def ask_labels(
    name: str, rows: int = 20, output: Path | None = None, *, home: Home = HOME, tracking_uri: str | None = None
) -> tuple[Path, int]:
    """Write the rows whose labels would help most in choosing among the detectors of a study without labels.

    Args:
        name: The study's name.
        rows: How many to ask for, 2 at least.
        output: A new CSV file, by default NAME-labels.csv: `row`, the index in the source, from 0; of images `file`;
            the column `label` to fill in; and if the data can be read here, the values of each row. The most helpful
            row is first.
        home, tracking_uri: As in `run_study`.

    Returns:
        The file, and how many rows it has.

    Raises:
        UserError: There is no such study, it has labels, or the file is there already.
    """
    if rows < 2:
        raise UserError(f"--rows: got {rows}, expected 2 or more")
    output = Path(output or f"{name}-labels.csv")
    kept = KeptScores.of(client_of(home, tracking_uri), name, home, tracking_uri)
    place_L = rows_to_ask(kept.columns(), rows)
    asked = kept.rows.iloc[place_L].reset_index(drop=True)
    table = asked.filter(items=[ROW, "file"]).assign(**{LABEL: ""})
    values = _values(name, home, asked)
    if values is not None:
        table = table.join(values.rename(columns={column: f"value/{column}" for column in values if column in table}))
    try:
        with output.open("x", encoding="utf-8", newline="") as file:
            table.to_csv(file, index=False, float_format="%.6g")
    except FileExistsError:
        raise UserError(f"--output: {output} is there already; expected a new file") from None
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written: {error.strerror}") from None
    return output, len(table)


def _values(name: str, home: Home, asked: pd.DataFrame) -> pd.DataFrame | None:
    """Rows in the user's columns; None of images and windows, and where the data cannot be read or have changed."""
    from vae_study.study.plan import make_plan

    with suppress(UserError):
        data = make_plan(saved_config(name, home), name, home).data
        if data.preprocessing.pixels is None and data.preprocessing.sequence is None:
            splits = {key: data.splits[key] for key in ("validation", "test")}
            place = {row: (key, n) for key, split in splits.items() for n, row in enumerate(split.row_N.tolist())}
            found = [place[row] for row in asked[ROW]]
            return data.frame(np.stack([splits[key].x_ND[n] for key, n in found]))
    return None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A detector on the labelled rows.

    Attributes:
        name: Of its model.
        parts: What it is made of, such as "trial-0007 by latent nearest neighbours".
        auroc, low, high: AUROC and its 95 % interval; NaN if its scores are unknown.
    """

    name: str
    parts: tuple[str, ...] = ()
    auroc: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What labels changed.

    Attributes:
        anomalies, normals, unlabelled: Rows of the file.
        before, after: The model that scored by default, and the champion now.
        more: How much larger the AUROC after is, with its paired interval.
        version: Of the champion in MLflow's registry.
    """

    anomalies: int
    normals: int
    unlabelled: int
    before: Measured
    after: Measured
    more: Difference
    version: int


def learn_labels(name: str, labels: Path, *, home: Home = HOME, tracking_uri: str | None = None) -> Learned:
    """Choose the detector of a study anew by labels of some validation and test rows, and make it the champion.

    It is the mean of the pairs of kept trial and score with the best AUROC on these rows, together with the detector
    without a model unless they are far better without it, see `selection.labels.learned`. `forget_labels` undoes it.

    Args:
        name: The study's name.
        labels: A CSV file with the columns `row` and `label`, 1 for an anomaly and 0 for a normal row; other columns
            and rows without a label do not count. `ask_labels` writes one.
        home, tracking_uri: As in `run_study`.

    Raises:
        UserError: There is no such study, or the file is no such file; the champion is as it was.
    """
    from vae_study.tracking.learned import default_tags, set_learned

    client = client_of(home, tracking_uri)
    kept = KeptScores.of(client, name, home, tracking_uri)
    places = {int(row): place for place, row in enumerate(kept.rows[ROW])}
    given, unlabelled = read_labels(labels, places)
    place_L, is_anomaly_L = np.array([*given], np.int64), np.array([*given.values()], np.bool_)
    config, raw_N = kept.record.config, kept.rows[BASELINE].to_numpy(np.float64)
    asked = config["anomaly"]["score"], config["ensemble"]["members"]
    chosen = learned(kept.frames, raw_N, place_L, is_anomaly_L, *asked)
    score_N = chosen.score(kept.frames, raw_N)
    tags = default_tags(client, name)
    old_N = kept.score(tags)
    after, before = ScoredRows(is_anomaly_L, score_N[place_L]), None
    if old_N is not None:
        before = ScoredRows(is_anomaly_L, old_N[place_L])
    pairs = json.dumps([[one.trial, one.score] for one in chosen.selections])
    about = {MODEL_NAME: LEARNED, SELECTIONS: pairs, WITH_BASELINE: str(chosen.with_baseline).lower()}
    with TemporaryDirectory() as scratch:
        folder = _packed(client, kept, chosen, Path(scratch))
        version = set_learned(client, name, folder, about, Path(labels).read_text(encoding="utf-8-sig"))
    unknown = Difference(value=float("nan"), low=float("nan"), high=float("nan"))
    return Learned(
        anomalies=int(is_anomaly_L.sum()),
        normals=int((~is_anomaly_L).sum()),
        unlabelled=unlabelled,
        before=_measured(tags, before),
        after=_measured(about, after),
        more=unknown if before is None else after.minus(before, "auroc"),
        version=version,
    )


def forget_labels(name: str, *, home: Home = HOME, tracking_uri: str | None = None) -> str:
    """Undo `learn_labels`: the champion before it is the champion again. Returns its name.

    Raise UserError if there is no such study, or no labels chose its champion.
    """
    from vae_study.tracking.learned import forget_learned

    return forget_learned(client_of(home, tracking_uri), name)


def _measured(tags: Mapping[str, str], rows: ScoredRows | None) -> Measured:
    pairs = json.loads(tags.get(SELECTIONS, "[]"))
    parts = [f"{trial_name(trial)} by {SCORES[score].label}" for trial, score in pairs]
    if tags.get(WITH_BASELINE) == "true":
        parts.append(DETECTOR_LABELS[BASELINE])
    found = Measured(name=tags.get(MODEL_NAME, CHAMPION_ALIAS), parts=tuple(parts))
    if rows is None:
        return found
    low, high = interval("auroc", rows.is_anomaly_N, rows.score_N)
    return replace(found, auroc=auroc(rows.is_anomaly_N, rows.score_N), low=low, high=high)


def _packed(client: Any, kept: KeptScores, chosen: Candidate, scratch: Path) -> Path:
    """The folder of a model of kept trials, made from their own models."""
    from vae_study.anomaly.input_ensemble import InputEnsemble
    from vae_study.detector.detector import Detector
    from vae_study.detector.export import pack
    from vae_study.detector.format import read_description, trial_folder
    from vae_study.tracking.code import write_pyfunc
    from vae_study.tracking.models import fetch_model

    study = kept.record.name
    ensemble = Detector.load(fetch_model(client, study, BASELINE, scratch / BASELINE))
    assert isinstance(ensemble.baseline, InputEnsemble)
    baseline = Baseline(ensemble=ensemble.baseline, scores=kept.rows)
    raw = baseline if chosen.with_baseline else None
    names = {kept.models[one.trial] for one in chosen.selections}
    folders = {name: fetch_model(client, study, name, scratch / name) for name in names}
    trials = {one.trial: folders[kept.models[one.trial]] for one in chosen.selections}
    configs = {n: read_description(folder)[0].trials[str(n)] for n, folder in trials.items()}

    def files(number: int) -> dict[str, Path]:
        return {path.name: path for path in (trials[number] / trial_folder(number)).iterdir()}

    into, data, fdr = scratch / "packed", ensemble.data, kept.record.config["anomaly"]["fdr"]
    pack(into, data, configs, chosen, files, kept.frames.__getitem__, fdr, raw)
    rows_ND = baseline.ensemble.reference_RD[:EXAMPLE_ROWS].astype(np.float32)
    output, sequence = Detector.load(into).score(rows_ND), data.preprocessing.sequence
    write_pyfunc(into, data.frame(rows_ND), output, scratch / "model", sequence)
    return scratch / "model"


def read_labels(path: Path, places: Mapping[int, int]) -> tuple[dict[int, bool], int]:
    """Read a file of labels.

    Args:
        path: A CSV file with the columns `row` and `label`.
        places: The places of the rows that may be labelled, by their index in the source.

    Returns:
        By place whether the row is an anomaly; and how many rows have no label.

    Raises:
        UserError: It cannot be read, lacks a column, has a row twice or one that the study has no scores of, or a
            label that is not 0 or 1; or its labels are all the same.
    """
    found: dict[int, bool] = {}
    lines: dict[int, int] = {}
    unlabelled = 0
    for line, row, label in _rows_of(path):
        where = f"{path}:{line}"
        if not row.removesuffix(".0").isdecimal() or not row.isascii():
            raise UserError(f"{where}: row: got {row!r}, expected the index of a row in the data, such as 17")
        number = int(row.removesuffix(".0"))
        if number not in places:
            raise UserError(
                f"{where}: row: got {number}, of which the study has no scores; expected one of its {len(places):,} "
                f"validation and test rows, such as {min(places, key=lambda one: abs(one - number))}"
            )
        if number in lines:
            raise UserError(f"{where}: row: got {number} again, which line {lines[number]} has; expected each row once")
        lines[number] = line
        if not label:
            unlabelled += 1
        elif label not in LABELS:
            raise UserError(f"{where}: label: got {label!r}, expected 1 for an anomaly, 0 for a normal row, or nothing")
        else:
            found[places[number]] = LABELS[label]
    if len({*found.values()}) < 2:
        kinds = "there is no label" if not found else f"all {len(found)} labels are {int(next(iter(found.values())))}"
        raise UserError(f"{path}: {kinds}; expected anomalies (1) and normal rows (0): label more rows")
    return found, unlabelled


def _rows_of(path: Path) -> Iterator[tuple[int, str, str]]:
    """The number of the line, the row and the label of each line."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in (ROW, LABEL) if name not in (reader.fieldnames or ())]:
                got = ", ".join(reader.fieldnames or ()) or "nothing"
                raise UserError(f"{path}: no column {missing[0]!r}, got {got}; expected the columns row and label")
            for cells in reader:
                yield reader.line_num, (cells[ROW] or "").strip(), (cells[LABEL] or "").strip()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a CSV file of labels") from None
    except (csv.Error, UnicodeError) as error:
        raise UserError(f"{path}: is no CSV file ({error}); expected the columns row and label") from None
