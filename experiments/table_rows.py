"""Lines of README's table, and its pictures, from what runs have found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
import shlex
import shutil
from typing import Any

from experiments import common

Found = Sequence[Mapping[str, Any]]
DISTANCE = 'Frechet distance'  # In the features that an entry names.


def grouped(
  what: str,
  found: Found,
  measure: Callable[[Mapping[str, Any]], float | None],
  first_secs: float = 0.0,
  **more: Any,
) -> list[dict[str, Any]]:
  """One line of README's table with a mean for each group; [] for no runs.

  Args:
    what: data and setting.
    found: entries of runs, see `common.read_run`; `group` names the mean.
    measure: of an entry; None leaves it out.
    first_secs: of what all share.
    **more: of `common.row`.
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
  """One line with several measures of the same runs; [] for none.

  Args:
    what: data and setting.
    found: entries of runs.
    measures: title -> measure of an entry; None leaves it out.
    first_secs: of what all share.
    **more: of `common.row`.
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
  """One line of accuracies by number of images: 'accuracy' or 'ensemble'."""
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
  """Two lines: what the small CNN reaches, and the Frechet distance.

  Args:
    what: is varied, and on what.
    found: entries of runs; `group` names the setting.
    first_secs: of what all share.
  """
  return [
    *grouped(f'{what}: accuracy (CNN)', found, accuracy, first_secs),
    *(
      line | {'seconds': None}  # The same runs.
      for line in grouped(f'{what}: Frechet distance', found, frechet, unit='')
    ),
  ]


def seconds(found: Found, first_secs: float) -> float:
  """Of all stages of the runs, one after the other, and of what they share."""
  return first_secs + sum(sum(run['seconds'].values()) for run in found)


def frechet(run: Mapping[str, Any], source: str = 'synthetic') -> float | None:
  """Frechet distance of an entry in whatever features, where it has it."""
  return _quality(run, source, 'frechet').get('value')


def distances(source: str) -> dict[str, Callable[..., float | None]]:
  """Measures of how far images of a source are from those of training.

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
  """Precision or recall of an entry's images, where it has them.

  Args:
    run: an entry.
    source: 'synthetic', 'synthetic_at_equal_number' or 'real'.
    name: 'precision' or 'recall'.
  """
  return _quality(run, source, 'precision_recall').get(name)


def nearest_of_training(
  run: Mapping[str, Any], name: str = 'fraction'
) -> float | None:
  """How often the nearest real image is one of training, or would by chance.

  Args:
    run: an entry.
    name: 'fraction', or 'expected' of images that copy nothing.
  """
  found = run.get('memorization', {}).get('synthetic', {})
  return found.get('closer_to_train', {}).get(name)


def fid(run: Mapping[str, Any]) -> float | None:
  """FID of an entry; None where it is in other features, or not there."""
  found = _quality(run, 'synthetic', 'frechet')
  return found.get('value') if found.get('is_inception') else None


def _quality(run: Mapping[str, Any], source: str, name: str) -> dict[str, Any]:
  """What one metric says of a source's images; {} where it was not taken."""
  return run.get('quality', {}).get(source, {}).get(name) or {}


def accuracy(
  run: Mapping[str, Any], source: str = 'synthetic', name: str = 'cnn'
) -> float | None:
  """An accuracy of an entry, where it has it."""
  return run['accuracy'].get(source, {}).get(name)


def ensemble(
  run: Mapping[str, Any], source: str = 'synthetic', name: str = 'cnn'
) -> float | None:
  """An accuracy of several networks together, where the entry has it."""
  found = run.get('ensembles', {}).get('accuracy', {}).get(source, {})
  return found[name]['value'] if name in found else None


def draw_samples(found: Found, path: pathlib.Path) -> None:
  """Copies the grid of the first run: synthetic images, which may leave.

  Where the run was collected earlier and lies elsewhere, a grid that is there
  stays.

  Args:
    found: entries of runs; the command of the first names its folder.
    path: of the PNG.

  Raises:
    FileNotFoundError: neither is there.
  """
  words = shlex.split(found[0]['command'])
  (workdir,) = (w for w in words if w.startswith('--workdir='))
  folder = pathlib.Path(workdir.removeprefix('--workdir='))
  source = folder / 'release' / 'samples.png'
  if source.exists() or not path.exists():
    shutil.copyfile(source, path)
