"""A variational autoencoder as an outlier detector of scikit-learn: one model in this process, or a whole study.

Unless a score is asked for, the detector without a model takes part: on 77 tables, the two together detect better than
a model alone (docs/benchmarks.md).
"""

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from vae_study.config.data import WHOLE
from vae_study.config.loading import load_config
from vae_study.config.study import StudyConfig
from vae_study.data import build_dataset, frame_features
from vae_study.data.sources.python import frame_rows
from vae_study.data.sources.table_reader import build_table
from vae_study.detector.detector import Detector
from vae_study.errors import UserError
from vae_study.storage import DEFAULT_HOME
from vae_study.study.single import SingleModel, contents_of

Floats = NDArray[np.float64]
# What a single model is trained for: this many steps, within these numbers of epochs.
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 3000, 20, 300
# A minibatch has an eighth of the training rows at most, within these sizes.
SMALLEST_BATCH, LARGEST_BATCH = 32, 128
SPLIT = {"train": 0.8, "validation": 0.1, "test": 0.1}
# What a study searches unless the user says otherwise.
SEARCH = {
    "beta": {"low": 0.1, "high": 4.0, "log": True},
    "latent_dim": {"low": 2, "high": 16, "log": True, "type": "int"},
}
# With contamination "auto", rows above this percentile of held-out rows are outliers.
AUTO = "99"
LEAST_ROWS = 10
ESTIMATOR_FILE, MODEL_FOLDER = "estimator.json", "model"
# Of a single model, which detects better with a small weight of the KL: docs/benchmarks.md.
SINGLE_BETA, SINGLE_SCORE = 0.01, "residual_mahalanobis"


class VAEDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types.
    """Detect outliers in a table with a variational autoencoder.

    Rows are split into train (80 %), validation (10 %) and test (10 %); rows that are equal share a split. The model
    learns from train, thresholds and p-values come from validation, and `report` measures on test. All rows count as
    normal. Where a few per cent may be outliers, settings={"data.contamination": 0.05} leaves out those rows of train
    that an isolation forest finds rarest.

    Args:
        contamination: The share of the given rows to call outliers, above 0 and at most 0.5; "auto": the rows above
            99 % of the validation rows.
        anomaly_score: One of `vae_study.metrics.SCORES`, for the model alone. By default the model's residual
            Mahalanobis distance and the four detectors of `vae_study.anomaly.input_ensemble`, each as much.
        trials: 1 trains one default model here, without a search. More run a study of that many trials on a local
            Ray; with the default score, the best of them together are the model.
        hours: End the search of several trials after so many hours with what it has; None for no such limit.
        search: What a study searches, as the section `search` of a study file; by default beta and the latent size.
        settings: Settings of a study file by their keys, such as {"training.epochs": 40, "data.scale": "robust"}.
        random_state: The seed; None for another one in each fit.
        home: The folder of all studies. Only several trials use it.
        sequence: Of time series, the section `data.sequence` of a study file, such as {"time": "ts", "window": 64}: the
            model learns from windows of the rows. The first 80 % of the time are train, the last 10 % test. Each row
            has the score of the window that ends with it. With {"series": "trip", "window": "whole"}, it learns from
            whole series, split by chance, and each row has the score of its series; see docs/sequences.md.

    Attributes:
        config_: The study's config, with all defaults that were chosen for these data.
        detector_: The fitted `vae_study.detector.detector.Detector`, which also explains scores.
        offset_: What is subtracted from `score_samples` in `decision_function`.
        n_features_in_, feature_names_in_: The columns of the fitted table; names only if all of them are text.
    """

    def __init__(
        self,
        *,
        contamination: float | str = "auto",
        anomaly_score: str | None = None,
        trials: int = 1,
        hours: float | None = None,
        search: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        home: str | Path = DEFAULT_HOME,
        sequence: Mapping[str, Any] | None = None,
    ):
        self.contamination = contamination
        self.anomaly_score = anomaly_score
        self.trials = trials
        self.hours = hours
        self.search = search
        self.settings = settings
        self.random_state = random_state
        self.home = home
        self.sequence = sequence

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on a table.

        Args:
            X: N rows of numbers, shape (N, D), or a pandas data frame, whose columns of text are categories. Values
                may be missing (NaN).
            y: Ignored.

        Returns:
            The fitted detector.

        Raises:
            ValueError: A parameter or the table is wrong; the message says what and where.
        """
        self._check_parameters()
        frame = self._frame(X, reset=True)
        if len(frame) < LEAST_ROWS:
            raise ValueError(f"X: got n_samples = {len(frame)}, expected at least {LEAST_ROWS} rows")
        try:
            self._fit(frame)
            self.offset_ = self._offset(frame)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def score_samples(self, X: Any) -> Floats:
        """The negative anomaly score of each row, shape (N,): the lower, the more anomalous."""
        check_is_fitted(self)
        return -self._scored(self._frame(X, reset=False))["score"].to_numpy(np.float64)

    def decision_function(self, X: Any) -> Floats:
        """`score_samples` less `offset_`, shape (N,): negative for outliers."""
        return np.asarray(self.score_samples(X) - self.offset_)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """-1 for outliers and 1 for inliers, shape (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Floats:
        """The share of held-out rows that score as high, shape (N,): conformal p-values of being normal."""
        check_is_fitted(self)
        return self._scored(self._frame(X, reset=False))["p_value"].to_numpy(np.float64)

    @property
    def study_(self) -> Any:
        """The study as `vae_study.load_study` gives it: trials, history and the chosen model."""
        check_is_fitted(self)
        if self._is_study:
            from vae_study import api

            return api.load_study(self.config_.study, home=self.home)
        if self._trained is None:
            raise AttributeError("study_: a detector that was loaded or unpickled has no study")
        return self._trained.record()

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the study's report.

        Args:
            folder: Where to; by default reports/NAME, with the study's name.

        Returns:
            The path of report.html.
        """
        from vae_study.report import write_report

        study = self.study_
        return write_report(study, Path(folder or Path("reports") / study.name))

    def save(self, folder: str | Path) -> None:
        """Write the fitted detector to a new folder: JSON and safetensors, no pickle.

        Raises:
            ValueError: The folder has files already.
        """
        check_is_fitted(self)
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: has files; expected a new or an empty folder")
        fitted = {name: getattr(self, name) for name in ("offset_", "n_features_in_", "_is_study")}
        if hasattr(self, "feature_names_in_"):
            fitted["feature_names_in_"] = self.feature_names_in_.tolist()
        about = {
            "parameters": {**self.get_params(), "home": str(self.home)},
            "config": self.config_.model_dump(mode="json"),
            "fitted": fitted,
        }
        text = json.dumps(about, indent=1)
        for name, content in self._files.items():
            path = folder / MODEL_FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / ESTIMATOR_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; no code in it is run. Raise ValueError if the folder is not one of those."""
        folder = Path(folder)
        try:
            about = json.loads((folder / ESTIMATOR_FILE).read_text(encoding="utf-8"))
            found = cls(**about["parameters"])
            found.config_ = StudyConfig.model_validate(about["config"])
            for name, value in about["fitted"].items():
                setattr(found, name, np.array(value, object) if name == "feature_names_in_" else value)
            found._restore(contents_of(folder / MODEL_FOLDER))
        except (OSError, KeyError, TypeError, ValueError, UserError) as error:
            raise ValueError(f"{folder}: {error}; expected what VAEDetector.save writes") from None
        return found

    def __getstate__(self) -> dict[str, Any]:
        """The packed model in place of its networks, so that a pickle does not depend on torch's classes."""
        return {**super().__getstate__(), "detector_": None, "_trained": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_files" in state:
            self._restore(state["_files"])
        else:
            self.__dict__.pop("detector_", None)
            self.__dict__.pop("_trained", None)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_parameters(self) -> None:
        share = self.contamination
        is_share = isinstance(share, float) and 0 < share <= 0.5
        if share != "auto" and not is_share:
            raise ValueError(f"contamination: got {share!r}, expected 'auto' or a number above 0 and at most 0.5")
        if not isinstance(self.trials, int) or self.trials < 1:
            raise ValueError(f"trials: got {self.trials!r}, expected a whole number from 1 on")
        for name in ("search", "hours"):
            if getattr(self, name) is not None and self.trials == 1:
                raise ValueError(f"{name}: given with trials=1, which trains one model; expected more trials")

    def _frame(self, X: Any, reset: bool) -> pd.DataFrame:
        """The rows as a data frame; columns of an array are x0, x1, ..."""
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        if self.sequence is not None:
            raise ValueError("X: got no data frame, expected one with the columns that sequence names")
        array_ND = validate_data(self, X, reset=reset, ensure_all_finite="allow-nan", dtype="numeric")
        return pd.DataFrame(array_ND, columns=[f"x{place}" for place in range(array_ND.shape[1])])

    def _fit(self, frame: pd.DataFrame) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31))
        self._is_study, self._trained = self.trials > 1, None
        if self._is_study:
            self._run_study(frame, seed)
            return
        study = {"study": "detector", "data": {"source": "parquet", "path": "X"}}
        single = {"objective.beta": SINGLE_BETA, "anomaly.score": SINGLE_SCORE}
        settings = {**self._settings(seed), **single, **self._asked()}
        config = _config(study, settings).data
        data = build_dataset(build_table(frame_rows(frame, "X"), config), config)
        self.config_ = _config(study, {**_budget(len(data.splits["train"].x_ND)), **settings})
        self._trained = SingleModel.train(self.config_, data)
        self._restore(self._trained.packed(is_alone="anomaly.score" in self._asked()))

    def _asked(self) -> dict[str, Any]:
        score = {} if self.anomaly_score is None else {"anomaly.score": self.anomaly_score}
        return {**(self.settings or {}), **score}

    def _settings(self, seed: int) -> dict[str, Any]:
        """What a detector's study has that a study file's defaults have not."""
        split = {f"data.split.{part}": share for part, share in SPLIT.items()}
        if self.sequence is None:
            return {"seed": seed, "data.missing": "median", **split}
        found = {"seed": seed, "data.sequence": dict(self.sequence), **split}
        if self.sequence.get("window") == WHOLE:
            return {**found, "data.missing": "mask"}
        return {**found, "data.split.by": "time"}

    def _run_study(self, frame: pd.DataFrame, seed: int) -> None:
        from vae_study import api
        from vae_study.paths import client_of, stored_frame
        from vae_study.tracking.models import fetch_model

        name = f"detector-{secrets.token_hex(4)}"
        sequence = self.sequence or {}
        is_whole = sequence.get("window") == WHOLE and sequence.get("series") in frame
        rows = round(SPLIT["train"] * (frame[sequence["series"]].nunique() if is_whole else len(frame)))
        settings = {**self._settings(seed), **_budget(rows), **self._asked(), "trials": self.trials}
        plain = {"study": name, "data": {"source": "parquet", "path": "X"}, "search": dict(self.search or SEARCH)}
        self.config_ = _config(plain, {**settings, "data.path": stored_frame(frame, self.home)})
        api.run_study(self.config_, home=self.home, hours=self.hours)
        with tempfile.TemporaryDirectory() as scratch:
            client = client_of(self.home, None)
            wanted = "champion" if "anomaly.score" in self._asked() else "ensemble"
            self._restore(contents_of(fetch_model(client, name, wanted, Path(scratch))))

    def _restore(self, files: Mapping[str, bytes]) -> None:
        """Load the packed model from its files, and keep them for `save`."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                path = Path(scratch) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.detector_ = Detector.load(scratch)
        self._files = dict(files)

    def _scored(self, frame: pd.DataFrame) -> pd.DataFrame:
        try:
            return self.detector_.score(frame_features(frame, self.detector_.preprocessing))
        except UserError as error:
            raise ValueError(str(error)) from None

    def _offset(self, frame: pd.DataFrame) -> float:
        if self.contamination == "auto":
            return -self.detector_.description.thresholds[AUTO]
        return -float(np.quantile(self._scored(frame)["score"], 1 - float(self.contamination)))


def _budget(rows: int) -> dict[str, Any]:
    """The size of minibatches and the number of epochs for so many training rows."""
    batch = min(rows, int(np.clip(2 ** int(np.log2(max(rows / 8, 1))), SMALLEST_BATCH, LARGEST_BATCH)))
    epochs = round(STEPS / (rows // batch))
    return {"training.batch_size": batch, "training.epochs": int(np.clip(epochs, LEAST_EPOCHS, MOST_EPOCHS))}


def _config(plain: Mapping[str, Any], settings: Mapping[str, Any]) -> StudyConfig:
    return load_config(plain, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
