"""docs/inputs.md says what is read and what is refused: each row is tried.

`DP_DIFFUSION_WRITE=1 python -m pytest tests/data/inputs_table_test.py` writes
the page anew.
"""

from __future__ import annotations

import itertools
import os
import re

import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.data import folder
from dp_diffusion.data import registry
from tests.data import inputs

_INTRO = """\
# Own images: what is read, and what is refused

`data.path` names a folder, a `.zip`, an `.npz` or a `.parquet` file. The test
`inputs_table_test.py` makes and tries the data of each row below, and writes
this page. A refusal is one line, which names up to five files and the number of
others. Names, headers, sizes and one image of each class are checked before
pre-training; all pixels are checked before any privacy budget is spent.

If the data state no division into a training and a held-out part, the images
are divided by content. Equal images (at the size and channels of the config),
whatever their names, and all images of a person are in the same part. The part
depends only on `data.split_seed` and the image or the person, so another image
does not change it. If persons are known, images of a single colour are not
compared. If the data state a division it is kept: every part but the training
part is held out, and training images that equal a held-out image, or show its
person, are left out. Equal images under several classes are then kept;
`private/survey.json` names them, and the files that were left out.

Columns and files that no row names are not read. Sets larger than
`data.max_in_memory_bytes` are decoded into the user's cache folder
(`data.cache_dir`, else `$XDG_CACHE_HOME/dp_diffusion`), readable by the user
alone, and stay there: see [privacy](privacy.md).
"""


_DIVISIONS = {'given': 'as it comes', 'by content': 'by content'}


def _config(keys):
  values = {'image_size': 8, 'channels': 3, 'class_names': inputs.CLASSES}
  values |= {
    k: str(v) if 'path' in k or 'csv' in k else v for k, v in keys.items()
  }
  return registry.DataConfig(**({'name': 'folder'} | values))


def _load(config):
  splits = [config.split, config.test_split]
  registry.check_readable(config, splits)
  return [registry.load(config, split) for split in splits]


def _reading(row, keys):
  """What comes of a row that is read; its labels are checked."""
  train, test = _load(_config(keys))
  for source in (train, test):
    assert len(source.images)
    is_bright = source.images.reshape(len(source.images), -1).mean(1) > 127
    np.testing.assert_array_equal(source.labels, is_bright)
  assert not {i.tobytes() for i in train.images} & {
    i.tobytes() for i in test.images
  }
  division = folder.survey_files(_config(keys))['division']
  found = f'read; divided {_DIVISIONS[division]}'
  if train.person is not None:
    found += '; persons are known'
    assert not set(train.person) & set(test.person)
  return found + (f'; {row.note}' if row.note else '')


def _refusal(keys, root):
  with pytest.raises(errors.UsageError) as caught:
    _load(_config(keys))
  text = str(caught.value)
  assert '\n' not in text
  text = text.replace(f'{root}/', '')
  text = re.sub('(cannot be read)[^,;]*$', r'\1.', text)
  return f'refused: {text}'


def _render(results):
  lines = [_INTRO]
  for section, group in itertools.groupby(results, lambda r: r[0].section):
    lines += [f'## {section}', '', '| given | comes of it |', '|---|---|']
    for row, result in group:
      text = result.replace('|', '\\|').replace('<', '&lt;')
      lines.append(f'| {row.what} | {text} |')
    lines.append('')
  return '\n'.join(lines).rstrip('\n') + '\n'


def test_the_page_says_what_comes_of_each_form(tmp_path, repository):
  results = []
  for number, row in enumerate(inputs.ROWS):
    root = tmp_path / str(number)
    root.mkdir()
    keys = row.make(root)
    result = _reading(row, keys) if row.is_read else _refusal(keys, root)
    results.append((row, result))
  path = repository / 'docs' / 'inputs.md'
  if os.environ.get('DP_DIFFUSION_WRITE'):
    path.write_text(_render(results))
  assert path.read_text() == _render(results), 'Set DP_DIFFUSION_WRITE=1.'
