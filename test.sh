#!/usr/bin/env bash
# Runs the checks and the tests. Needs git and Python 3.11 only; makes .venv first, and
# .venv-tflite for the tests of the older runtime.
#
#   ./test.sh [--require-all] [--long] [pytest arguments]
#
#   --require-all  a test whose system program is missing fails instead of being skipped
#   --long         full sizes of the tests that have a short and a long form; hostile input: at least
#                  100,000 cases against every parser of foreign bytes, in about ten minutes
#
# The checks are style, types and who imports whom. Given pytest arguments that name files or tests,
# it still runs them first: they take seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/environment.sh

case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' test.sh && exit ;; esac

prepare_environment
prepare_tflite_environment
export PATH="$PWD/.venv/bin:$PATH"

# Says nothing when all is well, else everything the tool said.
check() {
    local said=.venv/.check.log
    run_group "$@" &>"$said" || { cat "$said" >&2 && die "failed: $*"; }
}
check ruff check
check ruff format --check
check mypy
check lint-imports --no-logo

exec .venv/bin/pytest --numprocesses 2 --dist loadgroup "$@"
