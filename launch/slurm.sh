#!/usr/bin/env bash
# Training as a SLURM job on one node or several; submit in the repository's folder, with the flags of overhaul train:
#   sbatch launch/slurm.sh --setup imagenet_a
#   sbatch --nodes 4 --gpus-per-node 8 --cpus-per-task 96 --time 12:00:00 launch/slurm.sh --setup imagenet_a
#   sbatch --array 0-2 launch/slurm.sh --setup imagenet_a                               three seeds, a job each
#   sbatch --array 0-11 launch/slurm.sh study --setup imagenet_a --seed 0,1 --out DIR    a study, a job each run
#   sbatch --gpus-per-node 0 --cpus-per-task 16 launch/slurm.sh --setup digits_teacher   without a GPU
#SBATCH --job-name=overhaul
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# 180 s before the time limit SLURM tells on_node on every node, as it does of a preemption (by TERM).
#SBATCH --signal=USR1@180
set -euo pipefail

fail() {
    echo "$1" >&2
    exit 2
}

# A node's launcher: on_node ACCELERATE ARGUMENTS. The status is 85 where its processes were told to stop and have saved
# something new, 84 where they have not; see system/preemption.py, whose files lie in $folder. Of several nodes srun
# passes on the highest. USR1, of which SLURM may tell every process, would kill the launcher.
on_node() {
    local folder launcher='' told='' status=0 seconds
    folder=$(mktemp -d)
    export OVERHAUL_STATUS_FILE=$folder/status
    trap 'told=yes; tell' TERM USR1
    (trap '' USR1 && TORCH_ELASTIC_SHUTDOWN_TIMEOUT=15 exec "$1" launch --machine_rank "$SLURM_NODEID" "${@:2}") &
    launcher=$!
    wait "$launcher" || status=$?
    trap '' TERM USR1
    if [ "$told" ]; then # the signal interrupted the wait
        wait_a_while
        status=0
        wait "$launcher" || status=$?
    fi
    if [ -s "$folder/status" ]; then
        status=$(<"$folder/status")
    elif [ "$told" ] && [ "$status" -ne 0 ]; then
        [ -e "$folder/saved" ] && status=85 || status=84
    fi
    rm -r "$folder"
    exit "$status"
}

# Of on_node: the processes are told, those that are still to come by a file. The launcher is told where there are none
# yet: it would end with a traceback.
tell() {
    local processes
    trap '' TERM USR1
    touch "$folder/told"
    if [ -s "$folder/processes" ]; then
        mapfile -t processes <"$folder/processes"
        kill -USR1 "${processes[@]}" 2>/dev/null || true
    elif [ "$launcher" ]; then
        kill -TERM "$launcher"
    fi
}

# Of on_node: the processes have 150 s to save, or 20 s once the first of them has ended; then the launcher ends them.
wait_a_while() {
    for ((seconds = 150; seconds > 0; seconds--)); do
        kill -0 "$launcher" 2>/dev/null || return 0
        [ -s "$folder/status" ] && ((seconds > 20)) && seconds=20
        sleep 1
    done
    kill -TERM "$launcher" 2>/dev/null || true
}

# The last value of a flag: value_of --seed "$@"; fails where it is not there.
value_of() {
    local flag=$1 value='' found=1
    while shift && [ $# -gt 0 ]; do
        case $1 in
        "$flag") value=${2:-} found=0 ;;
        "$flag"=*) value=${1#*=} found=0 ;;
        esac
    done
    echo "$value"
    return $found
}

