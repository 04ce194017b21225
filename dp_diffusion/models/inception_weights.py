"""Finds, checks and reads the weights of FID's Inception-v3.

The weights are the constants of the frozen graph of 2015. The file is
downloaded on first use or placed by hand. In both cases its SHA-256 must be the
known one: with other weights the distance would not be FID.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import io
import os
import pathlib
import tarfile
from typing import Any
import urllib.request

import numpy as np

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models import graph_def
from dp_diffusion.models import inception

FILE_NAME = 'classify_image_graph_def.pb'
FILE_BYTES = 95_673_916
FILE_SHA256 = '009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6'
ARCHIVE_URL = (
  'http://download.tensorflow.org/models/image/imagenet/'
  'inception-2015-12-05.tgz'
)
_SECS_TO_CONNECT = 20.0


def cache_folder() -> pathlib.Path:
  """Returns the folder of the file, `~/.cache/dp_diffusion` by default.

  Returns:
    A local folder in the user's cache ($XDG_CACHE_HOME). It may not exist.
  """
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(base).expanduser() / 'dp_diffusion'


def find(
  path: str = '', download: Callable[[], bytes] | None = None
) -> pathlib.Path:
  """Finds the graph file, and downloads it if it is not in the cache.

  Args:
    path: the file; '' looks in the cache folder.
    download: returns the bytes of the archive; None downloads over HTTP.

  Returns:
    The path of a file whose SHA-256 is the known one.

  Raises:
    UsageError: the file is missing and cannot be downloaded, or has another
      SHA-256.
  """
  target = pathlib.Path(path) if path else cache_folder() / FILE_NAME
  if not target.exists():
    if path:
      raise errors.UsageError(
        f'Expected the Inception graph at {path!r}; there is no such file.'
        f' It is {FILE_NAME} of {ARCHIVE_URL}.'
      )
    _fetch(target, download or _http)
  found = files.sha256(target)
  if found != FILE_SHA256:
    raise errors.UsageError(
      f'Expected {target} to have sha256 {FILE_SHA256}, the graph of 2015; it'
      f' has {found}. Delete it and take {FILE_NAME} from {ARCHIVE_URL}.'
    )
  return target


def load(path: str = '') -> dict[str, dict[str, np.ndarray]]:
  """Loads the weights of FID.

  Args:
    path: the file; '' looks in the cache folder, see `find`.

  Returns:
    {module name: {kernel, gamma, beta, moving_mean, moving_variance}}, for
    `inception.InceptionV3().apply({'params': ...}, x)`.

  Raises:
    UsageError: see `find`.
  """
  return read_params(find(path).read_bytes())


def read_params(data: bytes) -> dict[str, dict[str, np.ndarray]]:
  """Reads the parameters from a graph with the nodes of Inception-v3.

  Args:
    data: a serialized GraphDef.

  Returns:
    The parameters, as `load` returns them, with the channels of the constants.

  Raises:
    ValueError: a node is missing, or does not have the expected kernel size
      or batch-norm epsilon.
  """
  nodes = graph_def.read_nodes(data)
  return {
    inception.module_name(path): _unit(nodes, path, conv)
    for path, conv in inception.conv_paths().items()
  }


def channels(params: dict[str, dict[str, np.ndarray]]) -> dict[str, int]:
  """Returns the output channels of `params`, by node path."""
  return {
    path: params[inception.module_name(path)]['kernel'].shape[-1]
    for path in inception.conv_paths()
  }


def _unit(
  nodes: dict[str, graph_def.Node], path: str, conv: inception.Conv
) -> dict[str, np.ndarray]:
  unit = {'kernel': _constant(nodes, f'{path}/conv2d_params')}
  for name in ('beta', 'gamma', 'moving_mean', 'moving_variance'):
    unit[name] = _constant(nodes, f'{path}/batchnorm/{name}')
  if unit['kernel'].shape[:2] != conv.kernel:
    raise ValueError(
      f'Expected {path} to have a kernel of {conv.kernel}; it has'
      f' {unit["kernel"].shape[:2]}.'
    )
  scalars = nodes[f'{path}/batchnorm'].scalars if path in nodes else {}
  epsilon: Any = scalars.get('variance_epsilon', inception.BATCH_NORM_EPSILON)
  if not np.isclose(epsilon, inception.BATCH_NORM_EPSILON):
    raise ValueError(f'Expected {path} to have epsilon 1e-3; it has {epsilon}.')
  if not scalars.get('scale_after_normalization', True):
    unit['gamma'] = np.ones_like(unit['gamma'])  # The node does not scale.
  return unit


def _constant(nodes: dict[str, graph_def.Node], name: str) -> np.ndarray:
  value = nodes[name].value if name in nodes else None
  if value is None:
    raise ValueError(f'Expected a constant {name!r} in the Inception graph.')
  return value


def _fetch(target: pathlib.Path, download: Callable[[], bytes]) -> None:
  """Writes the graph to `target`; an error says where to put it by hand."""
  console.say(f'Fetching the Inception graph of FID to {target}.')
  try:
    with tarfile.open(fileobj=io.BytesIO(download()), mode='r:gz') as archive:
      member = archive.extractfile(FILE_NAME)
      data = member.read() if member else b''
  except (OSError, KeyError, EOFError, tarfile.TarError) as e:
    raise errors.UsageError(
      f'Expected the Inception graph at {str(target)!r}; it is not there and'
      f' cannot be fetched ({e}). Put {FILE_NAME} ({FILE_BYTES} bytes) of'
      f' {ARCHIVE_URL} there.'
    ) from e
  if hashlib.sha256(data).hexdigest() != FILE_SHA256:
    raise errors.UsageError(
      f'Expected {FILE_NAME} of {ARCHIVE_URL} to have sha256 {FILE_SHA256};'
      f' what came differs and was thrown away. Put the true file at'
      f' {str(target)!r}.'
    )
  files.write_bytes(target, data)


def _http() -> bytes:
  with urllib.request.urlopen(ARCHIVE_URL, timeout=_SECS_TO_CONNECT) as reply:
    return reply.read()
