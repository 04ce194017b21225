#!/usr/bin/env bash
# tifffile 2026.3.3 under NumPy 2.5.5: reading a 16-bit TIFF sets the
# shape of an array, which NumPy 2.5 deprecates with a DeprecationWarning.
#
# Surprise: the two install together without a complaint, and nothing is seen as
# long as warnings are hidden. Where they are errors, as in many test suites, a
# valid file cannot be read; a reader that takes errors of the library for
# damage then calls it damaged. tifffile 2026.11.8 reads it without a warning.
#
# Needs Python 3.12 or later (PYTHON=python3.12). Exits with 0 as long as both
# versions behave so, else with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
status=0
for expected in 2026.3.3:warns 2026.11.8:silent; do
  "$folder/venv/bin/pip" --quiet install 'numpy==2.5.5' \
    "tifffile==${expected%:*}"
  "$folder/venv/bin/python" - "$folder/a.tif" "${expected#*:}" <<'PYTHON' || status=1
import importlib.metadata
import sys
import warnings

import numpy as np
import tifffile

path, expected = sys.argv[1:]
image = np.arange(48, dtype=np.uint16).reshape(6, 8)
tifffile.imwrite(path, image)
with warnings.catch_warnings(record=True) as caught:
  warnings.simplefilter('always')
  assert np.array_equal(tifffile.imread(path), image)
messages = {str(w.message).splitlines()[0] for w in caught}
versions = [importlib.metadata.version(n) for n in ('tifffile', 'numpy')]
print('tifffile {}, numpy {}:'.format(*versions), sorted(messages) or 'silent')
warns = any('Setting the shape' in message for message in messages)
sys.exit(warns != (expected == 'warns'))
PYTHON
done
exit "$status"
