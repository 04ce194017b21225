"""Reads rules that give numbers to parameters by name, as 'label/*=50'.

A config key holds rules as texts, 'PATTERN=NUMBER' or, for several patterns,
'PATTERN PATTERN=NUMBER'. Patterns are those of `finetune.trainable`: shell
patterns of whole paths, such as 'label/*' or '*/bias'. The first text with a
pattern that matches a leaf holds for the leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import fnmatch
from typing import Any

import jax

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import types


@dataclasses.dataclass(frozen=True)
class Rule:
  """A number for the leaves that some patterns match.

  Attributes:
    patterns: shell patterns of paths.
    value: the number.
  """

  patterns: tuple[str, ...]
  value: float

  def matches(self, path: str) -> bool:
    """Tells whether a pattern matches the path of a leaf, 'mid/kernel'."""
    return any(fnmatch.fnmatchcase(path, p) for p in self.patterns)


def parse(name: str, text: str) -> Rule:
  """Reads a rule.

  >>> parse('clip_groups', 'label/* time*=0.5')
  Rule(patterns=('label/*', 'time*'), value=0.5)

  Args:
    name: name of the config key, for messages.
    text: 'PATTERN=NUMBER', with spaces between several patterns.

  Raises:
    ValueError: the text has no pattern or no number.
  """
  patterns, _, number = text.rpartition('=')
  try:
    rule = Rule(tuple(patterns.split()), float(number))
  except ValueError:
    rule = Rule((), 0.0)
  if not rule.patterns:
    raise ValueError(
      f"Expected {name}={text!r} to be PATTERN=NUMBER, such as 'label/*=2'."
    )
  return rule


def parse_all(name: str, texts: Sequence[str]) -> tuple[Rule, ...]:
  """Reads the rules of a key, in order; see `parse`."""
  return tuple(parse(name, text) for text in texts)


def paths(tree: types.PyTree) -> list[str]:
  """Returns the path of each leaf, in the order of `jax.tree.leaves`.

  >>> paths({'mid': {'kernel': 1, 'bias': 2}})
  ['mid/bias', 'mid/kernel']
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in flat
  ]


def places(
  name: str, tree: types.PyTree, rules: Sequence[Rule]
) -> list[int | None]:
  """Returns which rule holds for each leaf, in the order of the leaves.

  >>> rules = parse('a', 'b=2'), parse('a', '*=3')
  >>> places('a', {'b': 0, 'c': 0}, rules)
  [0, 1]

  Args:
    name: name of the config key, for messages.
    tree: a tree of parameters.
    rules: the rules; the first that matches a leaf holds for it.

  Returns:
    The place of a rule for each leaf; None if no rule matches.

  Raises:
    UsageError: a rule holds for no leaf.
  """
  found = paths(tree)
  chosen = [
    next((i for i, rule in enumerate(rules) if rule.matches(path)), None)
    for path in found
  ]
  for i, rule in enumerate(rules):
    if i in chosen:
      continue
    is_taken = any(rule.matches(path) for path in found)
    wanted = 'a leaf that no earlier pattern has' if is_taken else 'a leaf'
    raise errors.UsageError(
      f'Expected {" ".join(rule.patterns)!r} of {name} to match {wanted} that'
      f' is trained, such as {checks.some(found)}.'
    )
  return chosen


def values(
  name: str, tree: types.PyTree, rules: Sequence[Rule], default: float
) -> Any:
  """Returns the number of each leaf, in the structure of a tree.

  >>> values('a', {'b': 0, 'c': 0}, [parse('a', 'b=2')], 1.0)
  {'b': 2.0, 'c': 1.0}

  Args:
    name: name of the config key, for messages.
    tree: a tree of parameters.
    rules: the rules; the first that matches a leaf holds for it.
    default: number of a leaf that no rule matches.

  Raises:
    UsageError: a rule holds for no leaf.
  """
  numbers = [
    default if i is None else rules[i].value for i in places(name, tree, rules)
  ]
  return jax.tree.unflatten(jax.tree.structure(tree), numbers)
