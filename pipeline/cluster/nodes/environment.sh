# What a cluster's processes find in their environment. To be sourced: on the head with the place that is to hold the
# studies, such as s3://bucket, and on a worker without.

set -a
# Fails closed: without it, a node that misses its token would open its ports to everybody who can reach them.
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
