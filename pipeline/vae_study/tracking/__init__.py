"""MLflow: a study's events, kept in a journal and uploaded to MLflow once each, and studies read back from there."""

import os

# A progress bar for every small file would hide the study's own line.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
