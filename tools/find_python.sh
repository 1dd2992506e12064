#!/bin/sh
# Print a Python that TensorFlow has wheels for: the one given, or the first that fits.
for python in ${1:-python3 python3.13 python3.12 python3.11 python}; do
  if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    echo "$python"
    exit 0
  fi
done
echo "No Python 3.11, 3.12 or 3.13 with venv was found. Name one: make PYTHON=/path/to/python ..." >&2
exit 1
