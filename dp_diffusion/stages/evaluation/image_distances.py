"""Distances between sets of images: the features, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import pathlib

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import (
  trained_classifiers as members_lib,
)
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

PAIRS_NAME = 'closest_pairs.png'
_MAX_PUBLIC_IMAGES = 50_000  # That a feature network is trained on.
_BATCH_SIZE = 256  # Images per device.
# Inception's images have 299 pixels a side: on a CPU 64 of them took 2 GB.
_INCEPTION_BATCH_SIZE = {'cpu': 8}
_OTHER_INCEPTION_BATCH_SIZE = 64

LabelledImages = tuple[np.ndarray, np.ndarray]


def extractor(
  config: config_lib.Config, private_dir: epath.Path, stop: interrupts.Stop
) -> features_lib.FeatureExtractor | None:
  """The features of `evaluate.features`; None for none.

  Args:
    config: uses data, pretrain.data, evaluate.
    private_dir: where a network trained on public images is kept.
    stop: asked at every step of its training.

  Raises:
    UsageError: a file is missing or not what it should be; says where to put
      it.
    Interrupted: the user asked to stop.
  """
  kind = config.evaluate.features
  if not kind:
    return None
  devices = parallel.DataParallel()
  bind_fn = features_lib.parallel_bind(devices)
  platform = devices.devices[0].platform
  batch_size = devices.num_devices * images_per_device(kind, platform)
  shape = (config.data.image_size, config.data.image_size, config.data.channels)
  match kind:
    case 'inception':
      return features_lib.inception(
        config.evaluate.inception_path, batch_size, bind_fn
      )
    case 'pixels':
      return features_lib.pixels(shape, bind_fn)
    case 'public':
      return public_features.extractor(
        _public_classifier(config, private_dir, stop),
        'small CNN on public images',
        shape,
        bind_fn,
      )
  return features_lib.from_npz(kind, batch_size, bind_fn)


def check_features(config: config_lib.Config) -> None:
  """Refuses early a file that `extractor` would miss after the training.

  Raises:
    UsageError: there is no such file.
  """
  path = config.evaluate.features
  if path.endswith('.npz') and not pathlib.Path(path).exists():
    raise errors.UsageError(
      f'Expected a network at evaluate.features={path!r}, which does not exist:'
      " give its path, or '' for no distances."
    )


def images_per_device(kind: str, platform: str) -> int:
  """How many images a network of features sees at a time."""
  if kind != 'inception':
    return _BATCH_SIZE
  return _INCEPTION_BATCH_SIZE.get(platform, _OTHER_INCEPTION_BATCH_SIZE)


def _public_classifier(
  config: config_lib.Config, private_dir: epath.Path, stop: interrupts.Stop
) -> downstream.NeuralClassifier:
  """A small CNN that has learned the classes of the public images."""
  data = config.pretrain.data
  if len(data.class_names) < 2:
    raise errors.UsageError(
      'Expected pretrain.data.class_names to name classes, as'
      " evaluate.features='public'; or take 'pixels', or an .npz network."
    )
  public = registry.load(data)
  members = members_lib.Members(
    {'public': (public.images, public.labels)},
    {'public': len(data.class_names)},
    private_dir / 'classifiers',
    stop.raise_if_asked,
  )
  member = members_lib.Member(
    source='public',
    num_images=min(len(public.labels), _MAX_PUBLIC_IMAGES),
    config=training.of_kind('small_cnn', config.evaluate.classifier),
    seed=config.seed,
  )
  members.train([member])
  found = members.get(member)
  assert isinstance(found, downstream.NeuralClassifier)
  return found


def sections(
  config: config_lib.Config,
  extractor: features_lib.FeatureExtractor | None,
  synthetic: LabelledImages,
  train: LabelledImages,
  held_out: LabelledImages,
  private_dir: epath.Path,
  stop: interrupts.Stop,
  persons: memorization.Persons | None = None,
) -> list[page.Section]:
  """Measures distances and looks for copies.

  Args:
    config: uses data, evaluate, seed.
    extractor: the features; None leaves the distances out.
    synthetic: (uint8[N, H, W, C], int32[N]).
    train: the sensitive images, likewise.
    held_out: real images of the same distribution that nobody trained on.
    private_dir: for the picture of the closest pairs, and for features that
      take long.
    stop: asked now and then while features are computed.
    persons: int32[T] of `train` and int32[M] of `held_out`, where known.

  Raises:
    UsageError: there are too few images.
    Interrupted: the user asked to stop.
  """
  settings = config.evaluate
  most = settings.max_distance_images
  if persons:
    persons = persons[0], members_lib.subset(persons[1], persons[1], most)[1]
  synthetic, held_out = (
    members_lib.subset(*images, most) for images in (synthetic, held_out)
  )
  found = []
  if extractor:
    reference, fresh, made = (
      _features(extractor, images, private_dir, stop)
      for images, _ in (members_lib.subset(*train, most), held_out, synthetic)
    )
    total = quality.num_queries(len(reference), len(fresh), len(made))
    with _progress('measuring distances', total, stop) as advance:
      compared = quality.compare(
        extractor,
        reference,
        fresh,
        made,
        reference_name=f'{config.data.name} {config.data.split}',
        allow_few=settings.allow_few_images,
        seed=config.seed,
        advance=advance,
      )
    found.append(quality_section.section(compared))
  if settings.memorization:
    found.append(
      _copies(synthetic, train[0], held_out, private_dir, stop, persons)
    )
  return found


@contextlib.contextmanager
def _progress(
  title: str, num_queries: int, stop: interrupts.Stop
) -> Iterator[nearest_neighbors.Advance]:
  """Shows the share of neighbours that were found, and ends when asked to."""
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
  """float32[N, F] on the disk; those of the large network are kept there."""
  stop.raise_if_asked()
  folder = private_dir / 'features'
  if extractor.is_inception:
    return feature_cache.extract(extractor, images, folder, stop.raise_if_asked)
  room = feature_cache.on_disk((len(images), extractor.num_features), folder)
  return extractor.extract(images, room)


def _copies(
  synthetic: LabelledImages,
  train_images: np.ndarray,
  held_out: LabelledImages,
  private_dir: epath.Path,
  stop: interrupts.Stop,
  persons: memorization.Persons | None,
) -> page.Section:
  """Every synthetic image against every real one."""
  images, labels = synthetic
  fresh = np.asarray(held_out[0])
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
      held_out_labels=held_out[1],
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
