#!/usr/bin/env bash
# Training as a SLURM job on one node or several; submit in the repository's folder, with the flags of overhaul train:
#   sbatch launch/slurm.sh --setup imagenet_a
#   sbatch --nodes 4 --gpus-per-node 8 --cpus-per-task 96 --time 12:00:00 launch/slurm.sh --setup imagenet_a
#SBATCH --job-name=overhaul
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# 180 s before the time limit. B:USR1 would tell this script alone; without B: SLURM tells on_node on every node, as it
# does of a preemption (by TERM).
#SBATCH --signal=USR1@180
set -euo pipefail

fail() {
    echo "$1" >&2
    exit 2
}

# A node's launcher: on_node ACCELERATE ARGUMENTS. Its status is 1 whatever its processes exit with, so a preempted one
# leaves its 85 in a file. USR1 would kill the launcher: it is told by TERM, which it passes on to its processes and waits
# for them; if it does not succeed after that, the run counts as preempted as well.
on_node() {
    local told='' status=0
    export OVERHAUL_STATUS_FILE
    OVERHAUL_STATUS_FILE=$(mktemp)
    trap 'told=yes; trap "" TERM USR1; kill -TERM $!' TERM USR1
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 "$1" launch --machine_rank "$SLURM_NODEID" "${@:2}" &
    wait $! || status=$?
    if [ "$told" ]; then # the signal interrupted the wait
        status=0
        wait $! || status=85
    elif [ "$status" -ne 0 ] && [ -s "$OVERHAUL_STATUS_FILE" ]; then # a process was told, of this node or another
        status=85
    fi
    rm "$OVERHAUL_STATUS_FILE"
    exit "$status"
}

[ "${SLURM_JOB_ID:-}" ] || fail "launch/slurm.sh runs under SLURM: sbatch launch/slurm.sh --setup imagenet_a"
cd "$SLURM_SUBMIT_DIR" # SLURM runs a copy of this file, in a folder of its own
[ -f launch/several_nodes.yaml ] ||
    fail "launch/several_nodes.yaml is not in $PWD: submit in the repository's folder, or with sbatch --chdir FOLDER"
gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-}}
gpus=${gpus##*:} # of "h100:8"
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "the job has no GPUs: sbatch --gpus-per-node N launch/slurm.sh ..."
[ "${VIRTUAL_ENV:-}" ] || PATH="$PWD/.venv/bin:$PATH"
accelerate=$(command -v accelerate) || fail "accelerate was not found: activate its environment, or make one in .venv"
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
hosts=${hosts//$'\n'/ }
where=(
    --config_file launch/several_nodes.yaml
    --num_machines "$SLURM_NNODES"
    --num_processes "$((SLURM_NNODES * gpus))"
    --main_process_ip "${hosts%% *}"
    --main_process_port "$((10000 + SLURM_JOB_ID % 20000))" # jobs that share a host need different ones
)
echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $gpus processes on each of $hosts"

# SLURM signals this script itself only where it ends the job (scancel, the time limit, a preemption that requeues by
# itself): then there is nothing to requeue. Bash waits for srun before it acts on the trap.
trap 'exit 143' TERM
# Once a node has ended the others have 10 minutes: after a failure they would wait for it in vain. They are not killed
# at once, as the main process may still be writing and the status of a killed task (137) would hide an 85.
# The job's CPUs a task are named because srun does not take them over.
status=0
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --wait=600 --kill-on-bad-exit=0 \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    bash -c "$(declare -f on_node); on_node \"\$@\"" \
    on_node "$accelerate" "${where[@]}" overhaul/train.py "$@" || status=$?
if [ "$status" -eq 85 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
