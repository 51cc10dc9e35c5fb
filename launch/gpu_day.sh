#!/usr/bin/env bash
# What one GPU can tell within commands of ten minutes, what tells the most first; the same command goes on:
#   bash launch/gpu_day.sh DATA RESULTS [--seconds 570] [--setup cifar_c] [--teacher_setup cifar_teacher_wrn] [FLAGS]
# DATA: CIFAR-100, in any form that --data_path takes; RESULTS: a folder for runs, logs and notes of what is done; FLAGS:
# of overhaul train, for all trainings. It needs no network. Status: 0 when all is done, 85 where there is more to do, 1
# where a training has failed.
set -euo pipefail
[ $# -ge 2 ] || {
    echo "usage: bash launch/gpu_day.sh DATA RESULTS [--seconds N] [--setup S] [--teacher_setup T] [FLAGS]" >&2
    exit 2
}
data=$(realpath "$1") results=$(realpath -m "$2")
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=570 setup=cifar_c teacher_setup=cifar_teacher_wrn flags=(--mixed_precision bf16 --data_path "$data" --quiet)
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) limit=$2 ;;
    --setup) setup=$2 ;;
    --teacher_setup) teacher_setup=$2 ;;
    *)
        flags+=("$@")
        break
        ;;
    esac
    shift 2
done
python=${VIRTUAL_ENV:-.venv}/bin/python
[ -x "$python" ] || python=$(command -v python3)
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONPATH=$PWD
mkdir -p "$results/done"
declare -A running=()
told=0 # how often this command has been told to stop
trap 'told=$((told + 1)); [ ${#running[@]} -eq 0 ] || kill -TERM "${running[@]}" 2>/dev/null || true' TERM

# begin NAME COMMAND: in the background, unless it is done or this command is to end; it is told to stop at the limit,
# and killed 20 s later.
begin() {
    local name=$1 left=$((limit - SECONDS))
    [ ! -e "$results/done/$name" ] && [ "$told" -eq 0 ] && [ "$left" -gt 0 ] || return 0
    echo "$SECONDS s: $name"
    timeout --kill-after 20 "$left" "${@:2}" >>"$results/$name.log" 2>&1 &
    running[$name]=$!
}

# End this command where it has been told to stop, or is about to be.
goes_on() {
    [ "$told" -eq 0 ] && [ $((limit - SECONDS)) -gt 0 ] && return
    echo "stopped after $SECONDS s; the same command goes on"
    exit 85
}

# What was begun is waited for and noted as done with its status. `must`: it is a training, of which a failure ends all.
finish() {
    local name status failed='' stopped='' before
    for name in "${!running[@]}"; do
        status=''
        until [ "$status" ]; do # a signal interrupts the wait
            before=$told status=0
            wait "${running[$name]}" || status=$?
            [ "$before" -eq "$told" ] || status=''
        done
        unset "running[$name]"
        case $status in
        85 | 124 | 137 | 143) stopped=yes ;;
        0) echo "$status" >"$results/done/$name" ;;
        *)
            echo "$name has failed with status $status: $results/$name.log" >&2
            [ "$1" = must ] && failed=yes || echo "$status" >"$results/done/$name"
            ;;
        esac
        case $1-$status in may-124 | may-137) cut_off "$name" ;; esac
    done
    [ -z "$failed" ] || exit 1
    [ -z "$stopped" ] || told=1
    goes_on
}

# Tests begin anew in the next command, but those that the limit has cut off twice count as done.
cut_off() {
    [ ! -e "$results/$1.cut" ] || echo 124 >"$results/done/$1"
    touch "$results/$1.cut"
}

tests() {
    begin "$1" "$python" -m pytest -o addopts=--import-mode=importlib -p no:cacheprovider -v -s -m "${@:2}"
    finish may
}

training() {
    begin "$1" "$python" -m overhaul train --output_dir "$results/$1" "${@:2}" "${flags[@]}"
}

begin software bash -c "nvidia-smi; '$python' -m torch.utils.collect_env"
finish may
for file in tests/test_gpu*.py; do
    [[ $file == *speed* ]] || tests "$(basename "$file" .py)" gpu "$file"
done
tests speed gpu tests/test_gpu_speed.py
training teacher --setup "$teacher_setup"
training original --setup "$setup" --method original
finish must
training seed0 --setup "$setup" --teacher "$results/teacher" --seed 0 --beside "$results/original"
training seed1 --setup "$setup" --teacher "$results/teacher" --seed 1
finish must
for name in teacher original seed0 seed1; do
    tail -n 2 "$results/$name.log"
done
echo "the day is done: $results"
