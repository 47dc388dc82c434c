#!/usr/bin/env bash
# Waits for the interruption notice of this spot machine, then tells Ray to drain the node: its trials are saved and
# continue on other nodes. Source environment.sh first.
#
#   spot_notice.sh aws HEAD:PORT   returns at once and waits in the background; where one waits already, it does nothing
#   spot_notice.sh gcp HEAD:PORT
#   spot_notice.sh leave HEAD:PORT   drains at once, and returns when no trial is left: before a pod is stopped
set -euo pipefail
folder=$HOME/vae-study
# As often as AWS advises; it gives two minutes of notice, Google 30 seconds.
SECONDS_BETWEEN_LOOKS=5
SECONDS_TO_DRAIN=30

# EC2 User Guide, "Spot Instance interruption notices"; no notice is a 404. Each request needs a session token.
aws() {
  local place=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest session
  session=$(ask --request PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 60" "$place/api/token") &&
    ask --header "X-aws-ec2-metadata-token: $session" "$place/meta-data/spot/instance-action"
}

# Compute Engine's documentation, "Preemption process".
gcp() {
  local place=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1
  [ "$(ask --header "Metadata-Flavor: Google" "$place/instance/preempted")" = TRUE ]
}

ask() {
  curl --silent --fail --noproxy '*' --max-time 2 "$@"
}

watch() {
  until "$1"; do
    sleep "$SECONDS_BETWEEN_LOOKS"
  done
  echo "$(date --utc --iso-8601=seconds) this machine is being taken away"
  until drain "$2"; do
    sleep 1
  done
}

drain() {
  # The node that is drained is the one that this runs on.
  RAY_ADDRESS=$1 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice"
}

# Ray calls the process of a worker after its class; Tune's are Trainables.
has_trials() {
  grep --quiet --no-messages --text --extended-regexp '^ray::\S*(VaeWorker|Trainable)' /proc/[0-9]*/cmdline
}

leave() {
  # Without a trial there is nothing to save; of a cluster that ends, the head may be gone first.
  if has_trials && timeout "$SECONDS_TO_DRAIN" bash "$0" _drain "$1"; then
    while has_trials; do
      sleep 1
    done
  fi
}

mkdir -p "$folder"
case ${1:-} in
  aws | gcp)
    # A session of its own outlives the shell of `ray up`.
    setsid nohup flock --nonblock "$folder/spot_notice.lock" bash "$0" _watch "$1" "${2:?HEAD:PORT is missing}" \
      < /dev/null >> "$folder/spot_notice.log" 2>&1 &
    ;;
  leave) leave "${2:?HEAD:PORT is missing}" ;;
  _watch) watch "$2" "$3" ;;
  _drain) drain "$2" ;;
  *)
    sed -n '2,7p' "$0"
    exit 2
    ;;
esac
