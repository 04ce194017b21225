"""Checks, loads and samples a released model; needs `release/` only.

    release = dp_diffusion.load_release('runs/x/release')
    more = release.sample(1000, labels=['tumor'])
    more.save('more.npz')

Sampling is post-processing of the release: it costs no privacy, and the samples
have the guarantee of the release. A file of samples therefore contains the
statement, and the same mark as the files of `dataset/`.

Guarantees:
  * A release that does not verify is refused.
    `released_model_test.py::test_a_changed_release_is_refused`.
  * The seed of the stage `sample` gives its images.
    `tests/stages/sample_test.py::test_a_release_gives_the_images_of_the_stage`.
  * No folder but the release is read.
    `released_model_test.py::test_the_release_is_enough`.
  * What was saved brings the ledger of the release where it is used to train.
    `released_model_test.py::test_a_saved_file_brings_its_ledger`.
  * A file is never replaced, nor written in part.
    `released_model_test.py::test_a_file_is_never_replaced`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import io
import os
import pathlib
import re
import secrets
from typing import Any
import zipfile

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import checks
from dp_diffusion import config_values
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import host_memory
from dp_diffusion import release
from dp_diffusion import release_marks
from dp_diffusion import sampling
from dp_diffusion import types
from dp_diffusion.data.own import tables
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.evaluation.classifiers import head_classifier
from dp_diffusion.evaluation.classifiers import head_features
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.models import class_gaussians as class_gaussians_lib
from dp_diffusion.models import class_head as class_head_lib
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.privacy import verify
from dp_diffusion.training import parallel

DEFAULT_BATCH_SIZE = 64  # Where a release of an earlier version says none.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
# Of these, some system allows none in the name of a folder.
_NOT_OF_A_FOLDER = r'[/\\:*?"<>|\x00-\x1f]'
_DATE = (1980, 1, 1, 0, 0, 0)  # Of every entry, as NumPy has it.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
  """Images sampled from a release.

  Attributes:
    images: uint8[N, H, W, C].
    labels: int32[N], numbers of classes.
    class_names: label i is class_names[i]; empty without classes.
    seed: seed with which the release gives the same images again.
    release_dir: folder of the release.
    statement: bytes of its `privacy.json`.
    mark: mark of the release.
    class_probabilities: float32[N, num_classes], how probable the class head
      finds each class of each image (soft labels); None where it does not label
      the images.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  seed: int
  release_dir: pathlib.Path
  statement: bytes
  mark: release_marks.Mark
  class_probabilities: np.ndarray | None = None

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the images with `privacy.json`, by the end of the file's name.

    An `.npz` has `images`, `labels`, the mark and, where there are some,
    `class_probabilities`. A `.zip` has PNG files in a folder per class, as
    `torchvision.datasets.ImageFolder` reads them when it is unpacked: `0-NAME`,
    `1-NAME`, ... in order of the labels.

    Raises:
      UsageError: the file exists already, or cannot be written.
    """
    path = check_new_file(path, self.release_dir)
    buffer = io.BytesIO()
    soft = {}
    if self.class_probabilities is not None:
      soft['class_probabilities'] = self.class_probabilities
    if path.suffix == '.npz':
      np.savez_compressed(
        buffer,
        allow_pickle=False,
        images=self.images,
        labels=self.labels,
        **soft,
        **{release_marks.NAME: self.mark.to_array()},
      )
    with zipfile.ZipFile(buffer, 'a', zipfile.ZIP_DEFLATED) as archive:
      if path.suffix == '.zip':
        folders = _class_folders(self.class_names)
        for i, (image, label) in enumerate(zip(self.images, self.labels)):
          name = f'{folders[label]}/{i:06d}.png'
          archive.writestr(zipfile.ZipInfo(name, _DATE), image_grids.png(image))
      info = zipfile.ZipInfo(release_marks.STATEMENT, _DATE)
      info.compress_type = zipfile.ZIP_DEFLATED
      archive.writestr(info, self.statement)
    try:
      files.write_new_bytes(path, buffer.getvalue())
    except OSError as error:
      raise _not_written(path, error) from error


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Release:
  """A release that was verified, with its model in memory.

  Attributes:
    folder: `release/`.
    statement: bytes of its `privacy.json`.
    facts: lines with the recomputed numbers, the guarantee first.
    class_names: label i is class_names[i]; empty without classes.
    network: the denoiser.
    diffusion: the process that it was trained on.
    sampler: that of the stage `sample`; None in a release of an earlier
      version, which does not say it.
    image_size: height and width, pixels.
    batch_size: images per device at a time, in the stage `sample`.
    mark: that its images carry.
    params: weights of the network.
    class_head: classifier of images, with it; None in a release without.
    labels_from_head: whether the class head labels sampled images.
    class_gaussians: what samples start from; None in a release whose samples
      start from pure noise.
  """

  folder: pathlib.Path
  statement: bytes
  facts: tuple[str, ...]
  class_names: tuple[str, ...]
  network: unet.UNetConfig
  diffusion: schedules.DiffusionProcess
  sampler: samplers.SamplerConfig | None
  image_size: int
  batch_size: int
  mark: release_marks.Mark
  params: types.Params = dataclasses.field(repr=False)
  class_head: class_head_lib.ClassHead | None = dataclasses.field(
    default=None, repr=False
  )
  labels_from_head: bool = False
  class_gaussians: class_gaussians_lib.ClassGaussians | None = (
    dataclasses.field(default=None, repr=False)
  )

  def sample(
    self,
    num: int,
    *,
    labels: Sequence[str | int] | np.ndarray = (),
    seed: int | None = None,
    sampler: samplers.SamplerConfig | None = None,
    batch_size: int | None = None,
  ) -> Samples:
    """Samples images, and prints the progress.

    >>> samples = load_release(release_dir).sample(4, labels=['star'], seed=1)
    sampling, image: 0/4
    sampling, image: 4/4, ...
    >>> samples.images.shape, samples.images.dtype, samples.labels.tolist()
    ((4, 8, 8, 1), dtype('uint8'), [1, 1, 1, 1])

    Args:
      num: number of images.
      labels: classes, by name or number, taken in turn until there are `num`;
        all of them for (). They are those that images are sampled for; where
        the release labels its images by a class head, the labels that are
        returned are what the head finds in them, with its probabilities.
      seed: in [0, 2^31). None takes a new one, so that the images are new; the
        seed of the run gives the images of `dataset/` again.
      sampler: None for that of the release. Where that one starts from the
        Gaussians of the classes, so does this one, and not from pure noise,
        which the network was not trained on.
      batch_size: images per device at a time; None for that of the release.
        Another one may round differently in the last bit.

    Raises:
      UsageError: one of them cannot be; one line says which.
    """
    num = _integer('num', num, 1, np.iinfo(np.int32).max)
    plan = self._plan(sampler, batch_size)
    _check_memory(num, plan)
    if seed is None:
      seed = secrets.randbelow(sampling.MAX_SEED + 1)
    seed = _integer('seed', seed, 0, sampling.MAX_SEED)
    numbers = np.resize(self.class_numbers(labels), num).astype(np.int32)
    engine = sampling.ImageSampler(
      plan,
      self.params,
      seed,
      parallel.DataParallel(),
      gaussians=self.class_gaussians,
    )
    with console.progress('sampling, image', num) as advance:
      images = engine.images(numbers, 0, advance)
    probabilities = None
    if self.labels_from_head:
      found = self._head_classifier().classify(images)
      numbers, probabilities = found.labels, found.probabilities()
    return Samples(
      images=images,
      labels=numbers,
      class_names=self.class_names,
      seed=seed,
      release_dir=self.folder,
      statement=self.statement,
      mark=self.mark,
      class_probabilities=probabilities,
    )

  def classify(
    self, images: np.ndarray, *, seed: int = 0
  ) -> diffusion_classifier.Classified:
    """Classifies images by the model, and prints the progress.

    The class head answers, if the release has one (`baselines.class_head`).
    Otherwise the class under which the model removes added noise best is the
    answer; see `evaluation.classifiers.diffusion_classifier`. It is
    post-processing: the guarantee of the release does not change.

    >>> images = np.zeros((3, 8, 8, 1), np.uint8)
    >>> found = load_release(release_dir).classify(images)
    classifying, image: 0/3
    classifying, image: 3/3, ...
    >>> found.labels.shape, found.log_probs.shape
    ((3,), (3, 2))

    Args:
      images: uint8[N, H, W, C] of the size and channels of the release.
      seed: in [0, 2^31), of the noise that is added; a class head adds none.

    Raises:
      UsageError: the images have another shape or dtype, or the release has
        fewer than two classes.
    """
    shape = (self.image_size, self.image_size, self.network.image_channels)
    if self._num_classes < 2:
      raise errors.UsageError(
        f'Expected {self.folder} to have at least two classes to tell apart,'
        f' not {self._num_classes}.'
      )
    is_array = isinstance(images, np.ndarray) and images.dtype == np.uint8
    if not is_array or images.shape[1:] != shape:
      given = type(images).__name__
      if isinstance(images, np.ndarray):
        given = f'{images.dtype} of shape {images.shape}'
      raise errors.UsageError(
        'Expected images to be a NumPy array, uint8 of shape'
        f' (N, {", ".join(map(str, shape))}), not {given}.'
      )
    seed = _integer('seed', seed, 0, sampling.MAX_SEED)
    classifier: (
      diffusion_classifier.DiffusionClassifier | head_classifier.HeadClassifier
    )
    if self.class_head is not None:
      classifier = self._head_classifier()
    else:
      classifier = diffusion_classifier.DiffusionClassifier(
        self.network, self.params, self.diffusion, seed=seed
      )
    with console.progress('classifying, image', len(images)) as advance:
      return classifier.classify(images, advance)

  def class_numbers(
    self, labels: Sequence[str | int] | np.ndarray = ()
  ) -> np.ndarray:
    """Converts names or numbers of classes to int32[n]; () gives all classes.

    Text is read as a name; if no class has this name, it is read as a number.

    Raises:
      UsageError: there is no such class; the message lists the classes.
    """
    if isinstance(labels, str):
      labels = [labels]
    found = [self._class_number(label) for label in labels]
    return np.array(found or range(self._num_classes), np.int32)

  def _head_classifier(self) -> head_classifier.HeadClassifier:
    assert self.class_head is not None
    return head_classifier.HeadClassifier(
      self.network, self.params, self.diffusion, self.class_head
    )

  @property
  def _num_classes(self) -> int:
    return max(1, len(self.class_names))

  def _class_number(self, label: Any) -> int:
    name, is_number = str(label), isinstance(label, (int, np.integer))
    names = [tables.composed(known) for known in self.class_names]
    if not is_number and tables.composed(name) in names:
      return names.index(tables.composed(name))
    if not any(_is_number(other) for other in self.class_names):
      is_number |= _is_number(name)
    if is_number and not isinstance(label, bool):
      if 0 <= int(name) < self._num_classes:
        return int(name)
    known = (
      checks.some(self.class_names) if self.class_names else 'none by name'
    )
    raise errors.UsageError(
      f'Expected labels={name!r} to name a class of {self.folder}, or to be a'
      f' number below {self._num_classes}: its classes are {known}.'
    )

  def _plan(
    self, sampler: samplers.SamplerConfig | None, batch_size: int | None
  ) -> sampling.SamplingPlan:
    chosen = sampler or self.sampler
    if chosen is None:
      raise errors.UsageError(
        f'Expected a sampler: {self.folder} is of an earlier version, which'
        ' does not say how its images were sampled. Give one, as'
        ' --sampler=ddim,num_steps=50 or'
        " sampler=SamplerConfig(name='ddim', num_steps=50)."
      )
    if batch_size is None:
      batch_size = self.batch_size
    first = self.sampler.first_timestep if self.sampler is not None else 0
    if chosen.first_timestep > first:
      raise errors.UsageError(
        f'Expected first_timestep={chosen.first_timestep} to be at most'
        f' {first}, that of {self.folder}: its network was not trained on'
        ' noisier images, or it has no Gaussians to start from.'
      )
    if not chosen.first_timestep:
      chosen = dataclasses.replace(chosen, first_timestep=first)
    try:
      return sampling.SamplingPlan(
        network=self.network,
        diffusion=self.diffusion,
        sampler=chosen,
        image_size=self.image_size,
        batch_size=_integer('batch_size', batch_size, 1, 2**31 - 1),
      )
    except ValueError as error:
      raise errors.UsageError(str(error)) from error


def load_release(path: str | os.PathLike[str]) -> Release:
  """Checks a release, as `verify` does, and loads its model.

  >>> release = load_release(release_dir)
  >>> release.class_names, release.image_size, release.sampler.name
  (('circle', 'star'), 8, 'ddim')

  Args:
    path: the folder `release/` of a run, or a copy of it; local.

  Raises:
    UsageError: no release, one that does not verify, or one without a model
      of images.
  """
  if not files.is_local(path):
    raise errors.UsageError(
      f'Expected release={os.fspath(path)!r} to be a local folder: copy it here'
      ' first.'
    )
  folder = pathlib.Path(path)
  facts = _verified(folder)
  content = (folder / release.STATEMENT).read_bytes()
  statement = files.read_whole_json(folder / release.STATEMENT)
  mark = release_marks.of_statement(statement)
  if mark is None:
    raise errors.UsageError(
      f'Expected {folder} to hold model/params.npz, from which to sample.'
    )
  where = folder / 'model' / 'model.json'
  try:
    arrays, description = release.read_model(folder)
    if not isinstance(description, dict) or 'unet' not in description:
      raise ValueError('it describes no diffusion model')
    loaded = Release(
      folder=folder,
      statement=content,
      facts=facts,
      mark=mark,
      params=weights.unflatten(arrays),
      **_described(description),
    )
    _check_fits(loaded, arrays)
  except _UNREADABLE as error:
    reason = errors.first_line(error)
    raise errors.UsageError(
      f'Expected {where} to say how to sample from params.npz beside it:'
      f' {reason}'
    ) from error
  return dataclasses.replace(
    loaded,
    class_head=_class_head(loaded),
    class_gaussians=_class_gaussians(loaded),
  )


def check_new_file(
  path: str | os.PathLike[str], release_dir: pathlib.Path
) -> pathlib.Path:
  """Returns the path if a file of samples can be written there.

  Args:
    path: local, ending with .npz or .zip.
    release_dir: folder of the release, into which nothing may be written.

  Raises:
    UsageError: the file exists already, or cannot be written.
  """
  text = os.fspath(path)
  path = pathlib.Path(text)
  if (
    path.suffix not in ('.npz', '.zip')
    or not files.is_local(text)
    or '\0' in text
  ):
    raise errors.UsageError(
      f'Expected out={text!r} to be a local file that ends with .npz (arrays)'
      ' or .zip (PNG files in a folder per class).'
    )
  if not path.parent.is_dir():
    raise errors.UsageError(
      f'Expected the folder of out={text!r} to be there: make it, or write to'
      ' another one.'
    )
  inside = path.parent.resolve()
  if inside.is_relative_to(release_dir.resolve()):
    raise errors.UsageError(
      f'Expected out={text!r} outside the release, which would not verify with'
      ' another file in it: write it elsewhere.'
    )
  try:
    files.check_new(path)
  except OSError as error:
    raise _not_written(path, error) from error
  return path


def _class_folders(class_names: Sequence[str]) -> list[str]:
  """Returns a name for the folder of each class, in the order of labels.

  >>> _class_folders(('T-shirt/top', 'Étui'))
  ['0-T-shirt_top', '1-Étui']
  """
  names = class_names or ('image',)
  width = len(str(len(names) - 1))
  return [
    f'{i:0{width}d}-{re.sub(_NOT_OF_A_FOLDER, "_", name).strip(" .")}'
    for i, name in enumerate(names)
  ]


def _not_written(path: pathlib.Path, error: OSError) -> Exception:
  """Converts an error to a `UsageError`; `exit_codes` reports a full disk."""
  if error.errno in files.NO_SPACE:
    return error
  if isinstance(error, FileExistsError):
    return errors.UsageError(
      f'Expected out={str(path)!r} not to be there, as nothing is replaced:'
      ' move it away, or give another name.'
    )
  return errors.UsageError(
    f'Expected out={str(path)!r} to be a file that can be written:'
    f' {error.strerror or error}.'
  )


def _verified(folder: pathlib.Path) -> tuple[str, ...]:
  """Verifies a release; returns the lines of `verify`.

  Raises:
    UsageError: the folder is no release, or `verify` finds a difference.
  """
  where = os.fspath(folder)
  try:
    is_there = (folder / release.STATEMENT).is_file()
  except (OSError, ValueError):
    is_there = False
  if not is_there:
    raise errors.UsageError(
      f'Expected release={where!r} to be a folder with {release.STATEMENT}:'
      f' give the folder release/ of a run{verify.release_within(folder)}.'
    )
  report = verify.verify(folder)
  if report.mismatches:
    rest = len(report.mismatches) - 1
    more = f' (and {rest} more)' if rest else ''
    raise errors.UsageError(
      f'Expected release={where!r} to verify, but {report.mismatches[0]}{more}:'
      ' take it as it was published. python -m dp_diffusion.privacy.verify'
      f' {where} says all.'
    )
  return report.facts


def _described(description: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the fields of `Release` that `model.json` holds.

  Raises:
    ValueError: a value is missing or wrong.
  """
  found = description.get('sampling', {})
  network = config_values.build(unet.UNetConfig, description['unet'], 'unet.')
  names = description['class_names']
  if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
    raise ValueError('class_names are no list of names.')
  if network.num_classes != max(1, len(names)):
    raise ValueError(
      f'{len(names)} class_names, and {network.num_classes} in the network.'
    )
  size = _integer('image_size', description['image_size'], 1, 2**16)
  network.check_image_shape(size, size, network.image_channels)
  batch_size = found.get('batch_size', DEFAULT_BATCH_SIZE)
  return {
    'class_names': tuple(names),
    'network': network,
    'diffusion': config_values.build(
      schedules.DiffusionProcess, description['diffusion'], 'diffusion.'
    ),
    'sampler': config_values.build(
      samplers.SamplerConfig, found['sampler'], 'sampler.'
    )
    if 'sampler' in found
    else None,
    'image_size': size,
    'labels_from_head': _flag(found, 'labels_from_head'),
    'batch_size': _integer('batch_size', batch_size, 1, 2**31 - 1),
  }


