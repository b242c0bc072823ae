# Shared by quickstart, test and test_newer_stack: makes the virtual environment of this checkout. Sourced, not run.
# CGKD_VENV puts the environment elsewhere, PYTHON names the interpreter to make it with.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stack=${stack:-torchforce} # the extra of setup.cfg that runs potentials in OpenMM: torchforce or newer
venv=${venv:-${CGKD_VENV:-$root/.venv}}

fail() {
    echo "error: $*" >&2
    exit 1
}

is_python311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_python311 "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11; give the path of a Python 3.11 interpreter."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3; do
        if is_python311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 was not found (python3 is $(python3 --version 2>/dev/null || echo missing));" \
        "install it, on Debian with 'apt install python3.11 python3.11-venv', or set PYTHON to its path."
}

free_gb() { df -Pk "$1" | awk 'NR == 2 {print int($4 / 1024 / 1024)}'; }

# make_environment [EXTRA]: nothing to do when the stamp of an earlier install fits the requirements of today
make_environment() {
    local extra=${1:-} python stamp log options=() free target=".[$stack${1:+,$1}]"
    stamp=$venv/.installed${extra:+-$extra}
    local wanted
    wanted=$({ echo "$root" && cat "$root/setup.cfg" "$root/pyproject.toml" "$root/scripts/newer_stack.txt"; } | sha256sum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x "$venv/bin/python" ]; then
        echo "Environment: $venv (complete)"
        return
    fi

    python=$(find_python)
    mkdir -p "$venv" || fail "cannot make $venv; choose another place with CGKD_VENV."
    if [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv exists and is not a virtual environment; move it away or choose another place with CGKD_VENV."
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        free=$(free_gb "$venv")
        [ "$free" -ge 9 ] || fail "$venv needs about 9 GB of disk, $free GB are free; make room or choose another place with CGKD_VENV."
        [ "$free" -ge 13 ] || options+=(--no-cache-dir)
        echo "Making the environment $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" >/dev/null ||
            fail "$python cannot make virtual environments; on Debian: 'apt install python3.11-venv'."
    fi

    echo "Installing the package with the extra $stack: about 8 GB, most of it CUDA libraries that torch brings"
    echo "even where there is no GPU. This takes some minutes the first time."
    # torch of the newer stack in one version: it needs no GPU, and where a build without one is at hand that is taken
    [ "$stack" != newer ] || options+=(--constraint "$root/scripts/newer_stack.txt")
    log=$venv/install.log
    if ! (cd "$root" && "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "${options[@]}" -e "$target") 2>&1 |
        tee "$log" | sed -u -n -E '/^(Collecting|Installing|Successfully|ERROR)/p'; then
        if grep -q "No space left on device" "$log"; then
            fail "the disk is full; the environment needs about 9 GB. Make room, then run this command again."
        elif grep -qE "Could not find a version|Failed to establish|NewConnectionError|Temporary failure|Network is unreachable|timed out" "$log"; then
            fail "packages could not be downloaded; check the network connection (or pip's index and proxy settings), then run this command again."
        fi
        fail "pip could not install the package; its output is in $log."
    fi
    echo "$wanted" >"$stamp"
    [ -z "$extra" ] || echo "$wanted" >"$venv/.installed"
}
