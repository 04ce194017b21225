"""Makes lines of the README's table, and its pictures, from entries of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
import shlex
import shutil
from typing import Any

from experiments import common

Found = Sequence[Mapping[str, Any]]
DISTANCE = 'Frechet distance'  # Each entry names the features that were used.
# Method of `experiments.baseline` -> its name in tables and figures.
BASELINES = {
  'dp_merf': 'DP-MERF',
  'dp_mepf': 'DP-MEPF',
  'private_evolution': 'Private Evolution',
  'dp_classifier': 'DP-SGD classifier',
}


def grouped(
  what: str,
  found: Found,
  measure: Callable[[Mapping[str, Any]], float | None],
  first_secs: float = 0.0,
  **more: Any,
) -> list[dict[str, Any]]:
  """Makes one line with a measure for each group; [] if there are no runs.

  Args:
    what: data and setting.
    found: entries of runs, see `common.read_run`; `group` is the group's name.
    measure: entry -> value; None leaves the entry out.
    first_secs: seconds of the stages that all share.
    **more: further arguments of `common.row`.
  """
  measures: dict[str, list[float]] = {}
  for run in found:
    value = measure(run)
    if value is not None:
      measures.setdefault(run['group'], []).append(value)
  if not measures:
    return []
  secs = seconds(found, first_secs)
  return [common.row(what, measures, seconds=secs, **more)]


def measured(
  what: str,
  found: Found,
  measures: Mapping[str, Callable[..., float | None]],
  first_secs: float = 0.0,
  **more: Any,
) -> list[dict[str, Any]]:
  """Makes one line with several measures of the same runs; [] if none.

  Args:
    what: data and setting.
    found: entries of runs.
    measures: title -> (entry -> value); None leaves the entry out.
    first_secs: seconds of the stages that all share.
    **more: further arguments of `common.row`.
  """
  values = {
    t: [measure(run) for run in found] for t, measure in measures.items()
  }
  kept = {t: [v for v in vs if v is not None] for t, vs in values.items()}
  kept = {title: vs for title, vs in kept.items() if vs}
  if not kept:
    return []
  secs = seconds(found, first_secs)
  return [common.row(what, kept, seconds=secs, **more)]


def curve(
  what: str, found: Found, kind: str, first_secs: float = 0.0
) -> list[dict[str, Any]]:
  """Makes one line by number of images, of `kind` 'accuracy' or 'ensemble'."""
  points = [
    dict(run, group=f'{point["num_images"]:,}', point=point[kind])
    for run in found
    for point in run.get('accuracy_by_number', ())
    if point[kind]
  ]
  lines = grouped(what, points, lambda p: p['point']['value'])
  secs = seconds(found, first_secs)
  return [line | {'seconds': secs} for line in lines]


def ablation(
  what: str, found: Found, first_secs: float
) -> list[dict[str, Any]]:
  """Makes two lines: accuracy of the small CNN, and Frechet distance.

  Args:
    what: what is varied, and the data.
    found: entries of runs; `group` is the name of the setting.
    first_secs: seconds of the stages that all share.
  """
  return [
    *grouped(f'{what}: accuracy (CNN)', found, accuracy, first_secs),
    *(
      line | {'seconds': None}  # The first line counts the time of these runs.
      for line in grouped(f'{what}: Frechet distance', found, frechet, unit='')
    ),
  ]


def of_epsilon(epsilon: float, setting: str = '') -> str:
  """Names a group of `ablation_by_epsilon`; it begins as all of its epsilon."""
  return f'epsilon {epsilon:g} {setting}'


def ablation_by_epsilon(
  what: str, found: Found, first_secs: float, epsilons: Sequence[float]
) -> list[dict[str, Any]]:
  """Makes the lines of `ablation` for each epsilon.

  Args:
    what: what is varied, and the data.
    found: entries of runs; `group` is made by `of_epsilon`.
    first_secs: seconds of the stages that all share.
    epsilons: in the order of the lines.
  """
  lines = []
  for epsilon in epsilons:
    start = of_epsilon(epsilon)
    runs = [
      dict(run, group=run['group'].removeprefix(start))
      for run in found
      if run['group'].startswith(start)
    ]
    lines += ablation(f'{what}, epsilon {epsilon:g}', runs, first_secs)
  return lines


def seconds(found: Found, first_secs: float) -> float:
  """Sum of the seconds of all stages of the runs, and of the shared stages."""
  return first_secs + sum(sum(run['seconds'].values()) for run in found)


def frechet(run: Mapping[str, Any], source: str = 'synthetic') -> float | None:
  """Frechet distance of an entry, in any features; None if it has none."""
  return _quality(run, source, 'frechet').get('value')


def distances(source: str) -> dict[str, Callable[..., float | None]]:
  """Measures of the distance between images of a source and training images.

  Args:
    source: 'synthetic', 'synthetic_at_equal_number' (as many as held-out
      images) or 'real' (the held-out images).
  """
  return {
    DISTANCE: functools.partial(frechet, source=source),
    **{
      name: functools.partial(images, source=source, name=name)
      for name in ('precision', 'recall')
    },
  }


def images(run: Mapping[str, Any], source: str, name: str) -> float | None:
  """Precision or recall of an entry's images; None if it has none.

  Args:
    run: an entry.
    source: 'synthetic', 'synthetic_at_equal_number' or 'real'.
    name: 'precision' or 'recall'.
  """
  return _quality(run, source, 'precision_recall').get(name)


def nearest_of_training(
  run: Mapping[str, Any], name: str = 'fraction'
) -> float | None:
  """Share of images whose nearest real image is a training image.

  Args:
    run: an entry.
    name: 'fraction', or 'expected' for the share of images that copy nothing.
  """
  found = run.get('memorization', {}).get('synthetic', {})
  return found.get('closer_to_train', {}).get(name)


def fid(run: Mapping[str, Any]) -> float | None:
  """FID of an entry; None if it has none, or used other features."""
  found = _quality(run, 'synthetic', 'frechet')
  return found.get('value') if found.get('is_inception') else None


def _quality(run: Mapping[str, Any], source: str, name: str) -> dict[str, Any]:
  """Results of one metric for a source's images; {} if it was not computed."""
  return run.get('quality', {}).get(source, {}).get(name) or {}


