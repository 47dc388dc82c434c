# Environment variables of a cluster's processes. Source it: on the head node with the address that the studies are
# stored at, such as s3://bucket, and on a worker without an argument.

set -a
# Fail closed: without this, a node without a token would accept requests from anyone who can reach its ports.
RAY_AUTH_MODE=token
if [ -n "${1:-}" ]; then
  VAE_STUDY_HOME=$1/studies
  # One database for all studies, so that one may learn from another.
  VAE_STUDY_STORAGE=sqlite:///$HOME/vae-study/studies.db
  MLFLOW_BACKEND_STORE_URI=sqlite:///$HOME/vae-study/mlflow.db
  MLFLOW_ARTIFACTS_DESTINATION=$1/mlflow
  # The private address, which MLflow lets in beside localhost.
  MLFLOW_TRACKING_URI=http://$(hostname -I | cut -d' ' -f1):5000
fi
# Keys, passwords, and whatever is to differ from the above, on nodes that have any.
if [ -r "$HOME/vae-study/environment" ]; then
  . "$HOME/vae-study/environment"
fi
set +a
