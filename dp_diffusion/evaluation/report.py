"""The report: one JSON file for machines and one HTML page for people.

End of the road. The page opens offline and holds what was found, the privacy
card in plain words, images side by side, accuracies with their intervals, and
the command and config that made them. Other metrics add a `page.Section`.

Both files are computed from real images and so are outside the guarantee:
their first line says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import re
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import files
from dp_diffusion.evaluation import downstream
from dp_diffusion.evaluation import figures
from dp_diffusion.evaluation import page

NOTICE = (
  'Computed from real images, training and held-out: this report is outside '
  'the privacy guarantee. Publishing it is your decision.'
)
SOURCES = ('synthetic', 'public', 'real')
IMAGE_SETS = ('public', 'synthetic', 'held_out')
_SOURCE_TITLES = {
  'synthetic': 'Synthetic images',
  'public': 'Public images',
  'real': 'Real images',
}
_SOURCE_NOTES = {
  'synthetic': 'accuracy from the release alone',
  'public': 'the floor: no sensitive image',
  'real': 'the ceiling: no privacy',
}
_SET_TITLES = {
  'public': 'Public',
  'synthetic': 'Synthetic',
  'held_out': 'Real, held out',
}
_CLASSIFIER_TITLES = {
  'svm': 'RBF SVM',
  'cnn': 'CNN',
  'small_cnn': 'Small CNN',
  'wrn_16_4': 'WRN-16-4',
  'wrn_40_4': 'WRN-40-4',
  'logistic_regression': 'Logistic regression',
}
_CLASSIFIER_NOTES = {
  'svm': ', scikit-learn’s with C = 10: a fixed reference from outside',
}
_MANY_CLASSES = 12  # More of them are shown by their extremes alone.

Scores = Mapping[str, Mapping[str, downstream.Score]]
LabelledImages = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
  """All that the standard report says.

  Attributes:
    title: of the run.
    privacy: epsilon_pld, epsilon_rdp, delta, noise_multiplier and more;
      infinity is allowed.
    privacy_card: the card in plain words, markdown.
    class_names: one per label; empty for an unlabelled dataset.
    scores: source of the training images -> classifier -> score on the
      held-out real images. Sources and classifiers may be missing.
    num_train_images: source -> images that its classifiers saw.
    images: set of `IMAGE_SETS` -> (uint8[N, H, W, C], int32[N]) to show.
    seconds: stage -> seconds.
    command: what was typed.
    config: resolved config, JSON values.
    classifier_names: key of `scores` -> `ClassifierConfig.name`, where the
      key does not say which network it is.
  """

  title: str
  privacy: Mapping[str, Any]
  privacy_card: str
  class_names: Sequence[str]
  scores: Scores
  num_train_images: Mapping[str, int]
  images: Mapping[str, LabelledImages]
  seconds: Mapping[str, float]
  command: str
  config: Mapping[str, Any]
  classifier_names: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write(
  findings: Findings,
  evaluation_dir: epath.PathLike,
  sections: Sequence[page.Section] = (),
) -> epath.Path:
  """Writes `report.json` and `report.html`, readable by their owner only.

  Args:
    findings: of the standard report.
    evaluation_dir: the folder `evaluation/`; made if it is not there.
    sections: of other metrics, in order; their `data` goes into the JSON.

  Returns:
    Path of the page.

  Raises:
    ValueError: a section's data has a key that is taken.
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
  """The content of `report.json`; NaN and infinity become null."""
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
    'accuracy_num_seeds': of_each(lambda s: s.num_seeds),
    'accuracy_per_class': of_each(lambda s: [c.value for c in s.per_class]),
    'num_held_out_images': _num_held_out(scores),
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
  """The content of `report.html`."""
  standard = [
    _headline(findings),
    _privacy(findings),
    _images(findings),
    _accuracy(findings),
    _per_class(findings),
  ]
  last = [_timing(findings), _how(findings)]
  return page.render(
    notice=NOTICE,
    eyebrow='What the synthetic images are worth',
    title=findings.title,
    lead=_lead(findings),
    sections=[s for s in (*standard, *sections, *last) if s.blocks],
  )


def main_classifier(scores: Scores) -> str:
  """The classifier of the headline: ours, else the reference, else ''."""
  return next(iter(_classifiers(scores)), '')


def _classifiers(scores: Scores) -> list[str]:
  """Every classifier, once, ours before the reference."""
  names = dict.fromkeys(name for row in scores.values() for name in row)
  return sorted(names, key=lambda name: name == 'svm')


def _num_held_out(scores: Scores) -> int | None:
  for row in scores.values():
    for score in row.values():
      return score.accuracy.num_examples
  return None


