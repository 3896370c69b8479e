#!/bin/sh
# The Hub tests with the oldest client that is supported, beside the one that is installed.
set -e
python="${PYTHON:-python}"
target="${TMPDIR:-/tmp}/segzoo-old-hub"
[ -d "$target/huggingface_hub" ] ||
    "$python" -m pip install --quiet --disable-pip-version-check --target "$target" "huggingface_hub==1.30.0"
PYTHONPATH="$target${PYTHONPATH:+:$PYTHONPATH}" "$python" -m pytest -q tests/storage/test_hub.py "$@"
