"""Public classes that the sensitive images vote for, as in PrivImage.

The method is that of Li et al. 2024, arXiv 2311.12850: before the private steps
the network learns from the public images that resemble the sensitive ones most.
A classifier that is trained on the public images alone predicts a public class
for every sensitive image, which is the vote of this image. For each sensitive
class the public classes with the most noised votes are chosen, and their images
are trained on with the label of the sensitive class.

The votes also tell which embedding of a class to start from. A network that was
trained on labelled public images knows its public classes apart. A sensitive
class that begins with the embedding of a public class which resembles it, and
resembles the other sensitive classes less, is told apart from them before the
first private step (`characteristic`). This use of the votes is ours.

Sensitivity. The vote of an image is a unit vector over all pairs (sensitive
class, public class): 1 at (its label, its prediction). It depends on this image
and its label alone, since the classifier is public. A record of several images
contributes the mean of their unit vectors, whose norm is at most 1. Adding or
removing a record changes the sum of all votes by its own term alone, so the l2
sensitivity of the whole matrix, released once, is 1
(`label_histogram.L2_SENSITIVITY`). Choosing the classes and training on their
public images are post-processing.

Deviation: an image has one vote, for its most probable public class. PrivImage
gives it several, of a larger sensitivity.

Guarantees:
  * One record, even a person with many images and labels, moves the matrix by
    at most 1, and no other record's vote.
    `public_votes_test.py::test_neighbours_differ_by_at_most_the_sensitivity`.
  * Votes have the noise of the ledger's entry.
    `public_votes_test.py::test_noise_std`.
  * What is chosen depends on the noised votes alone.
    `public_votes_test.py::test_the_most_noised_votes_are_chosen`,
    `public_votes_test.py::test_what_sets_a_class_apart_is_characteristic`.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize
from scipy import special

from dp_diffusion.data import batching
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram

PURPOSE = 'votes for public classes'


def noised(
  predicted: np.ndarray,
  labels: np.ndarray,
  records: batching.Records,
  shape: tuple[int, int],
  entry: entries_lib.Entry,
  streams: key_streams.KeyStreams,
) -> np.ndarray:
  """Computes the votes of all records, with noise.

  Args:
    predicted: int[N], the public class that each sensitive image votes for.
    labels: int[N], labels of the sensitive images.
    records: the images of each record.
    shape: (num_classes, num_public_classes).
    entry: that of the ledger, which states the noise.
    streams: secret randomness; equal streams give equal noise.

  Returns:
    float64[num_classes, num_public_classes].
  """
  votes = np.asarray(labels, np.int64) * shape[1] + predicted
  found = label_histogram.noised(
    votes[records.images],
    records.starts,
    shape[0] * shape[1],
    entry,
    streams,
    purpose=PURPOSE,
  )
  return found.reshape(shape)


def choose(
  votes: np.ndarray, public_labels: np.ndarray, num_chosen: int
) -> np.ndarray:
  """Returns the public classes with the most noised votes.

  >>> votes = np.array([[5.0, -1.0, 7.0], [2.0, 9.0, 0.5]])
  >>> choose(votes, np.array([0, 1, 2]), 2)
  array([[2, 0],
         [1, 0]])

  Args:
    votes: float64[num_classes, num_public_classes].
    public_labels: int[M], labels of the public images. A public class without
      images comes last.
    num_chosen: number of public classes for each class.

  Returns:
    int64[num_classes, num_chosen], the most votes first.
  """
  sizes = np.bincount(public_labels, minlength=votes.shape[1])
  found = np.where(sizes > 0, votes, -np.inf)
  return np.argsort(-found, axis=1, kind='stable')[:, :num_chosen]


def characteristic(votes: np.ndarray) -> np.ndarray:
  """Returns the public class that sets each sensitive class apart.

  From the noised votes follow the shares s_ck of the public classes k in each
  sensitive class c, and their means m_k over the sensitive classes. The score
  of a pair is s_ck log(s_ck / m_k), its part of the Kullback-Leibler divergence
  of the class from the mean of all. Every sensitive class gets another public
  class, so that the sum of the scores is largest.

  >>> votes = np.array([[640.0, 130.0, -3.0], [950.0, 20.0, 4.0]])
  >>> characteristic(votes)
  array([1, 0])

  Args:
    votes: float64[num_classes, num_public_classes], at least as many public
      classes as classes. Negative votes are noise, and count as 0.

  Returns:
    int64[num_classes], all different.
  """
  counted = np.maximum(votes, 0.0)
  totals = counted.sum(axis=1, keepdims=True)
  shares = np.divide(
    counted,
    totals,
    out=np.full_like(counted, 1 / votes.shape[1]),
    where=totals > 0,
  )
  if len(shares) == 1:  # There is nothing to be set apart from.
    return np.argmax(shares, axis=1)
  scores = special.rel_entr(shares, shares.mean(axis=0))
  _, chosen = optimize.linear_sum_assignment(scores, maximize=True)
  return np.asarray(chosen, np.int64)


def training_set(
  chosen: np.ndarray, public_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns which public images are trained on, and with which labels.

  A public class that several classes have chosen is trained on with the label
  of each.

  >>> training_set(np.array([[1], [1]]), np.array([0, 1, 1]))
  (array([1, 2, 1, 2]), array([0, 0, 1, 1], dtype=int32))

  Args:
    chosen: the result of `choose`.
    public_labels: int[M], labels of the public images.

  Returns:
    int64[K], indices of public images, and int32[K], labels of the sensitive
    classes.
  """
  found = [np.flatnonzero(np.isin(public_labels, row)) for row in chosen]
  labels = np.repeat(np.arange(len(found)), [len(part) for part in found])
  return np.concatenate(found), labels.astype(np.int32)
