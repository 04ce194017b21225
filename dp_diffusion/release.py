"""Writes everything below `release/`, which may be published.

    model/params.npz, model.json    released weights, what they belong to, and
                                    how images are sampled from them
    model/class_head.npz            the class head, if there is one
    model/class_gaussians.npz       what samples start from, if not from noise
    dataset/images-*.npz            images uint8[N, H, W, C], labels int32[N],
                                    class_probabilities
                                    float32[N, num_classes] if asked for, and
                                    the mark of this release
    dataset/dataset.json            class names and counts
    dataset/parquet/train-*.parquet the same images for Hugging Face datasets
    dataset/tfds/NAME/1.0.0/        the same images for TensorFlow Datasets
    croissant.json                  metadata of the dataset (Croissant 1.0)
    samples.png                     a grid by class
    README.md                       the card
    privacy.json                    the statement, with the sha256 of each file

No file depends on the machine or the content of `private/`, and only the card
and `croissant.json` have a date, which `card.date` sets: a run that was killed
and resumed writes the same bytes. Each file appears whole or
not at all. `seal` is called last, and refuses files of other origin.

Guarantees:
  * Weights or images of another run are refused, not sealed under a ledger that
    has not paid for them.
    `tests/release_test.py::test_replaced_weights_are_not_sampled`,
    `tests/release_test.py::test_images_of_another_release_are_refused`,
    `tests/release_test.py::test_seal_covers_no_file_of_others`,
    `tests/stages/run/statements_test.py::test_images_of_another_run_are_not_covered`.

`python -m dp_diffusion.release RELEASE_DIR` adds the TFDS form to a release
that was made where TensorFlow was absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
import re
import sys
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import croissant
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release_card
from dp_diffusion import release_marks
from dp_diffusion import types
from dp_diffusion.data import parquet_writer
from dp_diffusion.data import tfds_writer
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.models import class_gaussians
from dp_diffusion.models import class_head
from dp_diffusion.models import weights

STATEMENT = 'privacy.json'
CARD = 'README.md'
CROISSANT = 'croissant.json'
_COMMAND = 'python -m dp_diffusion.release RELEASE_DIR'
_PARQUET = 'dataset/parquet'
_MODEL = 'model/params.npz'
_CLASS_HEAD = 'model/class_head.npz'
_GAUSSIANS = 'model/class_gaussians.npz'
_TFDS = 'dataset/tfds/'
_OURS = re.compile(  # No event of the ledger covers any other file.
  r'model/((params|class_head|class_gaussians)\.npz|model\.json)'
  r'|dataset/(images-\d+-of-\d+\.npz|dataset\.json)'
  r'|samples\.png|croissant\.json|README\.md'
)
_OF_SHARD = re.compile(_PARQUET + r'/train-(\d+-of-\d+)\.parquet')


class _Shard(NamedTuple):
  """Images with their labels and, if the shard has some, soft labels."""

  images: np.ndarray
  labels: np.ndarray
  class_probabilities: np.ndarray | None


def write_model(
  release_dir: epath.PathLike,
  params: types.Params,
  description: Mapping[str, Any],
) -> None:
  """Writes the released weights.

  Args:
    release_dir: the folder `release/`.
    params: nested dict of float32 arrays, named as 'a/b/kernel' in the file.
    description: JSON values: config of the architecture, diffusion process,
      classes and sampler. They must not contain anything measured on
      sensitive images.
  """
  folder = epath.Path(release_dir) / 'model'
  weights.save_npz(folder / 'params.npz', params, is_released=True)
  crash_points.reach('mid_release')
  files.write_json(folder / 'model.json', dict(description))


def write_class_head(
  release_dir: epath.PathLike, head: class_head.ClassHead
) -> None:
  """Writes the class head beside the weights that it reads."""
  path = epath.Path(release_dir) / _CLASS_HEAD
  weights.save_npz(path, head.arrays(), is_released=True)


def read_class_head(release_dir: epath.PathLike) -> class_head.ClassHead | None:
  """Reads what `write_class_head` wrote; None if there is no class head.

  Raises:
    ValueError: the file holds no class head.
  """
  path = epath.Path(release_dir) / _CLASS_HEAD
  if not path.exists():
    return None
  return class_head.ClassHead.from_arrays(_unmarked(path))


def write_class_gaussians(
  release_dir: epath.PathLike, gaussians: class_gaussians.ClassGaussians
) -> None:
  """Writes the Gaussians of the classes beside the weights."""
  path = epath.Path(release_dir) / _GAUSSIANS
  weights.save_npz(path, dataclasses.asdict(gaussians), is_released=True)


def read_class_gaussians(
  release_dir: epath.PathLike,
) -> class_gaussians.ClassGaussians | None:
  """Reads what `write_class_gaussians` wrote; None if there are none.

  Raises:
    ValueError: the file holds no Gaussians.
  """
  path = epath.Path(release_dir) / _GAUSSIANS
  if not path.exists():
    return None
  return class_gaussians.ClassGaussians.from_arrays(_unmarked(path))


def _unmarked(path: epath.Path) -> dict[str, np.ndarray]:
  """Reads arrays, without the mark of a release."""
  arrays = files.read_npz(path)
  arrays.pop(weights.RELEASED, None)
  return arrays


def write_sampling(
  release_dir: epath.PathLike, sampling: Mapping[str, Any]
) -> None:
  """Writes to `model.json` how the images of the dataset were sampled.

  Args:
    release_dir: the folder `release/`, with its model.
    sampling: config of the sampler, and batch size, as JSON values.
  """
  path = epath.Path(release_dir) / 'model' / 'model.json'
  description = files.read_whole_json(path)
  if description.get('sampling') != sampling:
    files.write_json(path, {**description, 'sampling': dict(sampling)})


def check_no_leftovers(release_dir: epath.PathLike) -> None:
  """Refuses a folder that has files before the private training begins.

  Raises:
    UsageError: names a file, which the ledger of this run does not cover.
  """
  folder = epath.Path(release_dir)
  if folder.exists() and (names := files.list_files(folder)):
    raise errors.UsageError(
      f'Expected no files in {folder} before the first private step, found'
      f' {names[0]}: it is of another run, and the statement of this one would'
      ' not cover it. Move the folder away, or give another --workdir.'
    )


def read_model(
  release_dir: epath.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads what `write_model` wrote.

  Raises:
    UsageError: there is no model.
  """
  folder = epath.Path(release_dir) / 'model'
  if not (folder / 'model.json').exists():
    raise errors.UsageError(
      f'Expected a released model in {folder}; run the stage finetune first.'
    )
  arrays = files.read_npz(folder / 'params.npz')
  arrays.pop(weights.RELEASED, None)
  return arrays, files.read_json(folder / 'model.json')


