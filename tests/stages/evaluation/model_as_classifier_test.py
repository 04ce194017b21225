"""The released model classifies held-out images that are drawn for it."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import release
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.evaluation.classifiers import head_classifier
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.stages.evaluation import model_as_classifier
from dp_diffusion.stages.run import interrupts
from tests.stages import command
from tests.stages import sources

NUM_IMAGES = 100


@pytest.fixture
def held_out() -> registry.ArraySource:
  """Images whose pixels are their labels, two of each person."""
  labels = np.random.default_rng(0).integers(0, 10, NUM_IMAGES, np.int32)
  return registry.ArraySource(
    spec=sources.SPEC,
    images=np.full(
      (NUM_IMAGES, 8, 8, 1), labels[:, None, None, None], np.uint8
    ),
    labels=labels,
    person=np.arange(NUM_IMAGES, dtype=np.int32) // 2,
  )


class ReadsPixels:
  """Answers what the pixels say."""

  def __init__(self, *_: object, **__: object) -> None:
    """Needs no network."""

  def bounds(self, images: np.ndarray, *_: object) -> np.ndarray:
    return np.log(np.eye(10)[images[:, 0, 0, 0]] + 1e-3)


def test_answers_are_compared_with_labels_and_persons_of_the_drawn_images(
  held_out, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
  persons = []

  def score(predicted, labels, num_classes, **others):
    persons.append(others['persons'])
    return found(predicted, labels, num_classes, **others)

  found = scoring.score
  monkeypatch.setattr(scoring, 'score', score)
  monkeypatch.setattr(diffusion_classifier, 'DiffusionClassifier', ReadsPixels)
  monkeypatch.setattr(release, 'read_model', lambda _: ({}, {'unet': {}}))
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'model.json').write_text('{}')
  for number in (30, NUM_IMAGES):
    config = config_lib.load(
      command.DIGITS_SMOKE,
      {'evaluate.diffusion_classifier_images': str(number)},
    )
    (section,) = model_as_classifier.sections(
      config, tmp_path, held_out, interrupts.Stop('')
    )
    result = section.data['diffusion_classifier']
    assert result['accuracy'] == 1 and result['num_images'] == number
    drawn = np.random.default_rng(config.seed).permutation(NUM_IMAGES)[:number]
    np.testing.assert_array_equal(persons[-1], np.sort(drawn) // 2)


def test_the_class_head_classifies_all_images(
  held_out, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """In a section of its own, also where the model itself is not asked."""

  class Knows:
    def __init__(self, *_: object) -> None:
      """Needs no network."""

    def classify(self, images, advance):
      probs = np.log(np.eye(10)[images[:, 0, 0, 0]] + 1e-3)
      wrong = np.arange(len(images)) < 25
      probs[wrong] = np.roll(probs[wrong], 1, axis=1)
      return diffusion_classifier.by_bounds(probs)

  monkeypatch.setattr(head_classifier, 'HeadClassifier', Knows)
  monkeypatch.setattr(release, 'read_class_head', lambda _: object())
  monkeypatch.setattr(release, 'read_model', lambda _: ({}, {'unet': {}}))
  config = config_lib.load(
    command.DIGITS_SMOKE, {'evaluate.diffusion_classifier_images': '0'}
  )
  (section,) = model_as_classifier.sections(
    config, tmp_path, held_out, interrupts.Stop('')
  )
  found = section.data['class_head']
  assert found['accuracy'] == 0.75 and found['num_images'] == NUM_IMAGES
