# Sourced by quickstart.sh and test.sh: makes .venv with the tested versions, once. $1: "" or "dev".
# PYTHON chooses the interpreter (3.11 or newer).
PYTHON="${PYTHON:-python3}"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11 $0" >&2
    exit 2
}
stamp=".venv/.installed-${1:-run}-$(cat setup.cfg constraints.txt | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
    [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
    echo "installing into .venv (about 6 GB, a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[serve,weights${1:+,$1}]"
    touch "$stamp"
fi