def check_model(
  release_dir: epath.PathLike, *, is_rewritten: bool = False
) -> None:
  """Refuses weights other than those that were released and stated.

  Args:
    release_dir: the folder `release/`.
    is_rewritten: whether the weights of the network will be written again, so
      that only what lies beside them is checked.

  Raises:
    UsageError: the weights were replaced since, or are gone.
  """
  folder = epath.Path(release_dir)
  stated = files.read_whole_json(folder / STATEMENT).get('files')
  stated = stated if isinstance(stated, Mapping) else {}
  beside = (_CLASS_HEAD, _GAUSSIANS)
  for name in beside if is_rewritten else (_MODEL, *beside):
    path, digest = folder / name, stated.get(name)
    if name != _MODEL and digest is None and not path.exists():
      continue
    if not path.exists() or files.sha256(path) != digest:
      raise errors.UsageError(
        f'Expected {path} to be the weights of {folder / STATEMENT}, whose'
        f' ledger covers no others (sha256 {digest}): restore both as the stage'
        ' finetune wrote them.'
      )


def shard_path(
  release_dir: epath.PathLike, shard: int, num_shards: int
) -> epath.Path:
  """Returns the path of shard number `shard` of the dataset."""
  name = f'images-{shard:05d}-of-{num_shards:05d}.npz'
  return epath.Path(release_dir) / 'dataset' / name


def missing_shards(
  release_dir: epath.PathLike,
  num_shards: int,
  mark: release_marks.Mark | None = None,
) -> tuple[int, ...]:
  """Returns the shards still to be made; existing shards are whole.

  Args:
    release_dir: the folder `release/`.
    num_shards: number of shards of the dataset.
    mark: mark of this release, which existing shards must have; None does not
      compare.

  Raises:
    UsageError: a shard has another mark, or none.
  """
  found = []
  for shard in range(num_shards):
    path = shard_path(release_dir, shard, num_shards)
    if not path.exists():
      found.append(shard)
    elif mark is not None:
      _check_mark(path, mark)
  return tuple(found)


