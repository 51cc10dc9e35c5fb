# Sourced by demo.sh and test.sh with the name of an extra: leaves in $python an interpreter that has the package from
# this checkout and all that the extra asks for. An active or earlier environment is reused where it already does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=$1

suitable() {
    [ -x "$1" ] && "$1" - "$extra" 2>/dev/null <<'PYTHON'
import configparser, importlib.metadata, pathlib, sys
from packaging.requirements import Requirement
config = configparser.ConfigParser()
config.read("setup.cfg")
for line in (config["options"]["install_requires"] + config["options.extras_require"][sys.argv[1]]).split("\n"):
    if line.strip():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        installed = importlib.metadata.version(wanted.name)
        assert wanted.specifier.contains(installed, prereleases=True), (line, installed)
sys.path.pop(0)
import overhaul
assert pathlib.Path(overhaul.__file__).is_relative_to(pathlib.Path.cwd())
PYTHON
}

new_environment() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            "$candidate" -m venv .venv && return
            echo "$candidate cannot make an environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
            exit 2
        fi
    done
    echo "Python 3.10 or newer is needed and was not found" >&2
    exit 2
}

python="${VIRTUAL_ENV:-.venv}/bin/python"
if ! suitable "$python"; then
    python=.venv/bin/python
    if ! suitable "$python"; then
        "$python" -m pip --version >/dev/null 2>&1 || new_environment
        echo "installing overhaul[$extra] into .venv (several GB with torch)" >&2
        "$python" -m pip install --quiet --disable-pip-version-check -e ".[$extra]" >&2
    fi
fi
