#!/usr/bin/env bash
# MLflow's server beside the head of a cluster, in the environment that environment.sh makes.
#
#   mlflow_server.sh start   does nothing where it answers already; else returns once it does
#   mlflow_server.sh stop    `ray down` leaves it running on a machine that stays
#   mlflow_server.sh serve   is the server itself, in the foreground, where something else restarts it: in a pod
set -euo pipefail
: "${MLFLOW_TRACKING_URI:?source environment.sh first}" "${MLFLOW_ARTIFACTS_DESTINATION:?}"
folder=$HOME/vae-study
log=$folder/mlflow.log pid=$folder/mlflow.pid
SECONDS_TO_START=180

# Not /health, which skips the check of the host's name and says nothing about the database.
answers() {
  python - "$MLFLOW_TRACKING_URI/api/2.0/mlflow/experiments/search?max_results=1" <<'PYTHON' 2> /dev/null
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError as error:
    sys.exit(error.code != 401)  # Somebody has given it users and passwords; then it is up.
PYTHON
}

serve() {
  local address=${MLFLOW_TRACKING_URI#*://}
  # Allow this address and a forwarded port only: another Host header would be a DNS rebinding attack on a browser.
  # More than one worker slows every request down; the job runner takes memory for nothing.
  export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
  exec mlflow server \
    --host 0.0.0.0 --port "${address##*:}" --allowed-hosts "$address,localhost:*,127.0.0.1:*" --workers 1
}

keep_serving() {
  while :; do
    (serve) || true
    sleep 2
  done
}

start() {
  if answers; then
    echo "MLflow answers at $MLFLOW_TRACKING_URI already"
    return
  fi
  # A session of its own outlives the shell of `ray up`; the lock keeps a second one from starting beside it.
  setsid nohup flock --nonblock "$folder/mlflow.lock" bash "$0" _keep_serving < /dev/null >> "$log" 2>&1 &
  echo $! > "$pid"
  until answers; do
    if ((SECONDS > SECONDS_TO_START)) || ! kill -0 "$(< "$pid")" 2> /dev/null; then
      echo "MLflow does not answer at $MLFLOW_TRACKING_URI; the end of $log:" >&2
      tail -n 20 "$log" >&2
      stop
      exit 1
    fi
    sleep 0.5
  done
  echo "MLflow answers at $MLFLOW_TRACKING_URI"
}

stop() {
  if [ -s "$pid" ]; then
    kill -TERM -- "-$(< "$pid")" 2> /dev/null || true
    rm -f "$pid"
  fi
}

mkdir -p "$folder"
case ${1:-} in
  start | stop | serve) "$1" ;;
  _keep_serving) keep_serving ;;
  *)
    sed -n '2,6p' "$0"
    exit 2
    ;;
esac
