#!/usr/bin/env bash
# The main job from end to end on handwritten digits, on any machine: bash launch/demo.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo
exec "$python" -m overhaul demo "$@"
