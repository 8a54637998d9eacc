#!/usr/bin/env bash
# Runs benchmarks. Each prints what it measured next to its limit and its peer of the same run.
#
#   ./bench.sh [NAME ...] [--json]   all of them, or those named; with --json one object a line on standard output
#   ./bench.sh kills --kills N       as many kills instead of its 1,000
#   ./bench.sh plan --devices N      a fleet of that size instead of its 1,000,000
#   ./bench.sh fleet --devices N     as many simulated devices instead of its 1,000
#   ./bench.sh --list                their names
#
# A benchmark is a file tests/benchmarks/NAME.py. The status is 0 only if every limit of every one holds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/environment.sh

list() {
    local file
    for file in tests/benchmarks/*.py; do
        [[ ! -e $file ]] || basename "$file" .py
    done
}

names=()
options=()
while (($#)); do
    argument=$1 && shift
    case $argument in
    --list) list && exit ;;
    --json) options+=(--json) ;;
    --kills | --devices) options+=("$argument" "${1:?a number follows $argument}") && shift ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' bench.sh && exit ;;
    -*) say "unknown option $argument; see ./bench.sh --help" && exit 2 ;;
    *)
        [[ -f tests/benchmarks/$argument.py ]] || { say "no benchmark $argument; there are:" $(list) && exit 2; }
        names+=("$argument")
        ;;
    esac
done
((${#names[@]})) || mapfile -t names < <(list)
((${#names[@]})) || say "there are no benchmarks yet"

prepare_environment
status=0
for name in "${names[@]}"; do
    PYTHONPATH=tests:scripts/demo run_group .venv/bin/python -m "benchmarks.$name" "${options[@]}" || status=1
done
exit "$status"
