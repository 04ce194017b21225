"""Measures distances between sets of images, and looks for copies."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.evaluation.metrics import feature_cache
from dp_diffusion.evaluation.metrics import features as features_lib
from dp_diffusion.evaluation.metrics import memorization
from dp_diffusion.evaluation.metrics import nearest_neighbors
from dp_diffusion.evaluation.metrics import public_features
from dp_diffusion.evaluation.metrics import quality
from dp_diffusion.evaluation.report import memorization_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.evaluation.report import quality_section
from dp_diffusion.stages.run import interrupts
from dp_diffusion.training import parallel
from dp_diffusion.training import processes

PAIRS_NAME = 'closest_pairs.png'
_FEATURES = 'features'  # Folder in private/.
_MAX_PUBLIC_IMAGES = 50_000  # Images on which a feature network is trained.
_BATCH_SIZE = 256  # Images per device.
# Inception resizes images to 299 pixels; 64 of them took 2 GB on a CPU.
_INCEPTION_BATCH_SIZE = {'cpu': 8}
_OTHER_INCEPTION_BATCH_SIZE = 64


def extractor(
  config: config_lib.Config, private_dir: epath.Path, stop: interrupts.Stop
) -> features_lib.FeatureExtractor | None:
  """Returns the extractor that `evaluate.features` names; None for ''.

  Args:
    config: gives data, pretrain.data and evaluate.
    private_dir: folder for a network trained on public images.
    stop: called at every step of its training; tells whether to stop.

  Raises:
    UsageError: a file is missing or has the wrong content; the message says
      where to put it.
    Interrupted: the user asked to stop.
  """
  kind = config.evaluate.features
  if not kind:
    return None
  devices = parallel.DataParallel()
  bind_fn = features_lib.parallel_bind(devices)
  platform = devices.devices[0].platform
  batch_size = devices.num_devices * images_per_device(kind, platform)
  shape = config.data.image_shape
  match kind:
    case 'inception':
      return features_lib.inception(
        config.evaluate.inception_path, batch_size, bind_fn
      )
    case 'pixels':
      return features_lib.pixels(shape, bind_fn)
    case 'public':
      return _public_network(config, private_dir, stop, bind_fn)
  return features_lib.from_npz(kind, batch_size, bind_fn)


def is_shared(config: config_lib.Config) -> bool:
  """Whether every process computes features: those of Inception take hours."""
  return config.evaluate.features == 'inception'


def check_features(config: config_lib.Config) -> None:
  """Checks before the training that the file of `evaluate.features` exists.

  Raises:
    UsageError: the file does not exist.
  """
  path = config.evaluate.features
  if path.endswith('.npz') and not pathlib.Path(path).exists():
    raise errors.UsageError(
      f'Expected a network at evaluate.features={path!r}, which does not exist:'
      " give its path, or '' for no distances."
    )


def images_per_device(kind: str, platform: str) -> int:
  """Returns the batch size per device of a feature network."""
  if kind != 'inception':
    return _BATCH_SIZE
  return _INCEPTION_BATCH_SIZE.get(platform, _OTHER_INCEPTION_BATCH_SIZE)


def _public_network(
  config: config_lib.Config,
  private_dir: epath.Path,
  stop: interrupts.Stop,
  bind_fn: features_lib.BindFn,
) -> features_lib.NetExtractor:
  """Trains a small CNN on the classes of public images, and tests it."""
  data = config.pretrain.data
  if len(data.class_names) < 2:
    raise errors.UsageError(
      'Expected pretrain.data.class_names to name classes, as'
      " evaluate.features='public'; or take 'pixels', or an .npz network."
    )
  public = registry.load(data)
  persons = None if public.person is None else np.asarray(public.person)
  train, held_out = public_features.divide(
    public.images, _MAX_PUBLIC_IMAGES, persons
  )
  images = feature_cache.rows_of(
    public.images, train, private_dir / _FEATURES, data.max_in_memory_bytes
  )
  members = trained_classifiers.Members(
    {'public': (images, np.asarray(public.labels)[train])},
    {'public': len(data.class_names)},
    private_dir / 'classifiers',
    stop.raise_if_asked,
  )
  member = trained_classifiers.Member(
    source='public',
    num_images=len(train),
    config=training.of_kind('small_cnn', config.evaluate.classifier),
    seed=config.seed,
  )
  members.train([member])
  classifier = members.get(member)
  assert isinstance(classifier, downstream.NeuralClassifier)
  return public_features.with_test(
    public_features.extractor(
      classifier,
      'small CNN on public images',
      config.data.image_shape,
      bind_fn,
    ),
    classifier,
    np.asarray(public.images[held_out]),
    np.asarray(public.labels)[held_out],
    None if persons is None else persons[held_out],
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSets:
  """The sets of images that are compared.

  Attributes:
    synthetic: (uint8[N, H, W, C], int32[N]).
    train: the sensitive images, (uint8[T, H, W, C], int32[T]).
    held_out: real images of the same distribution that were not trained on,
      (uint8[M, H, W, C], int32[M]).
    persons: int32[T] and int32[M], the person on each image of `train` and of
      `held_out`; None if unknown.
  """

  synthetic: types.LabelledImages
  train: types.LabelledImages
  held_out: types.LabelledImages
  persons: memorization.Persons | None = None

  def at_most(self, number: int, *, has_whole_train: bool = False) -> ImageSets:
    """Returns at most `number` images of each set, the same in every call.

    Args:
      number: largest size of a set.
      has_whole_train: whether to leave the training images as they are.
    """
    subset = trained_classifiers.subset
    train, persons = self.train, self.persons
    if not has_whole_train:
      train = subset(*train, number)
    if persons:
      of_train, of_held_out = persons
      if not has_whole_train:
        of_train = subset(of_train, of_train, number)[1]
      persons = of_train, subset(of_held_out, of_held_out, number)[1]
    return ImageSets(
      synthetic=subset(*self.synthetic, number),
      train=train,
      held_out=subset(*self.held_out, number),
      persons=persons,
    )

  def images(self) -> dict[str, np.ndarray]:
    """Returns uint8[N, H, W, C] by the name of the set."""
    return {
      'training': self.train[0],
      'held-out real': self.held_out[0],
      'synthetic': self.synthetic[0],
    }


def compute_share(
  config: config_lib.Config,
  extractor: features_lib.FeatureExtractor | None,
  sets: ImageSets,
  private_dir: epath.Path,
  stop: interrupts.Stop,
) -> None:
  """Computes this process's share of the features that take hours.

  These are the features of Inception. They are kept in files, where `sections`
  finds them.

  Args:
    config: gives evaluate.
    extractor: the extractor of features.
    sets: the images.
    private_dir: folder for the files, which the processes share.
    stop: called repeatedly; tells whether to stop.

  Raises:
    Interrupted: the user asked to stop.
  """
  if not extractor or not extractor.is_inception:
    return
  drawn = sets.at_most(config.evaluate.max_distance_images)
  feature_cache.extract_share(
    extractor,
    drawn.images().values(),
    private_dir / _FEATURES,
    processes.own_share(),
    stop.raise_if_asked,
  )


def sections(
  config: config_lib.Config,
  extractor: features_lib.FeatureExtractor | None,
  sets: ImageSets,
  private_dir: epath.Path,
  stop: interrupts.Stop,
) -> list[page.Section]:
  """Measures distances and looks for copies.

  Args:
    config: gives data, evaluate and seed.
    extractor: the extractor of features; None measures no distances.
    sets: the images.
    private_dir: folder for the picture of the closest pairs, and for features
      that take long to compute.
    stop: called repeatedly; tells whether to stop.

  Raises:
    Interrupted: the user asked to stop.
  """
  most = config.evaluate.max_distance_images
  found = []
  if extractor:
    drawn = sets.at_most(most)
    found.append(_distances(config, extractor, drawn, private_dir, stop))
  if config.evaluate.memorization:
    # A synthetic image may be a copy of any of the training images.
    compared = sets.at_most(most, has_whole_train=True)
    found.append(_copies(compared, private_dir, stop))
  return found


def _distances(
  config: config_lib.Config,
  extractor: features_lib.FeatureExtractor,
  sets: ImageSets,
  private_dir: epath.Path,
  stop: interrupts.Stop,
) -> page.Section:
  """Returns the section with the distances, or why there are none.

  Args:
    config: gives data, evaluate and seed.
    extractor: the extractor of features.
    sets: the images.
    private_dir: folder for features that take long to compute.
    stop: called repeatedly; tells whether to stop.
  """
  images = sets.images()
  counts = {name: len(found) for name, found in images.items()}
  facts = quality.facts(extractor)
  if reason := quality_section.reason_for_none(facts, counts):
    return quality_section.left_out(reason, facts)
  reference, fresh, made = (
    _features(extractor, found, private_dir, stop) for found in images.values()
  )
  facts = quality.facts(extractor, reference)
  if reason := quality_section.reason_for_none(facts, counts):
    return quality_section.left_out(reason, facts)
  noise = None
  if not extractor.is_inception:  # Inception would take minutes on a CPU.
    first = sets.held_out[0][: quality.MAX_NOISE_IMAGES]
    noise = extractor.extract(quality.shuffled(np.asarray(first), config.seed))
  total = quality.num_queries(len(reference), len(fresh), len(made))
  with _progress('measuring distances', total, stop) as advance:
    compared = quality.compare(
      extractor,
      reference,
      fresh,
      made,
      reference_name=f'{config.data.name} {config.data.split}',
      allow_few=config.evaluate.allow_few_images,
      seed=config.seed,
      persons=sets.persons or (None, None),
      noise=noise,
      advance=advance,
    )
  if extractor.is_learned:
    if reason := quality_section.noise_objection(compared.features):
      return quality_section.left_out(reason, compared.features)
  return quality_section.section(compared)


@contextlib.contextmanager
def _progress(
  title: str, num_queries: int, stop: interrupts.Stop
) -> Iterator[nearest_neighbors.Advance]:
  """Shows progress of the search, and ends it if the user asks to stop."""
  with console.progress_of(title, num_queries) as advance:

    def advance_or_stop(queries: int) -> None:
      stop.raise_if_asked()
      advance(queries)

    yield advance_or_stop


def _features(
  extractor: features_lib.FeatureExtractor,
  images: np.ndarray,
  private_dir: epath.Path,
  stop: interrupts.Stop,
) -> np.ndarray:
  """Computes features float32[N, F]; those of Inception are kept on disk."""
  stop.raise_if_asked()
  folder = private_dir / _FEATURES
  if extractor.is_inception:
    return feature_cache.extract(extractor, images, folder, stop.raise_if_asked)
  room = feature_cache.on_disk((len(images), extractor.num_features), folder)
  return extractor.extract(images, room)


def _copies(
  sets: ImageSets, private_dir: epath.Path, stop: interrupts.Stop
) -> page.Section:
  """Compares every synthetic image with every real one."""
  images, labels = sets.synthetic
  train_images, persons = sets.train[0], sets.persons
  fresh = np.asarray(sets.held_out[0])
  reason = memorization.reason_for_none(
    len(images), len(train_images), len(fresh)
  )
  if reason:
    return memorization_section.left_out(reason)
  total = memorization.num_queries(len(images), len(fresh))
  total += memorization.num_real_queries(len(fresh), persons)
  what = 'looking for copies of training images'
  with _progress(what, total, stop) as advance:
    found = memorization.compare(
      images,
      train_images,
      fresh,
      space='pixels',
      synthetic_labels=labels,
      held_out_labels=sets.held_out[1],
      persons=persons,
      advance=advance,
    )
    real = memorization.compare_real(
      train_images, fresh, space='pixels', persons=persons, advance=advance
    )
  picture = memorization_section.closest_pairs(found, images, train_images)
  files.write_bytes(private_dir / PAIRS_NAME, picture, 0o600)
  return memorization_section.section(
    found, real, images.shape[1:], f'{private_dir.name}/{PAIRS_NAME}'
  )
