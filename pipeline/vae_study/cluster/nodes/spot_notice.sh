#!/usr/bin/env bash
# Waits for the interruption notice of this spot machine, then tells Ray to drain the node: its trials are saved and
# continue on other nodes. Source environment.sh first.
#
#   spot_notice.sh aws HEAD:PORT   returns at once and waits in the background; where one waits already, it does nothing
#   spot_notice.sh gcp HEAD:PORT
set -euo pipefail
folder=$HOME/vae-study
# As often as AWS advises; it gives two minutes of notice, Google 30 seconds.
SECONDS_BETWEEN_LOOKS=5

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
  # The node that is drained is the one that this runs on.
  until RAY_ADDRESS=$2 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice"; do
    sleep 1
  done
}

mkdir -p "$folder"
case ${1:-} in
  aws | gcp)
    # A session of its own outlives the shell of `ray up`.
    setsid nohup flock --nonblock "$folder/spot_notice.lock" bash "$0" _watch "$1" "${2:?HEAD:PORT is missing}" \
      < /dev/null >> "$folder/spot_notice.log" 2>&1 &
    ;;
  _watch) watch "$2" "$3" ;;
  *)
    sed -n '2,6p' "$0"
    exit 2
    ;;
esac