# Of the [DAYS-][HOURS:]MINUTES:SECONDS that squeue writes; fails for anything else.
seconds_of() {
    [[ $1 =~ ^(([0-9]+)-)?(([0-9]+):)?([0-9]+):([0-9]+)$ ]] || return 1
    local days=${BASH_REMATCH[2]:-0} hours=${BASH_REMATCH[4]:-0} minutes=${BASH_REMATCH[5]} seconds=${BASH_REMATCH[6]}
    echo $((((10#$days * 24 + 10#$hours) * 60 + 10#$minutes) * 60 + 10#$seconds))
}

# Whether another start may get further than this one, which has saved nothing new: where SLURM has preempted it.
# Otherwise it was told because of its time limit, and the next one would be told at the same place.
worth_another_start() {
    local limit preempted total
    read -r limit preempted < <(squeue --noheader --jobs="$job" --Format=TimeLimit:30,PreemptTime:30 2>/dev/null) ||
        return 0
    if [[ $preempted =~ ^[0-9] ]] || ! total=$(seconds_of "$limit"); then
        return 0
    fi
    echo "job $job was told to stop $SECONDS s after its start, $((total - SECONDS)) s before its time limit of $limit," \
        "and had saved nothing new: it is not requeued, as another start would get no further; submit it with" \
        "--time $(((total + SECONDS + 600 + 59) / 60)) (minutes) or more" >&2
    return 1
}

[ "${SLURM_JOB_ID:-}" ] || fail "launch/slurm.sh runs under SLURM: sbatch launch/slurm.sh --setup imagenet_a"
[ -f launch/several_nodes.yaml ] ||
    fail "launch/several_nodes.yaml is not in $PWD: submit in the repository's folder, or with sbatch --chdir FOLDER"
[ "${VIRTUAL_ENV:-}" ] || PATH="$PWD/.venv/bin:$PATH"
accelerate=$(command -v accelerate) || fail "accelerate was not found: activate its environment, or make one in .venv"
python=$(command -v python || command -v python3) || fail "python was not found beside accelerate"
job=$SLURM_JOB_ID arguments=("$@") seed=''
[ "${1:-}" != study ] || [ "${SLURM_ARRAY_JOB_ID:-}" ] ||
    fail "a study is a job array here: sbatch --array 0-N launch/slurm.sh study FLAGS"
if [ "${SLURM_ARRAY_JOB_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # the last task's SLURM_JOB_ID is that of the whole array
    if [ "${1:-}" = study ]; then
        told=$("$python" -m overhaul "$@" --task "$SLURM_ARRAY_TASK_ID") || exit 2
        mapfile -t arguments <<<"$told"
        seed=", run $SLURM_ARRAY_TASK_ID of the study"
    elif ! value_of --seed "$@" >/dev/null; then
        arguments+=(--seed "$SLURM_ARRAY_TASK_ID")
        seed=", seed $SLURM_ARRAY_TASK_ID"
        folder=$(value_of --output_dir "$@") && arguments+=(--output_dir "$folder/seed$SLURM_ARRAY_TASK_ID")
    fi
fi
gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-0}}
gpus=${gpus##*:} # of "h100:8"
[ "${SLURM_GPUS_PER_NODE:-}" != 0 ] || gpus=0 # also on a node that the job has for itself
[[ $gpus =~ ^[0-9]+$ ]] || fail "the job's GPUs a node are not a number: $gpus"
unset SLURM_GPUS_PER_NODE # srun would ask for those of #SBATCH, of which --gres may have left fewer
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
hosts=${hosts//$'\n'/ }
where=(
    --config_file launch/several_nodes.yaml
    --num_machines "$SLURM_NNODES"
    --num_processes "$((SLURM_NNODES * (gpus > 0 ? gpus : 1)))"
    --main_process_ip "${hosts%% *}"
    --main_process_port "$((10000 + SLURM_JOB_ID % 20000))" # jobs that share a host need different ones
)
processes="$gpus processes"
if [ "$gpus" -eq 0 ]; then
    export ACCELERATE_USE_CPU=true
    threads=$(nproc)
    ((threads <= ${SLURM_CPUS_PER_TASK:-1})) || threads=${SLURM_CPUS_PER_TASK:-1}
    where+=(--num_cpu_threads_per_process "$threads")
    processes="no GPUs, 1 process of $threads threads"
fi
echo "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1))$seed: $processes on each of $hosts"

# Once a node has ended the others have 10 minutes: after a failure they would wait for it in vain. They are not killed
# at once, as the main process may still be writing and the status of a killed task (137) would hide an 85.
# The job's CPUs a task are named because srun does not take them over.
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --wait=600 --kill-on-bad-exit=0 \
    --export=ALL ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    bash -c "$(declare -f on_node tell wait_a_while); on_node \"\$@\"" \
    on_node "$accelerate" "${where[@]}" overhaul/train.py "${arguments[@]}" &
srun=$!
# USR1 reaches this script with --signal=B:USR1, and srun passes it on. TERM does only where SLURM ends the job (scancel,
# the time limit, a preemption that requeues by itself): then there is nothing to requeue.
cancelled='' again=yes status=0
trap 'again=yes; kill -USR1 "$srun" 2>/dev/null || true' USR1
trap 'again=yes; cancelled=yes' TERM
while [ "$again" ]; do # a signal interrupts the wait
    again='' status=0
    wait "$srun" || status=$?
done
[ -z "$cancelled" ] || exit 143
[ "$status" -ne 84 ] || ! worth_another_start || status=85
[ "$status" -ne 85 ] || scontrol requeue "$job"
exit "$status"