def accuracy(
  run: Mapping[str, Any], source: str = 'synthetic', name: str = 'cnn'
) -> float | None:
  """Accuracy of a classifier of an entry; None if it has none."""
  return run['accuracy'].get(source, {}).get(name)


def auroc(
  run: Mapping[str, Any], source: str = 'synthetic', name: str = 'cnn'
) -> float | None:
  """Area under the ROC curve of an entry; None without it or two classes."""
  return run.get('auroc', {}).get(source, {}).get(name)


def class_head(run: Mapping[str, Any]) -> float | None:
  """Accuracy of the class head of the release, or None."""
  return run.get('class_head', {}).get('accuracy')


def diffusion_classifier(run: Mapping[str, Any]) -> float | None:
  """Accuracy of the released model itself; None if it was not measured."""
  return run.get('diffusion_classifier', {}).get('accuracy')


def ensemble(
  run: Mapping[str, Any], source: str = 'synthetic', name: str = 'cnn'
) -> float | None:
  """Accuracy of the ensemble of an entry; None if it has none."""
  found = run.get('ensembles', {}).get('accuracy', {}).get(source, {})
  return found[name]['value'] if name in found else None


def draw_samples(found: Found, path: pathlib.Path) -> None:
  """Copies the sample grid of the first run; it shows synthetic images only.

  If the folder of the run is not on this machine, an existing copy is kept.

  Args:
    found: entries of runs; the command of the first names its folder.
    path: path of the PNG.

  Raises:
    FileNotFoundError: there is neither a grid nor a copy.
  """
  words = shlex.split(found[0]['command'])
  (workdir,) = (w for w in words if w.startswith('--workdir='))
  folder = pathlib.Path(workdir.removeprefix('--workdir='))
  source = folder / 'release' / 'samples.png'
  if source.exists() or not path.exists():
    shutil.copyfile(source, path)
