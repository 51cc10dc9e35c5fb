#!/usr/bin/env bash
# The tests, on any machine; arguments go to pytest: bash launch/test.sh -k margin
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" test
exec "$python" -m pytest "$@"
