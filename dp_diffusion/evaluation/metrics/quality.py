"""Every distance between synthetic and real images, beside real and real.

A distance says little alone: its size depends on the features and, for most,
on the number of images. So held-out real images are measured exactly as the
synthetic ones are, and the synthetic ones also at the number of held-out
images, where the two can be compared. Nor does it say anything in features
that cannot tell images apart (`FeatureFacts`).
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
MIN_IMAGES = 2 * kid.MIN_SUBSETS  # Of each set.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
  """How precise noise comes out in features: pixels of real images, shuffled.

  Attributes:
    precision: of held-out images whose pixels were shuffled.
    real_precision: of the same images as they are.
    num_images: how many.
  """

  precision: float
  real_precision: float
  num_images: int

  @property
  def is_taken_for_images(self) -> bool:
    """Whether noise is at least half as precise as real images are."""
    return 0 < self.precision >= _NOISE_SHARE * self.real_precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureFacts:
  """What the distances are taken in, and whether that can tell images apart.

  Attributes:
    name: of the features.
    num_features: F.
    num_live: features that differ between the reference images; None where
      they were not computed.
    network: test of the network on public images, where it was trained here.
    noise: what these features make of noise; None where that was not tried.
  """

  name: str
  num_features: int
  num_live: int | None = None
  network: features_lib.NetworkTest | None = None
  noise: Noise | None = None

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able but for NaN."""
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
  """What is known of the features before any distance.

  Args:
    extractor: of the features.
    reference: float32[M, F], features of the reference; None where they were
      not computed.
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
    frechet: None where a sample has no more images than features.
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
  """What the distances are, and what good would be.

  Attributes:
    synthetic: of all synthetic images.
    synthetic_at_equal_number: of as many synthetic images as there are
      held-out ones (or all, where there are fewer), for the comparison with
      `real`.
    real: of the held-out real images (as many).
    features: what they are taken in.
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
  """Noise of the same colours: the pixels of each image in random order.

  Args:
    images: uint8[N, H, W, C].
    seed: of the orders.

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
    extractor: what the features were extracted with.
    reference: float32[M, F], features of the reference, such as the training
      images.
    held_out: float32[H, F], of real images that were not trained on.
    synthetic: float32[N, F].
    reference_name: dataset and split of the reference.
    allow_few: whether samples of F images or fewer have a Frechet distance.
    seed: of orders and subsets.
    persons: int[M] who is on each image of the reference and int[H] of the
      held-out ones, where known: for the intervals of precision and recall.
    noise: float32[n, F], features of the first n held-out images `shuffled`;
      None leaves that out.
    advance: called now and then with the neighbours found since, which add up
      to `num_queries`; what it raises ends the work.

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
  """Precision of noise [n, F] and of the same images as they are."""
  shares = [
    float(prdc.is_on_manifold(x, reference, reference_radii).mean())
    for x in (noise, held_out[: len(noise)])
  ]
  return Noise(
    precision=shares[0], real_precision=shares[1], num_images=len(noise)
  )


def num_queries(num_reference: int, num_held_out: int, num_made: int) -> int:
  """Neighbours that `compare` asks for, which is most of its time."""
  number = min(num_held_out, num_made)
  measured = num_made + number + (number if number < num_made else 0)
  return num_reference + 2 * measured
