# shellcheck shell=bash
# The environment that test.sh, demo.sh and bench.sh share. Sourced, not run.
#
#   prepare_environment   makes .venv, or keeps it when nothing that decides its content changed
#   prepare_tflite_environment
#                         makes .venv-tflite, with the older runtime, where a Python 3.11 is; else says so
#   run_group COMMAND...  runs a command in a process group of its own and ends the whole group with this script
#
# SHOAL_PYTHON names the interpreter; else the first that fits of python3.11, python3.12, python3.13, python3.
# All messages go to standard error; an environment that is kept says nothing.

readonly STAMP=.venv/.shoal-stamp

say() { printf 'shoal: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# True when $1 runs and is a Python that the project supports.
is_supported_python() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

# Prints the interpreter to build the environment with.
find_python() {
    local candidate
    if [[ -n ${SHOAL_PYTHON:-} ]]; then
        is_supported_python "$SHOAL_PYTHON" || die "SHOAL_PYTHON=$SHOAL_PYTHON is no Python 3.11, 3.12 or 3.13"
        printf '%s\n' "$SHOAL_PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if is_supported_python "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "found no Python 3.11, 3.12 or 3.13; get one (sudo apt-get install python3 python3-venv)" \
        "or name it: SHOAL_PYTHON=/path/to/python3.11"
}

# Prints two lines that decide what .venv is: what it is made with, and what is installed into it.
environment_key() {
    "$1" - <<'PYTHON'
import hashlib, pathlib, platform
print(platform.python_implementation(), platform.python_version(), pathlib.Path.cwd())
content = b"".join(pathlib.Path(name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
print(hashlib.sha256(content).hexdigest())
PYTHON
}

install_with_uv() {
    uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[agent,control-plane]' --group dev
}

install_with_pip() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip &&
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
            -e '.[agent,control-plane]' --group dev
}

# True when a uv is here that knows dependency groups.
has_uv() { command -v uv >/dev/null && uv pip install --help 2>/dev/null | grep -q -- '--group'; }

create_environment() {
    rm -rf .venv
    if has_uv; then
        uv venv --quiet --no-project --python "$1" .venv || die "uv could not make .venv with $1"
    else
        "$1" -m venv .venv ||
            die "$1 could not make .venv; on Debian its venv module is a package: sudo apt-get install python3-venv"
    fi
}

install_packages() {
    local installer=install_with_pip
    if has_uv; then
        installer=install_with_uv
    elif ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        .venv/bin/python -m ensurepip --upgrade >/dev/null || die "there is neither uv nor pip for .venv"
    fi
    run_group "$installer" || die "the packages could not be installed (see above); run the same command again"
}

# Needs: the working directory is the project's. Leaves: .venv holds exactly what pyproject.toml and
# constraints.txt say. The stamp is written last, so that an interrupted run starts over.
prepare_environment() {
    local python key old seconds=$SECONDS
    if [[ -z ${SHOAL_PYTHON:-} && -f $STAMP ]] && is_supported_python .venv/bin/python; then
        python=.venv/bin/python
    else
        python=$(find_python)
    fi
    key=$(environment_key "$python")
    [[ -f $STAMP && $(<"$STAMP") == "$key" ]] && return

    exec 9<scripts/environment.sh # another script may be at it: one at a time
    if command -v flock >/dev/null; then flock 9; fi
    old=$(cat "$STAMP" 2>/dev/null || true)
    if [[ $old != "$key" ]]; then
        say "setting up .venv (${key%% /*}), once; this takes a minute or two"
        rm -f "$STAMP"
        [[ -n $old && ${old%%$'\n'*} == "${key%%$'\n'*}" ]] || create_environment "$python"
        install_packages
        printf '%s\n' "$key" >"$STAMP"
        say "ready after $((SECONDS - seconds)) s"
    fi
    exec 9<&-
}

# Prints a Python 3.11: the older runtime knows none that is newer.
find_python_3_11() {
    local candidate
    for candidate in "${SHOAL_PYTHON:-python3.11}" python3.11 .venv/bin/python python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# The same pins but numpy's: the extra holds numpy below 2, and 1.26.4 was its last.
install_tflite_runtime() {
    local python=.venv-tflite/bin/python pins=.venv-tflite/constraints.txt
    grep -v '^numpy==' constraints.txt >"$pins"
    if has_uv; then
        uv pip install --quiet --python "$python" -c "$pins" -e '.[agent-tflite-runtime]' --group test
    else
        "$python" -m pip install --quiet --disable-pip-version-check -c "$pins" pip &&
            "$python" -m pip install --quiet --disable-pip-version-check -c "$pins" \
                -e '.[agent-tflite-runtime]' --group test
    fi
}

# As prepare_environment, for the tests of the other runtime. Without a Python 3.11 those tests are
# skipped, and fail with --require-all.
prepare_tflite_environment() {
    local python key stamp=.venv-tflite/.shoal-stamp
    python=$(find_python_3_11) || {
        say "found no Python 3.11: the tests of tflite-runtime are left out"
        return 0
    }
    key=$(environment_key "$python")
    [[ -f $stamp && $(<"$stamp") == "$key" ]] && return
    exec 9<scripts/environment.sh
    if command -v flock >/dev/null; then flock 9; fi
    if [[ $(cat "$stamp" 2>/dev/null || true) != "$key" ]]; then
        say "setting up .venv-tflite, once; this takes a minute"
        rm -rf .venv-tflite
        if has_uv; then
            uv venv --quiet --no-project --python "$python" .venv-tflite || die "uv could not make .venv-tflite"
        else
            "$python" -m venv .venv-tflite || die "$python could not make .venv-tflite"
        fi
        run_group install_tflite_runtime ||
            die "the packages of .venv-tflite could not be installed (see above); run the same command again"
        printf '%s\n' "$key" >"$stamp"
    fi
    exec 9<&-
}

group=

# Ends what run_group started, then this script with status $1.
stop_group() {
    trap - INT TERM HUP EXIT
    if [[ -n $group ]]; then
        kill -TERM -- "-$group" 2>/dev/null || true
        for _ in {1..50}; do
            kill -0 -- "-$group" 2>/dev/null || exit "$1"
            sleep 0.1
        done
        kill -KILL -- "-$group" 2>/dev/null || true
    fi
    exit "$1"
}

run_group() {
    local status=0
    trap 'stop_group 130' INT
    trap 'stop_group 143' TERM HUP
    trap 'stop_group $?' EXIT
    set -m
    "$@" </dev/null 9<&- &
    group=$!
    set +m
    wait "$group" || status=$?
    kill -TERM -- "-$group" 2>/dev/null || true # what it left behind
    group=
    trap - INT TERM HUP EXIT
    return "$status"
}
