#!/usr/bin/env bash
# The tests, on any machine; arguments go to pytest: bash launch/test.sh -k margin. -m slow: the long ones; --all: both;
# -m speed: timings, which want the machine for themselves; -m gpu: those that need a GPU, which all others leave alone.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" test
exec "$python" -m pytest "$@"