def _flag(values: Mapping[str, Any], name: str) -> bool:
  value = values.get(name, False)
  if not isinstance(value, bool):
    raise ValueError(f'{name}={value!r} is neither true nor false.')
  return value


def _class_head(loaded: Release) -> class_head_lib.ClassHead | None:
  """Reads the class head of a release; None if it has none.

  Raises:
    UsageError: the head does not fit the network and classes, or is not there
      although it labels the images.
  """
  where = loaded.folder / 'model' / 'class_head.npz'
  try:
    head = release.read_class_head(loaded.folder)
    if head is not None:
      _check_head(loaded, head)
    elif loaded.labels_from_head:
      raise ValueError('it is not there, and model.json has labels_from_head.')
  except _UNREADABLE as error:
    raise errors.UsageError(
      f'Expected {where} to be a class head for params.npz beside it:'
      f' {errors.first_line(error)}'
    ) from error
  return head


def _class_gaussians(
  loaded: Release,
) -> class_gaussians_lib.ClassGaussians | None:
  """Reads the Gaussians of a release; None if samples start from pure noise.

  Raises:
    UsageError: they do not fit the images and classes, or are not there.
  """
  if loaded.sampler is None or not loaded.sampler.first_timestep:
    return None
  where = loaded.folder / 'model' / 'class_gaussians.npz'
  plan = loaded._plan(None, None)
  try:
    found = release.read_class_gaussians(loaded.folder)
    plan.draw_fn(found)
  except _UNREADABLE as error:
    raise errors.UsageError(
      f'Expected {where} to hold the Gaussians that sampling starts from:'
      f' {errors.first_line(error)}'
    ) from error
  return found