def _lead(findings: Findings) -> str:
  """The finding in words."""
  scores, name = findings.scores, main_classifier(findings.scores)
  if name not in scores.get('synthetic', {}):
    return 'No classifier was trained on the synthetic images.'
  accuracy = scores['synthetic'][name].accuracy
  title = _classifier_title(findings, name)
  words = [
    f'A classifier ({title}) that has seen **only synthetic images** is right'
    f' on **{page.percent(accuracy.value)}** of'
    f' {page.number(accuracy.num_examples)} real images that no training has'
    ' seen.'
  ]
  compared = {
    'public': 'Trained on the public images alone, it reaches {}',
    'real': 'on the real training images themselves, {}',
  }
  clauses = [
    words.format(page.percent(scores[source][name].accuracy.value))
    for source, words in compared.items()
    if name in scores.get(source, {})
  ]
  if clauses:
    sentence = '; '.join(clauses)
    words.append(f'{sentence[0].upper()}{sentence[1:]}.')
  return ' '.join([*words, *_gap_closed(scores, name)])


def _gap_closed(scores: Scores, name: str) -> list[str]:
  """How far from the floor to the ceiling, where there is a gap."""
  if any(name not in scores.get(source, {}) for source in SOURCES):
    return []
  synthetic, public, real = (
    scores[source][name].accuracy.value for source in SOURCES
  )
  if not public < synthetic < real:
    return []
  share = (synthetic - public) / (real - public)
  return [f'The synthetic images close {page.percent(share, 0)} of that gap.']


def _headline(findings: Findings) -> page.Section:
  privacy, scores = findings.privacy, findings.scores
  delta = page.number(privacy.get('delta'))
  tiles = []
  name = main_classifier(scores)
  for source in SOURCES:
    score = scores.get(source, {}).get(name)
    if score:
      tiles.append(
        page.Tile(
          page.percent(score.accuracy.value),
          _SOURCE_TITLES[source],
          _SOURCE_NOTES[source],
          is_main=source == 'synthetic',
        )
      )
  is_private = _is_private(privacy)
  tiles.insert(
    1 if tiles else 0,
    page.Tile(
      f'ε = {_epsilon(privacy.get("epsilon_pld"))}',
      'Privacy loss, at most' if is_private else 'Privacy loss',
      f'at δ = {delta}' if is_private else 'no privacy guarantee',
    ),
  )
  return page.Section('Headline', (page.Tiles(tuple(tiles)),))


def _privacy(findings: Findings) -> page.Section:
  privacy = findings.privacy
  rows = [
    ('ε by PLD (the guarantee)', _epsilon(privacy.get('epsilon_pld'), 3)),
    (
      'ε by RDP (looser, for comparison)',
      _epsilon(privacy.get('epsilon_rdp'), 3),
    ),
    ('δ', page.number(privacy.get('delta'))),
    ('Noise multiplier', page.number(privacy.get('noise_multiplier'))),
  ]
  summary, details = _split_card(findings.privacy_card)
  numbers = page.Table(('In numbers', ''), rows)
  return page.Section(
    'Privacy', (page.Columns(page.Text(summary), numbers), *details)
  )


def _split_card(card: str) -> tuple[str, list[page.Details]]:
  """The card's summary, and a part to open for each of its headings."""
  card = re.sub(r'\A\s*# .*\n', '', card)  # The page has its own heading.
  summary, *parts = re.split(r'^## +', card, flags=re.MULTILINE)
  details = []
  for part in parts:
    title, _, body = part.partition('\n')
    is_limit = 'not cover' in title.lower()  # Nobody should overlook these.
    details.append(page.Details(title.strip(), page.Text(body), is_limit))
  return summary, details


def _is_private(privacy: Mapping[str, Any]) -> bool:
  epsilon = privacy.get('epsilon_pld')
  return epsilon is not None and math.isfinite(epsilon)


def _epsilon(value: float | None, decimals: int = 2) -> str:
  """Rounded up, as a bound must be; None stands for infinity.

  >>> _epsilon(9.9931), _epsilon(9.9931, 3), _epsilon(None)
  ('10', '9.994', '∞')
  """
  if value is None or not math.isfinite(value):
    return '∞'
  unit = 10**decimals
  return f'{math.ceil(round(value * unit, 6)) / unit:.6g}'


def _images(findings: Findings) -> page.Section:
  names = list(findings.class_names) or ['']
  shown = [
    page.Figure(
      figures.class_grid(
        *findings.images[key],
        names,
        per_class=8,
        max_classes=_MANY_CLASSES,
        with_names=any(names),
      ),
      alt=(
        f'{_SET_TITLES[key]} images, a row of up to 8 for each of'
        f' {min(len(names), _MANY_CLASSES)} classes:'
        f' {", ".join(names[:_MANY_CLASSES])}.'
      ),
      title=_SET_TITLES[key],
      is_pixelated=True,
    )
    for key in IMAGE_SETS
    if key in findings.images
  ]
  if not shown:
    return page.Section('Images', ())
  first = ' (the first classes)' if len(names) > _MANY_CLASSES else ''
  words = page.Text(
    f'A row per class{first}: the first images of each set, not chosen. The'
    ' synthetic ones are part of the release; the real ones are not.'
  )
  return page.Section('Images', (words, page.Figures(tuple(shown))))


