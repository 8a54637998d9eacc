#!/usr/bin/env bash
# The main job on real input: control plane, broker and devices on this machine. Needs git and Python 3.11 only.
#
#   ./demo.sh [--devices 8] [--headless] [--json FILE] [--broker auto|mosquitto|amqtt]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/environment.sh

prepare_environment
exec .venv/bin/python scripts/demo/main.py "$@"