def check_images(
  release_dir: epath.PathLike, make_mark: Callable[[], release_marks.Mark]
) -> None:
  """Refuses shards of another release, before a statement covers them.

  Args:
    release_dir: the folder `release/`.
    make_mark: returns the mark of this release, which every shard must have; it
      is called if there are shards.

  Raises:
    UsageError: a shard has another mark, or none.
  """
  folder = epath.Path(release_dir) / 'dataset'
  if paths := sorted(folder.glob('images-*-of-*.npz')):
    mark = make_mark()
    for path in paths:
      _check_mark(path, mark)


def write_shard(
  release_dir: epath.PathLike,
  shard: int,
  num_shards: int,
  images: np.ndarray,
  labels: np.ndarray,
  mark: release_marks.Mark | None = None,
  class_probabilities: np.ndarray | None = None,
) -> None:
  """Writes one shard of the dataset, whole or not at all.

  Args:
    release_dir: the folder `release/`.
    shard: number of the shard, in [0, num_shards).
    num_shards: number of shards of the dataset.
    images: uint8[N, H, W, C].
    labels: int32[N].
    mark: mark of this release, by which the ledger of the images is found.
    class_probabilities: float32[N, num_classes], whose rows sum to 1; None for
      none.

  Raises:
    ValueError: an array has another dtype or shape, or a row of
      class_probabilities is no distribution.
  """
  _check_images(images, labels)
  arrays = {'images': images, 'labels': labels}
  if class_probabilities is not None:
    _check_probabilities(class_probabilities, len(images))
    arrays['class_probabilities'] = class_probabilities
  path = shard_path(release_dir, shard, num_shards)
  marked = {release_marks.NAME: mark.to_array()} if mark else {}
  files.write_npz(path, 0o644, **arrays, **marked)


def read_dataset(
  release_dir: epath.PathLike,
) -> tuple[np.ndarray, np.ndarray]:
  """Reads all shards in order.

  Returns:
    (images uint8[N, H, W, C], labels int32[N]).

  Raises:
    UsageError: a shard is missing.
  """
  shards = list(_shards(release_dir))
  images = np.concatenate([shard.images for shard in shards])
  labels = np.concatenate([shard.labels for shard in shards])
  return images, labels


def read_class_probabilities(release_dir: epath.PathLike) -> np.ndarray | None:
  """Reads the class probabilities of the images that `read_dataset` reads.

  Returns:
    float32[N, num_classes]; None if the dataset has none.

  Raises:
    UsageError: a shard is missing, or some have none.
  """
  found = [shard.class_probabilities for shard in _shards(release_dir)]
  there = [part for part in found if part is not None]
  if there and len(there) < len(found):
    raise errors.UsageError(
      f'Expected class_probabilities in all shards of {release_dir}/dataset or'
      ' in none: restore them as the stage sample wrote them.'
    )
  return np.concatenate(there) if there else None


def write_dataset_info(
  release_dir: epath.PathLike, spec: types.DatasetSpec
) -> None:
  """Writes `dataset/dataset.json`, with the class names and counts.

  Args:
    release_dir: the folder `release/`, with all shards.
    spec: facts of the sensitive dataset; its name and classes are public.
  """
  counts = np.zeros(spec.num_classes, np.int64)
  has_probabilities = False
  for shard in _shards(release_dir):
    counts += np.bincount(shard.labels, minlength=spec.num_classes)
    has_probabilities |= shard.class_probabilities is not None
  info = {
    'name': f'synthetic_{_snake_case(spec.name)}',
    'image_shape': list(spec.image_shape),
    'class_names': list(spec.class_names),
    'num_images': int(counts.sum()),
    'num_images_per_class': counts.tolist(),
    **({'has_class_probabilities': True} if has_probabilities else {}),
  }
  files.write_json(epath.Path(release_dir) / 'dataset' / 'dataset.json', info)