def _accuracy(findings: Findings) -> page.Section:
  scores = findings.scores
  names = _classifiers(scores)
  if not names:
    return page.Section('Accuracy', ())
  words = page.Text(
    f'Share of {page.number(_num_held_out(scores))} held-out real images that'
    ' are classified correctly, by classifiers that were trained on one source'
    ' of images each. The held-out images are read once, when every choice has'
    ' been made. The interval is Wilson’s for that number of images; ± is the'
    ' standard deviation over seeds.'
  )
  tables = [
    page.Table(
      (
        'Trained on',
        page.SCALE,
        'Accuracy',
        '95 % interval',
        'Seeds',
        'Training images',
      ),
      [
        _accuracy_row(findings, source, name)
        for source in SOURCES
        if name in scores.get(source, {})
      ],
      _accuracy_caption(findings, name),
    )
    for name in names
  ]
  return page.Section('Accuracy', (words, *tables))


def _accuracy_caption(findings: Findings, name: str) -> str:
  note = _CLASSIFIER_NOTES.get(name, '')
  return f'**{_classifier_title(findings, name)}**{note}'


def _accuracy_row(
  findings: Findings, source: str, name: str
) -> tuple[Any, ...]:
  score = findings.scores[source][name]
  accuracy = score.accuracy
  spread = (
    ''
    if math.isnan(score.std)
    else f'\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * score.std:.1f}'
  )
  return (
    _SOURCE_TITLES[source],
    page.Track((_mark(accuracy, source),)),
    page.percent(accuracy.value),
    f'{100 * accuracy.low:.1f} – {page.percent(accuracy.high)}',
    f'{score.num_seeds}{spread}',
    page.number(findings.num_train_images.get(source)),
  )


def _mark(accuracy: downstream.Accuracy, source: str) -> page.Mark:
  return page.Mark(accuracy.value, accuracy.low, accuracy.high, source)


def _per_class(findings: Findings) -> page.Section:
  name = main_classifier(findings.scores)
  rows = {s: findings.scores.get(s, {}).get(name) for s in SOURCES}
  scores = {source: score for source, score in rows.items() if score}
  if 'synthetic' not in scores or len(findings.class_names) < 2:
    return page.Section('Per class', ())
  classes = _shown_classes(scores['synthetic'])
  table = page.Table(
    (
      'Class',
      page.SCALE,
      *(_SOURCE_TITLES[source].removesuffix(' images') for source in scores),
      'Test images',
    ),
    [
      (
        findings.class_names[label] or f'class {label}',
        page.Track(
          tuple(
            _mark(scores[source].per_class[label], source)
            for source in ('public', 'real', 'synthetic')
            if source in scores
          )
        ),
        *(page.percent(s.per_class[label].value) for s in scores.values()),
        scores['synthetic'].per_class[label].num_examples,
      )
      for label in classes
    ],
    f'{_classifier_title(findings, name)}, accuracy among the held-out images'
    ' of each class. Filled dot with 95 % interval: synthetic. Hollow dot:'
    ' public. Upright bar: real.',
  )
  blocks: list[page.Block] = [table]
  if len(classes) < len(findings.class_names):
    blocks.insert(
      0,
      page.Text(
        f'The {len(classes)} of {len(findings.class_names)} classes with the'
        ' lowest accuracy; all are in `report.json`.'
      ),
    )
  return page.Section('Per class', tuple(blocks))


def _shown_classes(score: downstream.Score) -> list[int]:
  """All classes in order, or the worst where there are many."""
  labels = list(range(len(score.per_class)))
  if len(labels) <= 2 * _MANY_CLASSES:
    return labels
  values = [2.0 if math.isnan(a.value) else a.value for a in score.per_class]
  return sorted(labels, key=values.__getitem__)[:_MANY_CLASSES]


def _classifier_title(findings: Findings, key: str) -> str:
  name = findings.classifier_names.get(key, key)
  return _CLASSIFIER_TITLES.get(name, name)


def _timing(findings: Findings) -> page.Section:
  rows = [(stage, page.duration(s)) for stage, s in findings.seconds.items()]
  if not rows:
    return page.Section('Time', ())
  total = [s for s in findings.seconds.values() if math.isfinite(s)]
  rows.append(('Together', page.duration(sum(total))))
  return page.Section('Time', (page.Table(('Stage', 'Time'), rows),))


def _how(findings: Findings) -> page.Section:
  config = json.dumps(_finite(dict(findings.config)), indent=2, sort_keys=True)
  return page.Section(
    'How this was made',
    (
      page.Text(
        f'```\n{findings.command}\n```\n\nThe resolved config is in'
        ' `report.json` too.'
      ),
      page.Details('The resolved config, every key', config),
    ),
  )


def _finite(value: Any) -> Any:
  """JSON values of nested containers; NaN and infinity become None."""
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