def _check_head(loaded: Release, head: class_head_lib.ClassHead) -> None:
  """Raises ValueError unless the class head fits the network and classes."""
  widths = head_features.widths(
    loaded.network,
    loaded.params,
    loaded.diffusion,
    loaded.image_size,
    has_scattering=True,
  )
  num_classes = loaded.network.num_classes
  kernels = (head.kernel, head.scattering_kernel)
  for name, kernel, width in zip(
    ('activations', 'scattering coefficients'), kernels, widths, strict=True
  ):
    if kernel is not None and kernel.shape != (width, num_classes):
      raise ValueError(
        f'its kernel of {name} has the shape {kernel.shape}, and there are'
        f' {width} of them and {num_classes} classes.'
      )


def _check_fits(loaded: Release, arrays: Mapping[str, np.ndarray]) -> None:
  """Raises ValueError unless the arrays are the weights of the network."""
  size = loaded.image_size
  variables = jax.eval_shape(
    unet.UNet(loaded.network).init,
    jax.random.key(0),
    jnp.zeros((1, size, size, loaded.network.image_channels)),
    jnp.zeros((1,), jnp.int32),
    jnp.zeros((1,), jnp.int32),
  )
  wanted = traverse_util.flatten_dict(variables['params'], sep='/')
  differing = [
    name
    for name in sorted(set(wanted) | set(arrays))
    if name not in wanted
    or name not in arrays
    or arrays[name].shape != wanted[name].shape
    or arrays[name].dtype != np.float32
  ]
  if differing:
    raise ValueError(
      f'the network has other weights: {checks.some(differing)}.'
    )


def _check_memory(num: int, plan: sampling.SamplingPlan) -> None:
  """Refuses more images than half of the memory of this machine holds."""
  most = host_memory.total_bytes() // 2 // int(np.prod(plan.image_shape))
  if num > most:
    raise errors.UsageError(
      f'Expected num={num} to be at most {most}, which the memory of this'
      ' machine holds: sample several files, each with a seed of its own.'
    )


def _integer(name: str, value: Any, least: int, most: int) -> int:
  is_integer = isinstance(value, (int, np.integer)) and not isinstance(
    value, bool
  )
  if not is_integer or not least <= value <= most:
    raise errors.UsageError(
      f'Expected {name}={value!r} to be an integer in [{least}, {most}].'
    )
  return int(value)


def _is_number(text: str) -> bool:
  return text.isascii() and text.isdigit()
