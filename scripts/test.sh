#!/usr/bin/env bash
# Lint, type-check and test on a fresh clone: makes .venv, installs, runs. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh dev

.venv/bin/ruff check ssl eval tests scripts
.venv/bin/ruff format --check ssl eval tests scripts
.venv/bin/mypy
# Two at a time, each file by one process, since files share what their fixtures make.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
