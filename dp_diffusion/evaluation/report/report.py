"""Writes the report as a JSON file and as an HTML page.

The page opens offline. It holds the findings, the privacy card, real and
synthetic images side by side, accuracies with their intervals, and the command
and config of the run. Other metrics add a `page.Section`.

Both files are computed from real images and are therefore outside the privacy
guarantee; their first line says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import re
import shlex
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.evaluation.report import page
from dp_diffusion.privacy import statement

NOTICE = (
  'Computed from real images, training and held-out: this report is outside '
  'the privacy guarantee. Publishing it is your decision.'
)
IMAGE_SETS = ('synthetic', 'held_out', 'public')
_SET_TITLES = {
  'public': 'Public',
  'synthetic': 'Synthetic',
  'held_out': 'Real, held out',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
  """The content of the standard report.

  Attributes:
    title: name of the run.
    privacy: epsilon_pld, epsilon_rdp, delta, noise_multiplier and more; a value
      may be infinite.
    privacy_card: the card of the release, in markdown.
    class_names: one per label; empty for an unlabelled dataset.
    scores: source of the training images -> classifier -> score on the
      held-out real images. Sources and classifiers may be missing.
    num_train_images: source -> number of images its classifiers trained on.
    images: set of `IMAGE_SETS` -> (uint8[N, H, W, C], int32[N]) to show.
    seconds: stage -> time in seconds.
    command: the command that the user typed.
    config: the resolved config, as JSON values.
    classifier_names: key of `scores` -> `ClassifierConfig.name`, for keys that
      are not the name of a network.
    num_held_out_equal_training: number of held-out images that equal a training
      image.
    has_soft_labels: as in `accuracy_section.Accuracies`.
  """

  title: str
  privacy: Mapping[str, Any]
  privacy_card: str
  class_names: Sequence[str]
  scores: accuracy_section.Scores
  num_train_images: Mapping[str, int]
  images: Mapping[str, types.LabelledImages]
  seconds: Mapping[str, float]
  command: str
  config: Mapping[str, Any]
  classifier_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  num_held_out_equal_training: int = 0
  has_soft_labels: bool = False


def write(
  findings: Findings,
  evaluation_dir: epath.PathLike,
  sections: Sequence[page.Section] = (),
) -> epath.Path:
  """Writes `report.json` and `report.html`, readable by their owner only.

  Args:
    findings: content of the standard report.
    evaluation_dir: the folder `evaluation/`; it is made if it does not exist.
    sections: sections of other metrics, in order; their `data` goes into the
      JSON.

  Returns:
    Path of the page.

  Raises:
    ValueError: a section's data has a key that is already used.
  """
  folder = epath.Path(evaluation_dir)
  if files.is_local(folder):
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  numbers = to_json(findings, sections)
  files.write_json(folder / 'report.json', numbers, 0o600)
  files.write_text(folder / 'report.html', to_html(findings, sections), 0o600)
  return folder / 'report.html'


def to_json(
  findings: Findings, sections: Sequence[page.Section] = ()
) -> dict[str, Any]:
  """Returns the content of `report.json`; NaN and infinity become null."""
  scores = findings.scores

  def of_each(read: Any) -> dict[str, Any]:
    return {
      source: {name: read(score) for name, score in row.items()}
      for source, row in scores.items()
    }

  numbers = {
    'notice': NOTICE,
    'title': findings.title,
    'privacy': dict(findings.privacy),
    'accuracy': of_each(lambda s: s.accuracy.value),
    'accuracy_interval': of_each(lambda s: [s.accuracy.low, s.accuracy.high]),
    'accuracy_std': of_each(lambda s: s.std),
    'accuracy_of_seeds': of_each(lambda s: s.of_seeds),
    'accuracy_num_seeds': of_each(lambda s: s.num_seeds),
    'accuracy_per_class': of_each(lambda s: [c.value for c in s.per_class]),
    'balanced_accuracy': of_each(lambda s: s.balanced_accuracy),
    'auroc': of_each(lambda s: s.auroc),
    'confusion_matrix': of_each(lambda s: s.confusion_matrix),
    'majority_share': accuracy_section.majority_share(scores),
    'is_no_better_than_guessing': of_each(lambda s: s.is_guessing),
    'accuracy_without_duplicates': of_each(
      lambda s: s.without_duplicates.value if s.without_duplicates else None
    )
    if findings.num_held_out_equal_training
    else {},
    'num_held_out_equal_training': findings.num_held_out_equal_training,
    'has_soft_labels': findings.has_soft_labels,
    'num_held_out_persons': accuracy_section.num_persons(scores),
    'num_held_out_images': accuracy_section.num_held_out(scores),
    'num_train_images': dict(findings.num_train_images),
    'class_names': list(findings.class_names),
    'seconds': dict(findings.seconds),
    'command': findings.command,
    'config': dict(findings.config),
  }
  for section in sections:
    for key, value in section.data.items():
      if key in numbers:
        raise ValueError(f'Expected {key!r} of {section.title!r} to be new.')
      numbers[key] = value
  return _finite(numbers)


def to_html(findings: Findings, sections: Sequence[page.Section] = ()) -> str:
  """Returns the content of `report.html`."""
  accuracies = _accuracies(findings)
  standard = [
    _headline(findings),
    _privacy(findings),
    accuracy_section.section(accuracies),
    accuracy_section.per_class_section(accuracies),
    accuracy_section.confusion_section(accuracies),
  ]
  last = [_timing(findings), _how(findings)]
  return page.render(
    notice=NOTICE,
    eyebrow='What the synthetic images are worth',
    title=findings.title,
    lead=accuracy_section.lead(accuracies),
    sections=[s for s in (*standard, *sections, *last) if s.blocks],
  )


def _accuracies(findings: Findings) -> accuracy_section.Accuracies:
  return accuracy_section.Accuracies(
    scores=findings.scores,
    class_names=findings.class_names,
    num_train_images=findings.num_train_images,
    classifier_names=findings.classifier_names,
    num_held_out_equal_training=findings.num_held_out_equal_training,
    has_soft_labels=findings.has_soft_labels,
  )


def _headline(findings: Findings) -> page.Section:
  privacy = findings.privacy
  delta = formats.number(privacy.get('delta'))
  tiles = accuracy_section.tiles(_accuracies(findings))
  is_private = _is_private(privacy)
  tiles.insert(
    1 if tiles else 0,
    page.Tile(
      f'ε = {_epsilon(_held(privacy))}',
      'Privacy loss, at most' if is_private else 'Privacy loss',
      f'at δ = {delta}' if is_private else 'no privacy guarantee',
    ),
  )
  blocks = (*_images(findings), page.Tiles(tuple(tiles)))
  return page.Section('Images and headline', blocks)


def _privacy(findings: Findings) -> page.Section:
  privacy = findings.privacy
  rows = [
    ('ε (the guarantee)', _epsilon(_held(privacy), 3)),
    ('ε by PLD', _epsilon(privacy.get('epsilon_pld'), 3)),
    ('ε by RDP', _epsilon(privacy.get('epsilon_rdp'), 3)),
    ('δ', formats.number(privacy.get('delta'))),
    ('Noise multiplier', formats.number(privacy.get('noise_multiplier'))),
  ]
  summary, details = _split_card(findings.privacy_card)
  numbers = page.Table(('In numbers', ''), rows)
  return page.Section(
    'Privacy', (page.Columns(page.Text(summary), numbers), *details)
  )


def _split_card(card: str) -> tuple[str, list[page.Details]]:
  """Splits the card into its summary and a `Details` for each heading."""
  text = statement.without_title(card)
  summary, *parts = re.split(r'^## +', text, flags=re.MULTILINE)
  details = []
  for part in parts:
    title, _, body = part.partition('\n')
    is_limit = 'not cover' in title.lower()  # The limits are always open.
    details.append(page.Details(title.strip(), page.Text(body), is_limit))
  return summary, details


def _held(privacy: Mapping[str, Any]) -> float | None:
  """Returns the guaranteed epsilon.

  Reports before version 4 of the statement have only that by PLD.
  """
  return privacy.get('epsilon', privacy.get('epsilon_pld'))


def _is_private(privacy: Mapping[str, Any]) -> bool:
  epsilon = _held(privacy)
  return epsilon is not None and math.isfinite(epsilon)


def _epsilon(value: float | None, decimals: int = 2) -> str:
  """Formats epsilon, rounded up since it is a bound; None is infinity.

  >>> _epsilon(9.9931), _epsilon(9.9931, 3), _epsilon(None)
  ('10', '9.994', '∞')
  """
  if value is None or not math.isfinite(value):
    return '∞'
  unit = 10**decimals
  return f'{math.ceil(round(value * unit, 6)) / unit:.6g}'


def _images(findings: Findings) -> list[page.Block]:
  """Returns figures of synthetic and of real images, side by side."""
  names = list(findings.class_names) or ['']
  most = accuracy_section.MANY_CLASSES
  shown = [
    page.Figure(
      image_grids.class_grid(
        *findings.images[key],
        names,
        per_class=8,
        max_classes=most,
        with_names=any(names),
        seed=int(findings.config.get('seed', 0)),
      ),
      alt=(
        f'{_SET_TITLES[key]} images, a row of up to 8 for each of'
        f' {min(len(names), most)} classes:'
        f' {", ".join(names[:most])}.'
      ),
      title=_SET_TITLES[key],
      is_pixelated=True,
    )
    for key in IMAGE_SETS
    if key in findings.images
  ]
  if not shown:
    return []
  first = ' (the first classes)' if len(names) > most else ''
  words = page.Text(
    f'A row per class{first}: drawn at random from each set by the public seed'
    ' of the run. The synthetic ones are part of the release; the real ones are'
    ' not.'
  )
  return [page.Figures(tuple(shown)), words]


def _timing(findings: Findings) -> page.Section:
  rows = [(stage, formats.duration(s)) for stage, s in findings.seconds.items()]
  if not rows:
    return page.Section('Time', ())
  total = [s for s in findings.seconds.values() if math.isfinite(s)]
  rows.append(('Together', formats.duration(sum(total))))
  return page.Section('Time', (page.Table(('Stage', 'Time'), rows),))


def _how(findings: Findings) -> page.Section:
  config = json.dumps(_finite(dict(findings.config)), indent=2, sort_keys=True)
  return page.Section(
    'How this was made',
    (
      page.Text(
        f'```\n{_in_lines(findings.command)}\n```\n\nThe resolved config is in'
        ' `report.json` too.'
      ),
      page.Details('The resolved config, every key', config),
    ),
  )


def _finite(value: Any) -> Any:
  """Replaces NaN and infinity in nested containers by None."""
  if isinstance(value, Mapping):
    return {str(key): _finite(v) for key, v in value.items()}
  if isinstance(value, np.ndarray):
    return _finite(value.tolist())
  if isinstance(value, (list, tuple)):
    return [_finite(v) for v in value]
  if isinstance(value, np.generic):
    return _finite(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _in_lines(command: str) -> str:
  r"""Breaks a command before each flag, as a shell reads it.

  >>> print(_in_lines('python -m main --config=a --stage plan --names="a b"'))
  python -m main \
    --config=a \
    --stage plan \
    '--names=a b'
  """
  lines: list[list[str]] = [[]]
  for word in shlex.split(command):
    if word.startswith('--'):
      lines.append([])
    lines[-1].append(word)
  return ' \\\n  '.join(shlex.join(words) for words in lines if words)
