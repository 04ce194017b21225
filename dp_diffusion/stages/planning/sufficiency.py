"""Judges whether there are enough records, from the noise and measured runs.

All numbers are public, since they follow from the mechanism, which the config
declares. The noise is given in two ways. In one step its std per weight is

  noise_over_batch = noise_multiplier / expected_batch_size,

in units of the clip norm. Over the whole training, the norm of its sum divided
by the largest norm that the sum of all clipped gradients can have is

  noise_over_signal = noise_over_batch sqrt(num_weights / num_steps),

since the squares of independent noise add up over `num_weights` directions and
`num_steps` steps, while gradients of one direction add up directly. Batch size
and number of steps nearly cancel in it; more records, a larger epsilon or a
smaller network make it smaller.

`measured_runs.json` holds the same numbers of earlier runs;
`python -m experiments.measured_runs` writes it from the results in
`experiments/`. There are few such runs, so the verdict is coarse. A setting is
judged only by a run that was at least as easy (or at least as hard) in noise,
in the size of the images and in pre-training. All other settings are 'unclear'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.planning import flop_counts

ENOUGH = 'may be enough'
UNCLEAR = 'unclear'
TOO_FEW = 'too few'
TABLE_PATH = pathlib.Path(__file__).with_name('measured_runs.json')
_GOOD_SHARE = 0.9  # Share of the gain of real images over chance.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """The properties of a run that make private training easy or hard.

  Attributes:
    noise_over_batch: std of the noise in a weight of the mean gradient, in
      units of the clip norm.
    noise_over_signal: ratio of noise to signal over the whole training, see the
      module.
    image_shape: (H, W, C).
    is_pretrained: whether training starts from publicly pre-trained weights.
    num_records: declared number of images or persons.
  """

  noise_over_batch: float
  noise_over_signal: float
  image_shape: tuple[int, int, int]
  is_pretrained: bool
  num_records: int

  def is_at_least_as_hard_as(self, other: Setting) -> bool:
    """Whether noise, image size and first weights make it no easier."""
    return (
      self.noise_over_signal >= other.noise_over_signal
      and math.prod(self.image_shape) >= math.prod(other.image_shape)
      and (other.is_pretrained or not self.is_pretrained)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredRun:
  """A run, or several that differ by their seed, with the accuracies reached.

  Attributes:
    what: a few words on the config and on what was varied.
    source: the results from which the numbers are taken.
    setting: how hard the training was.
    chance: accuracy of guessing among the classes.
    synthetic: accuracy on real images of a network trained on synthetic images,
      for each seed.
    public: accuracy of a network trained on public images, for each seed; ()
      if they have other classes.
    real: accuracy of a network trained on the real images, for each seed.
  """

  what: str
  source: str
  setting: Setting
  chance: float
  synthetic: tuple[float, ...]
  public: tuple[float, ...]
  real: tuple[float, ...]

  @property
  def share(self) -> float:
    """The gain over chance with synthetic images, divided by that with real."""
    gained = _mean(self.synthetic) - self.chance
    return gained / (_mean(self.real) - self.chance)

  @property
  def is_good(self) -> bool:
    """Whether little was lost and all seeds were better than public images."""
    return self.share >= _GOOD_SHARE and all(
      ours > theirs for ours, theirs in zip(self.synthetic, self.public)
    )

  @property
  def is_useless(self) -> bool:
    """Whether pre-trained training was no better than public images alone."""
    return (
      self.setting.is_pretrained
      and bool(self.public)
      and _mean(self.synthetic) <= _mean(self.public)
    )

  def text(self) -> str:
    """Describes the run and its accuracies, for a sentence."""
    height, width, channels = self.setting.image_shape
    shown = f'{_percent(self.synthetic)} where real images gave'
    if self.public:
      shown = (
        f'{_percent(self.synthetic)}, public images alone'
        f' {_percent(self.public)} and real ones'
      )
    return (
      f'{self.what} ({height}x{width}x{channels}, noise'
      f' {_factor(self.setting.noise_over_signal)} times the signal) reached'
      f' {shown} {_percent(self.real)} of accuracy'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """The judgement of a setting from the measured runs.

  Attributes:
    level: ENOUGH, UNCLEAR or TOO_FEW.
    run: the run that decides; if unclear, the most similar run.
  """

  level: str
  run: MeasuredRun


def setting(
  config: config_lib.Config, mechanism: mechanism_lib.TrainingMechanism
) -> Setting:
  """Returns how hard the training of a run is, without reading data.

  Args:
    config: gives data, model, pretrain and finetune.
    mechanism: mechanism of the private steps.
  """
  data = config.data
  noise = mechanism.noise_multiplier / mechanism.expected_batch_size
  num_weights = flop_counts.num_trained(config)
  return Setting(
    noise_over_batch=noise,
    noise_over_signal=noise * math.sqrt(num_weights / mechanism.num_steps),
    image_shape=data.image_shape,
    is_pretrained=config.reads_public_images or bool(config.pretrain.init_from),
    num_records=mechanism.num_examples,
  )


def measured_runs() -> tuple[MeasuredRun, ...]:
  """Reads the table of measured runs."""
  return tuple(from_json(row) for row in files.read_json(TABLE_PATH)['runs'])


def to_json(run: MeasuredRun) -> dict[str, Any]:
  """Returns a run as JSON values, for the table."""
  return dataclasses.asdict(run)


def from_json(row: Mapping[str, Any]) -> MeasuredRun:
  """Returns the run of a row of the table; inverts `to_json`."""
  inner = dict(row['setting'])
  inner['image_shape'] = tuple(inner['image_shape'])
  lists = {name: tuple(row[name]) for name in ('synthetic', 'public', 'real')}
  return MeasuredRun(**{**row, **lists, 'setting': Setting(**inner)})


def judge(found: Setting, runs: Sequence[MeasuredRun]) -> Verdict:
  """Judges a setting by the measured runs.

  Args:
    found: the setting to judge.
    runs: the measured runs, at least one.
  """
  too_few = [
    run
    for run in runs
    if run.is_useless and found.is_at_least_as_hard_as(run.setting)
  ]
  if too_few:
    return Verdict(level=TOO_FEW, run=_nearest(found, too_few))
  enough = [
    run
    for run in runs
    if run.is_good and run.setting.is_at_least_as_hard_as(found)
  ]
  if enough:
    return Verdict(level=ENOUGH, run=_nearest(found, enough))
  return Verdict(level=UNCLEAR, run=_nearest(found, runs))


def lines(
  config: config_lib.Config, mechanism: mechanism_lib.TrainingMechanism
) -> list[str]:
  """Returns the lines of `plan` on this; none if no noise is added."""
  if not mechanism.is_private:
    return []
  found = setting(config, mechanism)
  verdict = judge(found, measured_runs())
  records = 'persons' if config.data.unit == 'person' else 'images'
  reasons = {
    TOO_FEW: 'with no more noise, on no larger images, nothing was gained:',
    ENOUGH: 'with no less noise, on no smaller images, little was lost:',
    UNCLEAR: 'no measured run decides it; the nearest:',
  }
  counted = f'{found.num_records:,} {records}'
  words = {
    TOO_FEW: f'{counted} are too few for images of this size',
    ENOUGH: f'{counted} may be enough',
    UNCLEAR: f'unclear whether {counted} are enough',
  }
  result = [
    'is it enough?',
    f'  noise over batch    {found.noise_over_batch:.4g} of the clip norm, per'
    f' step and weight ({mechanism.noise_multiplier:.4g} over'
    f' {mechanism.expected_batch_size} of {counted})',
    f'  noise over signal   {_factor(found.noise_over_signal)}: length of all'
    ' noise beside the most that all gradients together can have',
    f'  verdict             {words[verdict.level]}',
    f'  because             {reasons[verdict.level]}'
    f' {verdict.run.text()} [{verdict.run.source}]',
  ]
  if verdict.level != ENOUGH:
    result.append(f'  what would help     {"; ".join(_help(found))}')
  return result


def _help(found: Setting) -> list[str]:
  helps = [
    'more records',
    'a larger epsilon (which promises less)',
    'smaller images and a smaller network',
  ]
  if not found.is_pretrained:
    helps.append('pre-training on public images')
  return helps


def _nearest(found: Setting, runs: Sequence[MeasuredRun]) -> MeasuredRun:
  """Returns the run closest in the ratios of noise and of image size."""

  def distance(run: MeasuredRun) -> float:
    noise = run.setting.noise_over_signal / found.noise_over_signal
    size = math.prod(run.setting.image_shape) / math.prod(found.image_shape)
    return abs(math.log(noise)) + abs(math.log(size))

  is_alike = [
    run for run in runs if run.setting.is_pretrained == found.is_pretrained
  ]
  return min(is_alike or runs, key=distance)


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def _factor(value: float) -> str:
  """Formats a ratio with two figures.

  >>> _factor(0.8816), _factor(4.27), _factor(241.5)
  ('0.88', '4.3', '240')
  """
  return f'{float(f"{value:.2g}"):,g}'


def _percent(values: Sequence[float]) -> str:
  return f'{100 * _mean(values):.1f} %'