def read_dataset_info(release_dir: epath.PathLike) -> dict[str, Any]:
  """Reads `dataset/dataset.json`.

  Raises:
    UsageError: the file does not exist.
  """
  path = epath.Path(release_dir) / 'dataset' / 'dataset.json'
  if not path.exists():
    raise errors.UsageError(f'Expected {path}; run the stage sample first.')
  return files.read_json(path)


def write_samples(release_dir: epath.PathLike, *, per_class: int = 10) -> None:
  """Writes `samples.png`: a row of synthetic images for each class."""
  folder = epath.Path(release_dir)
  names = _class_names(read_dataset_info(folder))
  grid = image_grids.class_grid(
    *read_dataset(folder), names, per_class=per_class
  )
  files.write_bytes(folder / 'samples.png', grid)


def write_parquet(release_dir: epath.PathLike) -> None:
  """Writes each shard as a parquet file too, as Hugging Face has them.

  `datasets.load_dataset(release_dir)` finds the files by the card.

  Args:
    release_dir: the folder `release/` with all shards and `dataset.json`.
  """
  names = _class_names(read_dataset_info(release_dir))
  mark = _mark(release_dir)
  text = mark.in_description() if mark else ''
  num_shards = len(_shard_paths(release_dir))
  for shard, found in enumerate(_shards(release_dir)):
    data = parquet_writer.to_bytes(
      [image_grids.png(image) for image in found.images],
      found.labels.tolist(),
      names,
      text,
      found.class_probabilities,
    )
    name = f'train-{shard:05d}-of-{num_shards:05d}.parquet'
    files.write_bytes(epath.Path(release_dir) / _PARQUET / name, data)


def write_tfds(
  release_dir: epath.PathLike, homepage: str = release_card.PAPER_URL
) -> epath.Path | None:
  """Writes the dataset as a dataset of TensorFlow Datasets (TFDS).

  `tfds.builder_from_directory(PATH)` reads it without this package, by
  `as_dataset` (TFRecord) and by `as_data_source` (ArrayRecord).

  Args:
    release_dir: the folder `release/` with all shards and `dataset.json`.
    homepage: link that is part of the description of the dataset.

  Returns:
    The folder, or None if TensorFlow is not installed.
  """
  info = read_dataset_info(release_dir)
  root = epath.Path(release_dir) / 'dataset' / 'tfds'
  folder = root / info['name'] / tfds_writer.VERSION
  if folder.exists():
    if files.is_local(folder):
      _check_mark(folder, _mark(release_dir))
    return folder
  if not tfds_writer.is_available():
    console.say(
      'The TFDS form of the dataset is left out, as TensorFlow is not '
      'installed. To add it: pip install tensorflow tensorflow-datasets && '
      f'python -m dp_diffusion.release {os.fspath(release_dir)}'
    )
    return None
  unfinished = root.parent / '.tfds.tmp'
  if unfinished.exists():
    unfinished.rmtree()
  target = unfinished / info['name'] / tfds_writer.VERSION
  mark = _mark(release_dir)
  tfds_writer.write(
    target,
    tfds_writer.About(
      name=info['name'],
      image_shape=tuple(info['image_shape']),
      class_names=tuple(_class_names(info)),
      homepage=homepage,
      mark=mark.in_description() if mark else '',
      has_class_probabilities=info.get('has_class_probabilities', False),
    ),
    (
      (
        [image_grids.png(image) for image in shard.images],
        shard.labels.tolist(),
        shard.class_probabilities,
      )
      for shard in _shards(release_dir)
    ),
  )
  crash_points.reach('mid_release')
  unfinished.rename(root)
  return folder


def write_card(
  release_dir: epath.PathLike,
  statement: Mapping[str, Any],
  config: release_card.CardConfig | None = None,
  channels: release_card.Channels | None = None,
) -> None:
  """Writes `README.md` and, with a dataset, `croissant.json`.

  Args:
    release_dir: the folder `release/`, whose content the card describes.
    statement: the privacy statement, whose words are the first and the last.
    config: what the publisher says; None for the defaults.
    channels: as what the sensitive images were read; None does not say.
  """
  release_dir = epath.Path(release_dir)
  config = (config or release_card.CardConfig()).dated()
  contents = _contents(release_dir)
  text = release_card.text(statement, config, contents, channels)
  files.write_text(release_dir / CARD, text)
  if not contents.parquet_folder:
    return
  assert contents.info is not None
  described = croissant.describe(
    release_card.about(statement, config, contents),
    [
      croissant.File(
        path=f'{_PARQUET}/{path.name}',
        num_bytes=path.stat().length,
        sha256=files.sha256(path),
      )
      for path in _parquet_paths(release_dir)
    ],
    _class_names(contents.info),
    has_class_probabilities=contents.info.get('has_class_probabilities', False),
  )
  files.write_json(release_dir / CROISSANT, described)


