#!/usr/bin/env bash
# A study on the nodes of a Slurm job: Ray runs on all of them, the driver on the first. Before the time limit the trials
# are saved, and the job puts itself back into the queue and continues. In the folder of the study, on a file system that
# all nodes share, with the project's environment active:
#   sbatch docs/cluster.slurm.sh search_spaces/digits.yaml            and, as further words, any options of `run`
#SBATCH --job-name=vae-study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
# So many seconds before the time limit this shell, and nothing else, is told: more than a trial's longest epoch.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# Ray takes what listens below 20000 for its workers. Two jobs on one node have two ports.
RAY_PORT=$((20000 + SLURM_JOB_ID % 10000))
# Other users of these machines cannot run anything in this Ray: they do not have the token.
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(16))')
# The address of this node as Ray finds it.
RAY_HEAD=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
export RAY_PORT RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_HEAD

# A task on each node. Ray finds the GPUs that Slurm gives by itself; of the CPUs it would take all of the machine.
NODE='
if ((SLURM_NODEID == 0)); then
  exec ray start --head --block --port="$RAY_PORT" --num-cpus="$SLURM_CPUS_ON_NODE" --include-dashboard=false \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --disable-usage-stats
fi
until (: < "/dev/tcp/$RAY_HEAD/$RAY_PORT") 2> /dev/null; do sleep 1; done
exec ray start --block --address="$RAY_HEAD:$RAY_PORT" --num-cpus="$SLURM_CPUS_ON_NODE" --disable-usage-stats
'
# A node that is lost does not end the others: its trials continue on them. Steps do not inherit the job's CPUs a task.
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c "$NODE" &
ray=$! driver='' requeue=''
trap 'kill "$ray" 2> /dev/null || true; wait' EXIT

save() {
  [ -z "$driver" ] || kill -TERM "$driver" 2> /dev/null || true
}
trap 'requeue=yes; save' USR1
# By scancel, or by a preemption, after which Slurm itself requeues the job.
trap save TERM

until (: < "/dev/tcp/$RAY_HEAD/$RAY_PORT") 2> /dev/null; do
  kill -0 "$ray" || exit 1
  sleep 1
done
# As many trials at once as the nodes take that are up. The study is continued if there is one.
vae-study run "$@" --ray-address "$RAY_HEAD:$RAY_PORT" --concurrency max &
driver=$!
[ -z "$requeue" ] || save
# A signal ends a `wait` before its time.
while kill -0 "$driver" 2> /dev/null; do
  wait "$driver" || true
done
code=0
wait "$driver" || code=$?
# 1 is a study that was stopped; with 2 it was refused, and would be so again.
if [ -n "$requeue" ] && [ "$code" = 1 ]; then
  kill "$ray" 2> /dev/null || true
  scontrol requeue "$SLURM_JOB_ID"
  code=0
fi
exit "$code"
