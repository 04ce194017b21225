"""Every distance between synthetic and real images, beside real and real.

A distance says little alone: its size depends on the features and, for most,
on the number of images. So held-out real images are measured exactly as the
synthetic ones are, and the synthetic ones also at the number of held-out
images, where the two can be compared.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
  """Distances of one set of images from the reference."""

  frechet: fid.FrechetResult
  kernel: kid.KernelResult
  precision_recall: prdc.PrecisionRecall

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
      'frechet': self.frechet.to_dict(),
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
  """

  synthetic: Quality
  synthetic_at_equal_number: Quality
  real: Quality

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
      f.name: getattr(self, f.name).to_dict() for f in dataclasses.fields(self)
    }


def compare(
  extractor: features_lib.FeatureExtractor,
  reference: np.ndarray,
  held_out: np.ndarray,
  synthetic: np.ndarray,
  *,
  reference_name: str,
  allow_few: bool = False,
  seed: int = 0,
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
    allow_few: whether to go on with samples of F images or fewer.
    seed: of orders and subsets.
    advance: called now and then with the neighbours found since, which add up
      to `num_queries`; what it raises ends the work.

  Raises:
    UsageError: there are too few images.
  """
  moments = fid.moments(reference)
  reference_radii = prdc.radii(reference, advance=advance)

  def measure(candidates: np.ndarray, what: str) -> Quality:
    return Quality(
      frechet=fid.compare(
        extractor,
        moments,
        candidates,
        reference_name=reference_name,
        what=what,
        allow_few=allow_few,
        seed=seed,
      ),
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
        advance=advance,
      ),
    )

  number = min(len(held_out), len(synthetic))
  few = 'synthetic' if number == len(synthetic) else 'held-out real'
  rng = np.random.default_rng(seed)
  of_synthetic = np.sort(rng.permutation(len(synthetic))[:number])
  of_held_out = np.sort(rng.permutation(len(held_out))[:number])
  everything = measure(synthetic, 'synthetic images')
  return Comparison(
    synthetic=everything,
    synthetic_at_equal_number=everything
    if number == len(synthetic)
    else measure(synthetic[of_synthetic], f'{few} images'),
    real=measure(held_out[of_held_out], f'{few} images'),
  )


def num_queries(num_reference: int, num_held_out: int, num_made: int) -> int:
  """Neighbours that `compare` asks for, which is most of its time."""
  number = min(num_held_out, num_made)
  measured = num_made + number + (number if number < num_made else 0)
  return num_reference + 2 * measured
