"""MLflow: everything that happened, written once."""

import os

# A progress bar for every small file would drown the study's own line.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