def seal(
  release_dir: epath.PathLike, statement: Mapping[str, Any]
) -> dict[str, Any]:
  """Writes `privacy.json` with the sha256 of every other file, at the end.

  Args:
    release_dir: the folder `release/`.
    statement: the privacy statement, to which 'files' is added.

  Returns:
    The statement as written.

  Raises:
    UsageError: the folder has a file that this module has not written.
  """
  release_dir = epath.Path(release_dir)
  files.remove_unfinished(release_dir)
  names = [n for n in files.list_files(release_dir) if n != STATEMENT]
  if foreign := [name for name in names if not _is_ours(release_dir, name)]:
    raise errors.UsageError(
      f'Expected no files of others in {release_dir}, no guarantee covers them:'
      f' move {checks.some(foreign)} away and run again.'
    )
  hashes = {name: files.sha256(release_dir / name) for name in names}
  sealed = {**statement, 'files': hashes}
  files.write_json(release_dir / STATEMENT, sealed)
  return sealed


def main(argv: Sequence[str]) -> int:
  """Adds the TFDS form to a release and seals it again."""
  if list(argv) in (['-h'], ['--help']):
    console.say(f'{main.__doc__}\n\n  {_COMMAND}')
    return 0
  if len(argv) != 1 or argv[0].startswith('-'):
    console.warn(f'usage: {_COMMAND}')
    return 2
  release_dir = epath.Path(argv[0])
  try:
    statement_path = release_dir / STATEMENT
    if not statement_path.exists():
      raise errors.UsageError(f'Expected a release with {statement_path}.')
    statement = files.read_whole_json(statement_path)
    _check_unchanged(release_dir, statement)
    folder = write_tfds(release_dir)
    if folder is None:
      return 1
    seal(release_dir, statement)
  except errors.UsageError as error:
    console.warn(str(error))
    return 2
  console.say(f'{folder}')
  return 0


def _is_ours(release_dir: epath.Path, name: str) -> bool:
  """Whether a file belongs to a release, by its name."""
  if found := _OF_SHARD.fullmatch(name):  # Written anew with each shard.
    return (release_dir / f'dataset/images-{found[1]}.npz').exists()
  if name.startswith(_TFDS):
    info = release_dir / 'dataset' / 'dataset.json'
    if not info.exists():
      return False
    folder = f'{_TFDS}{read_dataset_info(release_dir)["name"]}/'
    return name.startswith(f'{folder}{tfds_writer.VERSION}/')
  return _OURS.fullmatch(name) is not None


def _check_mark(path: epath.Path, mark: release_marks.Mark | None) -> None:
  """Refuses images that do not have the mark of this release.

  Raises:
    UsageError: they have another one, or none.
  """
  try:
    if path.is_dir():
      is_same = release_marks.of_tfds(path) == mark
    elif files.is_local(path):
      is_same = release_marks.of_npz(path) == mark
    else:
      is_same = _mark_within(path) == mark
  except ValueError:
    is_same = False
  if not is_same:
    raise errors.UsageError(
      f'Expected {path} to hold images of this release, but its mark is'
      ' missing or of another: no guarantee covers it here. Move it away and'
      ' run again.'
    )


def _check_unchanged(
  release_dir: epath.Path, statement: Mapping[str, Any]
) -> None:
  """Refuses to seal a release again if its files have changed.

  Raises:
    UsageError: names the first file that was changed, is missing or is new.
  """
  stated = statement['files']
  for name in files.list_files(release_dir):
    is_tfds = name.startswith('dataset/tfds/')
    if name != STATEMENT and name not in stated and not is_tfds:
      raise errors.UsageError(
        f'Expected no {name} in {release_dir}, as its statement does not list'
        ' it: move it away.'
      )
  for name, digest in stated.items():
    path = release_dir / name
    if not path.exists() or files.sha256(path) != digest:
      raise errors.UsageError(
        f'Expected {path} as it was released (sha256 {digest}): it was changed'
        ' or is gone. Restore it.'
      )


