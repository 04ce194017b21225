#!/usr/bin/env bash
# etils 1.15.0: epath.Path.iterdir leaves out every file and folder whose name
# ends in '~', without a word; pathlib.Path.iterdir does not.
#
# Surprise: whoever walks a folder with it to hash, copy or check all that lies
# there misses such files (editors leave copies as README.md~). epath.Path says
# that it has the interface of pathlib; glob('*') finds the file. Here a release
# was sealed beside a file that its own check then found.
#
# Exits with 0 as long as etils behaves so, else with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install 'etils[epath]==1.15.0'
mkdir "$folder/files"
touch "$folder/files/README.md" "$folder/files/README.md~"
"$folder/venv/bin/python" - "$folder/files" <<'PYTHON'
import importlib.metadata
import pathlib
import sys

from etils import epath

folder = sys.argv[1]
found = {
  'pathlib iterdir': pathlib.Path(folder).iterdir(),
  'epath iterdir': epath.Path(folder).iterdir(),
  'epath glob': epath.Path(folder).glob('*'),
}
names = {way: sorted(path.name for path in paths) for way, paths in found.items()}
print('etils', importlib.metadata.version('etils'))
for way, listed in names.items():
  print(f'{way}: {listed}')
is_so = names['epath iterdir'] != names['pathlib iterdir']
print('a name is left out' if is_so else 'all names are there: mended')
sys.exit(not is_so)
PYTHON
