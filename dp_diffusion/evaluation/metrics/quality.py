"""Distances of synthetic images and of held-out real images from a reference.

A distance alone says little: its size depends on the features and, for most
distances, on the number of images. Therefore held-out real images are measured
in the same way, and the synthetic images are also measured at the number of
held-out images, where the two can be compared. A distance says nothing in
features that cannot tell images apart (`FeatureFacts`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dp_diffusion.evaluation.metrics import features as features_lib
from dp_diffusion.evaluation.metrics import fid
from dp_diffusion.evaluation.metrics import kid
from dp_diffusion.evaluation.metrics import nearest_neighbors
from dp_diffusion.evaluation.metrics import prdc

MAX_NOISE_IMAGES = 1000
_NOISE_SHARE = 0.5
MIN_IMAGES = 2 * kid.MIN_SUBSETS  # Smallest size of each set.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
  """Precision of noise, which shows whether features can tell images apart.

  Attributes:
    precision: precision of held-out images whose pixels were shuffled.
    real_precision: precision of the same images before shuffling.
    num_images: number of these images.
  """

  precision: float
  real_precision: float
  num_images: int

  @property
  def is_taken_for_images(self) -> bool:
    """Whether the precision of noise is at least half that of real images."""
    return 0 < self.precision >= _NOISE_SHARE * self.real_precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureFacts:
  """The features of the distances, and whether they can tell images apart.

  Attributes:
    name: name of the features.
    num_features: number of features F.
    num_live: number of features that differ between the reference images;
      None if they were not computed.
    network: test of the network on public images, if it was trained here.
    noise: precision of noise in these features; None if it was not measured.
  """

  name: str
  num_features: int
  num_live: int | None = None
  network: features_lib.NetworkTest | None = None
  noise: Noise | None = None

  def to_dict(self) -> dict[str, Any]:
    """Returns all fields as JSON values, except that NaN is kept."""
    found = dataclasses.asdict(self)
    if self.noise:
      found['noise']['is_taken_for_images'] = self.noise.is_taken_for_images
    if self.network:
      found['network'] |= {
        'required_accuracy': self.network.required,
        'is_better_than_chance': self.network.is_better_than_chance,
        'has_enough_live': self.network.has_enough_live,
      }
    return found


def facts(
  extractor: features_lib.FeatureExtractor, reference: np.ndarray | None = None
) -> FeatureFacts:
  """Returns what is known of the features before any distance is measured.

  Args:
    extractor: the extractor of the features.
    reference: float32[M, F], features of the reference; None if they were not
      computed.
  """
  return FeatureFacts(
    name=extractor.name,
    num_features=extractor.num_features,
    num_live=None if reference is None else features_lib.num_live(reference),
    network=extractor.network_test,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
  """Distances of one set of images from the reference.

  Attributes:
    frechet: the Frechet distance; None if a set has no more images than there
      are features.
    kernel: the kernel distance.
    precision_recall: precision and recall.
  """

  frechet: fid.FrechetResult | None
  kernel: kid.KernelResult
  precision_recall: prdc.PrecisionRecall

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
      'frechet': self.frechet.to_dict() if self.frechet else None,
      'kernel': self.kernel.to_dict(),
      'precision_recall': self.precision_recall.to_dict(),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """Distances of synthetic images, and of real ones for comparison.

  Attributes:
    features: the features in which distances are measured.
    synthetic: distances of all synthetic images.
    synthetic_at_equal_number: distances of as many synthetic images as there
      are held-out ones (or all, if there are fewer), to compare with `real`.
    real: distances of the same number of held-out real images.
  """

  features: FeatureFacts
  synthetic: Quality
  synthetic_at_equal_number: Quality
  real: Quality

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
      f.name: getattr(self, f.name).to_dict() for f in dataclasses.fields(self)
    }


def shuffled(images: np.ndarray, seed: int = 0) -> np.ndarray:
  """Returns noise with the same colours: shuffles the pixels of each image.

  Args:
    images: uint8[N, H, W, C].
    seed: seed of the random orders.

  Returns:
    uint8[N, H, W, C].
  """
  rng = np.random.default_rng(seed)
  pixels = images.reshape(len(images), -1, images.shape[-1])
  noise = [rng.permutation(image) for image in pixels]
  return np.reshape(noise, images.shape)


def compare(
  extractor: features_lib.FeatureExtractor,
  reference: np.ndarray,
  held_out: np.ndarray,
  synthetic: np.ndarray,
  *,
  reference_name: str,
  allow_few: bool = False,
  seed: int = 0,
  persons: prdc.Persons = (None, None),
  noise: np.ndarray | None = None,
  advance: nearest_neighbors.Advance = lambda _: None,
) -> Comparison:
  """Measures synthetic and held-out images against the reference.

  Args:
    extractor: the extractor of the features.
    reference: float32[M, F], features of the reference, such as the training
      images.
    held_out: float32[H, F], features of real images that were not trained on.
    synthetic: float32[N, F], features of the synthetic images.
    reference_name: dataset and split of the reference.
    allow_few: whether to compute the Frechet distance of F images or fewer.
    seed: seed of random orders and subsets.
    persons: int[M] and int[H], the person on each reference image and on each
      held-out image, for the intervals of precision and recall; None if
      unknown.
    noise: float32[n, F], features of the first n held-out images after
      `shuffled`; None does not measure noise.
    advance: called repeatedly with the number of neighbours found since, which
      add up to `num_queries`; an exception that it raises ends the work.

  Raises:
    UsageError: a set has fewer than `MIN_IMAGES` images.
  """
  moments = fid.moments(reference)
  reference_radii = prdc.radii(reference, advance=advance)

  def measure(
    candidates: np.ndarray, of_candidates: np.ndarray | None = None
  ) -> Quality:
    fewest = min(len(reference), len(candidates))
    has_frechet = allow_few or fewest > extractor.num_features
    return Quality(
      frechet=fid.compare(
        extractor,
        moments,
        candidates,
        reference_name=reference_name,
        allow_few=allow_few,
        seed=seed,
      )
      if has_frechet
      else None,
      kernel=kid.compare(
        extractor,
        reference,
        candidates,
        reference_name=reference_name,
        seed=seed,
      ),
      precision_recall=prdc.compare(
        reference,
        candidates,
        features_name=extractor.name,
        reference_name=reference_name,
        reference_radii=reference_radii,
        persons=(persons[0], of_candidates),
        advance=advance,
      ),
    )

  number = min(len(held_out), len(synthetic))
  rng = np.random.default_rng(seed)
  of_synthetic = np.sort(rng.permutation(len(synthetic))[:number])
  of_held_out = np.sort(rng.permutation(len(held_out))[:number])
  everything = measure(synthetic)
  return Comparison(
    features=dataclasses.replace(
      facts(extractor, reference),
      noise=None
      if noise is None
      else _noise(noise, held_out, reference, reference_radii),
    ),
    synthetic=everything,
    synthetic_at_equal_number=everything
    if number == len(synthetic)
    else measure(synthetic[of_synthetic]),
    real=measure(
      held_out[of_held_out],
      None if persons[1] is None else persons[1][of_held_out],
    ),
  )


def _noise(
  noise: np.ndarray,
  held_out: np.ndarray,
  reference: np.ndarray,
  reference_radii: np.ndarray,
) -> Noise:
  """Measures the precision of noise [n, F] and of the unshuffled images."""
  shares = [
    float(prdc.is_on_manifold(x, reference, reference_radii).mean())
    for x in (noise, held_out[: len(noise)])
  ]
  return Noise(
    precision=shares[0], real_precision=shares[1], num_images=len(noise)
  )


def num_queries(num_reference: int, num_held_out: int, num_made: int) -> int:
  """Returns the number of neighbours that `compare` searches.

  The search takes most of its time, so this number serves for progress.
  """
  number = min(num_held_out, num_made)
  measured = num_made + number + (number if number < num_made else 0)
  return num_reference + 2 * measured