def _contents(release_dir: epath.Path) -> release_card.Contents:
  """Returns what lies in the folder."""
  info, tfds_folder = None, ''
  if (release_dir / 'dataset' / 'dataset.json').exists():
    info = read_dataset_info(release_dir)
    folder = f'dataset/tfds/{info["name"]}/{tfds_writer.VERSION}'
    tfds_folder = folder if (release_dir / folder).exists() else ''
  model = release_dir / 'model' / 'model.json'
  described = files.read_whole_json(model) if model.exists() else {}
  sampling = described.get('sampling')
  return release_card.Contents(
    info=info,
    parquet_folder=_PARQUET if info and _parquet_paths(release_dir) else '',
    tfds_folder=tfds_folder,
    can_sample=sampling is not None,
    has_class_head=(release_dir / _CLASS_HEAD).exists(),
    has_class_gaussians=(release_dir / _GAUSSIANS).exists(),
    labels_from_head=isinstance(sampling, Mapping)
    and bool(sampling.get('labels_from_head')),
  )


def _parquet_paths(release_dir: epath.Path) -> list[epath.Path]:
  return sorted((release_dir / _PARQUET).glob('train-*-of-*.parquet'))


def _shards(release_dir: epath.PathLike) -> Iterator[_Shard]:
  """Yields each shard, in order."""
  for path in _shard_paths(release_dir):
    arrays = files.read_whole(path, 'images', 'labels')
    yield _Shard(
      arrays['images'], arrays['labels'], arrays.get('class_probabilities')
    )


def _shard_paths(release_dir: epath.PathLike) -> list[epath.Path]:
  """Returns the path of each shard, in order.

  Raises:
    UsageError: a shard is missing.
  """
  folder = epath.Path(release_dir) / 'dataset'
  paths = sorted(folder.glob('images-*-of-*.npz'))
  if not paths:
    raise errors.UsageError(
      f'Expected images-*.npz in {folder}; run the stage sample first.'
    )
  num_shards = int(paths[0].stem.rpartition('-')[2])
  missing = missing_shards(release_dir, num_shards)
  if missing or len(paths) != num_shards:
    raise errors.UsageError(
      f'Expected {num_shards} shards in {folder}, not {len(paths)}: run'
      ' --stage=sample; where that is complete, restore what is missing.'
    )
  return paths


def _mark(release_dir: epath.PathLike) -> release_marks.Mark | None:
  """Returns the mark of the first shard; earlier versions have none."""
  folder = epath.Path(release_dir) / 'dataset'
  return _mark_within(min(folder.glob('images-*-of-*.npz')))


def _mark_within(path: epath.Path) -> release_marks.Mark | None:
  """Returns the mark of a shard, which may be remote."""
  text = files.read_npz(path).get(release_marks.NAME)
  return None if text is None else release_marks.parse(str(text))


def _class_names(info: Mapping[str, Any]) -> list[str]:
  """Returns the names of all classes; an unlabelled dataset has one."""
  return list(info['class_names']) or ['image']


def _snake_case(name: str) -> str:
  """Converts a name to one that TFDS accepts.

  >>> _snake_case('tfds:Fashion-MNIST')
  'tfds_fashion_mnist'
  """
  return re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')


def _check_images(images: np.ndarray, labels: np.ndarray) -> None:
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f'Expected images {checks.array_type(images.dtype, images.shape)} to be '
      'uint8[N, H, W, C].'
    )
  if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
    raise ValueError(
      f'Expected labels {labels.dtype}{list(labels.shape)} to be '
      f'int32[{len(images)}].'
    )


def _check_probabilities(found: np.ndarray, num_images: int) -> None:
  is_right = found.dtype == np.float32 and found.ndim == 2
  if not is_right or len(found) != num_images:
    raise ValueError(
      f'Expected class_probabilities {found.dtype}{list(found.shape)} to be '
      f'float32[{num_images}, num_classes].'
    )
  if not np.allclose(found.sum(axis=1), 1, atol=1e-4) or np.min(found) < 0:
    raise ValueError(
      'Expected class_probabilities to be >= 0 and their rows to sum to 1.'
    )


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
