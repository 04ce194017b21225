"""The mistakes themselves: what is changed, and which tests must notice.

Each is one that public code has made, or one that a careless refactoring of
the private path would make. An old text that is not there exactly once makes
`apply` fail, so a mutation cannot silently stop being one.
"""

from __future__ import annotations

import dataclasses
import pathlib

_CLIPPING = 'dp_diffusion/privacy/clipping.py'
_KEYS = 'dp_diffusion/privacy/key_streams.py'
_LEDGER = 'dp_diffusion/privacy/ledger.py'
_LEDGER_ENTRIES = 'dp_diffusion/privacy/ledger_entries.py'
_NOISE = 'dp_diffusion/privacy/noise.py'
_SELECTION = 'dp_diffusion/privacy/batch_selection.py'
_FINETUNE = 'dp_diffusion/stages/finetune.py'
_LOOP = 'dp_diffusion/training/loop.py'
_STEP = 'dp_diffusion/training/step.py'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
  """One replacement.

  Attributes:
    path: file, from the root of the repository.
    old: text that it holds exactly once.
    new: what stands there instead.
  """

  path: str
  old: str
  new: str

  def apply(self, root: pathlib.Path) -> None:
    """Changes the file below `root`.

    Raises:
      ValueError: the old text is not there exactly once.
    """
    path = root / self.path
    text = path.read_text(encoding='utf-8')
    if text.count(self.old) != 1:
      raise ValueError(
        f'Expected {self.path} to hold once, not {text.count(self.old)} times:'
        f' {self.old!r}. Mend experiments/mutations/mutations.py.'
      )
    path.write_text(text.replace(self.old, self.new), encoding='utf-8')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutation:
  """A mistake on the private path.

  Attributes:
    name: what goes wrong, for the table.
    edits: made together.
    tests: test file that must fail; enough for a quick run.
  """

  name: str
  edits: tuple[Edit, ...]
  tests: str

  @property
  def path(self) -> str:
    """The file that is changed."""
    return self.edits[0].path

  def apply(self, root: pathlib.Path) -> None:
    """Makes the mistake in the copy at `root`."""
    for edit in self.edits:
      edit.apply(root)


def _one(name: str, path: str, old: str, new: str, tests: str) -> Mutation:
  return Mutation(
    name=name, edits=(Edit(path=path, old=old, new=new),), tests=tests
  )


ALL = (
  Mutation(
    name='Noise on each device, before the sum over devices',
    edits=(
      Edit(
        path=_STEP,
        old='  grad_sum = _psum(total.grad_sum, axis_name)\n',
        new='  grad_sum = total.grad_sum\n',
      ),
      Edit(
        path=_STEP,
        old='/ config.expected_batch_size, noised_sum)',
        new='/ config.expected_batch_size, _psum(noised_sum, axis_name))',
      ),
    ),
    tests='tests/training/step_test.py',
  ),
  _one(
    'No noise',
    _STEP,
    '  return noise_multiplier * l2_sensitivity\n',
    '  return 0.0 * noise_multiplier * l2_sensitivity\n',
    'tests/training/step_test.py',
  ),
  _one(
    'Noise of 0.9 times the std',
    _NOISE,
    '+ noise_std * noise.reshape(',
    '+ 0.9 * noise_std * noise.reshape(',
    'tests/privacy/noise_test.py',
  ),
  _one(
    'Noise for the mean, added to the sum',
    _STEP,
    'noise_std(config.noise_multiplier, total.l2_sensitivity),',
    'noise_std(config.noise_multiplier, total.l2_sensitivity)'
    ' / config.expected_batch_size,',
    'tests/training/step_test.py',
  ),
  _one(
    'Mean over devices instead of the sum',
    _STEP,
    'else jax.lax.psum(tree, axis_name)',
    'else jax.lax.pmean(tree, axis_name)',
    'tests/training/step_test.py',
  ),
  _one(
    'Divided by the batch that came, not the expected one',
    _STEP,
    'x / config.expected_batch_size, noised_sum',
    'x / jnp.maximum(total.stats.num_examples, 1), noised_sum',
    'tests/training/step_test.py',
  ),
  _one(
    'Empty batches get no noise',
    _STEP,
    '  grads = jax.tree.map(lambda x: x / config',
    '  noised_sum = jax.tree.map(\n'
    '    lambda x: x * (total.stats.num_examples > 0), noised_sum\n'
    '  )\n'
    '  grads = jax.tree.map(lambda x: x / config',
    'tests/training/step_test.py',
  ),
  _one(
    'EMA of the step without noise',
    _STEP,
    '    ema_params=train_state.update_ema(state.ema_params, params, decay),',
    '    ema_params=train_state.update_ema(\n'
    '      state.ema_params, state.params, decay\n'
    '    ),',
    'tests/training/step_test.py',
  ),
  _one(
    'Draw keys by slot, not by record',
    _STEP,
    'key_streams.draw_keys(draw_key, indices, ',
    'key_streams.draw_keys(draw_key, jnp.arange(indices.shape[0]), ',
    'tests/training/step_test.py',
  ),
  _one(
    'Sensitivity too small by a factor of 2',
    _CLIPPING,
    "  array_types.check_finite('l2_clip_norm', l2_clip_norm)\n  return 1.0\n",
    "  array_types.check_finite('l2_clip_norm', l2_clip_norm)\n  return 0.5\n",
    'tests/privacy/clipping_test.py',
  ),
  _one(
    'Clip of the sum instead of each example',
    _CLIPPING,
    '  norms, grads_are_finite = _global_norms(grads)\n',
    '  norms, grads_are_finite = _global_norms(\n'
    '    jax.tree.map(\n'
    '      lambda g: jnp.zeros_like(g) + g.sum(0, keepdims=True), grads\n'
    '    )\n'
    '  )\n',
    'tests/privacy/clipping_test.py',
  ),
  _one(
    'Norm of one leaf instead of the whole gradient',
    _CLIPPING,
    '  plain = sum(jnp.sum(jnp.square(g), axis=1) for g in leaves)\n',
    '  plain = jnp.sum(jnp.square(leaves[0]), axis=1)\n',
    'tests/privacy/clipping_test.py',
  ),
  _one(
    'Padding masked by multiplication (0 * NaN)',
    _CLIPPING,
    'jnp.where(per_example(is_used), weighted, 0.0)',
    'weighted * per_example(is_used)',
    'tests/privacy/clipping_test.py',
  ),
  _one(
    'Sum over the K draws instead of their mean',
    _CLIPPING,
    'return jnp.mean(draw_losses(',
    'return jnp.sum(draw_losses(',
    'tests/privacy/clipping_test.py',
  ),
  _one(
    'The same key for all K draws',
    _KEYS,
    '  draws = np.arange(num_draws, dtype=np.int32)\n',
    '  draws = np.zeros(num_draws, dtype=np.int32)\n',
    'tests/privacy/key_streams_test.py',
  ),
  _one(
    'The same noise key in each step',
    _KEYS,
    "self._hash('noise', 8, step, i)",
    "self._hash('noise', 8, 0, i)",
    'tests/privacy/key_streams_test.py',
  ),
  _one(
    'The loop forgets the step when it asks for noise',
    _LOOP,
    'steps.streams.noise_keys(step)',
    'steps.streams.noise_keys(0)',
    'tests/training/loop_test.py',
  ),
  _one(
    'Batches of fixed size, accounted as Poisson',
    _SELECTION,
    '    return np.concatenate(taking_part).astype(np.int64)\n',
    '    del taking_part\n'
    '    size = round(self.num_records * self.sampling_prob)\n'
    '    return np.sort(np.argsort(self._words(step, 0))[:size])\n',
    'tests/privacy/batch_selection_test.py',
  ),
  _one(
    'Shuffled epochs, accounted as Poisson',
    _SELECTION,
    '    return np.concatenate(taking_part).astype(np.int64)\n',
    '    del taking_part\n'
    '    num_parts = round(1 / self.sampling_prob)\n'
    '    order = np.argsort(self._words(step // num_parts, 0))\n'
    '    return np.sort(np.array_split(order, num_parts)[step % num_parts])\n',
    'tests/privacy/batch_selection_test.py',
  ),
  _one(
    'Batches truncated to whole microbatches',
    _SELECTION,
    '  return -(-num_selected // (microbatch_size * global_device_count))\n',
    '  return num_selected // (microbatch_size * global_device_count)\n',
    'tests/privacy/batch_selection_test.py',
  ),
  _one(
    'Records selected a little too often',
    _SELECTION,
    '  return math.floor(fractions',
    '  return math.ceil(fractions',
    'tests/privacy/batch_selection_test.py',
  ),
  _one(
    'RDP reported as PLD',
    'dp_diffusion/privacy/accounting.py',
    "_canonical(events), strict_json.probability('delta', delta), accountant\n",
    "_canonical(events), strict_json.probability('delta', delta), 'rdp'\n",
    'tests/privacy/accounting_test.py',
  ),
  _one(
    'Replayed steps not charged',
    _LEDGER_ENTRIES,
    '    total = self.num_steps + self.num_replayed_steps + num_more_steps\n',
    '    total = self.num_steps + num_more_steps\n',
    'tests/privacy/ledger_test.py',
  ),
  _one(
    'Only the last training counts, not what was spent before',
    _LEDGER,
    '      for i, entry in enumerate(self.entries)\n',
    '      for i, entry in enumerate(self.entries)\n      if i == last\n',
    'tests/privacy/ledger_test.py',
  ),
  _one(
    'Delta of the ledger is not the promised one',
    _LEDGER,
    '    delta=config.delta,\n    budget_epsilon=budget,\n',
    '    delta=2 * config.delta,\n    budget_epsilon=budget,\n',
    'tests/privacy/ledger_test.py',
  ),
  _one(
    'Ledger not advanced',
    _LOOP,
    '      ledger = ledger.with_steps(1)\n',
    '      ledger = ledger.with_steps(0)\n',
    'tests/training/loop_test.py',
  ),
  _one(
    'Statistics without noise on the terminal',
    _LOOP,
    '      run.record_stats(step, devices.unreplicate(stats))\n',
    '      host_stats = devices.unreplicate(stats)\n'
    '      run.record_stats(step, host_stats)\n'
    "      console.say(f'step {step}: loss {host_stats.loss_sum:.3f}')\n",
    'tests/training/loop_test.py',
  ),
  _one(
    'Resumed with a fresh ledger',
    _FINETUNE,
    '    ledger = ledger_lib.Ledger.from_json(restored.ledger)\n',
    '',
    'tests/stages/finetune_test.py',
  ),
  _one(
    'Resumed with fresh randomness',
    _FINETUNE,
    'key_streams.KeyStreams(secret=secret, run_id=',
    'key_streams.KeyStreams(secret=secret, run_id=str(start_step) + ',
    'tests/stages/finetune_test.py',
  ),
  _one(
    'Sampling probability from the number of records found',
    _FINETUNE,
    'poisson_selector(num_records, mechanism.sampling_prob),',
    'poisson_selector(\n'
    '      num_records, mechanism.expected_batch_size / num_records\n'
    '    ),',
    'tests/stages/finetune_test.py',
  ),
  _one(
    'Persons selected image by image',
    _FINETUNE,
    'batching.make_records(source, config.data.unit)',
    "batching.make_records(source, 'image')",
    'tests/stages/finetune_test.py',
  ),
  _one(
    'Noise of another mechanism than the one in the ledger',
    _FINETUNE,
    '    noise_multiplier=mechanism.noise_multiplier,\n',
    '    noise_multiplier=mechanism.noise_multiplier * 0.99,\n',
    'tests/stages/finetune_test.py',
  ),
  _one(
    'Labels sampled by exact counts',
    'dp_diffusion/privacy/label_histogram.py',
    '    entry.mechanism.noise_std,\n',
    '    0.0 * entry.mechanism.noise_std,\n',
    'tests/privacy/label_histogram_test.py',
  ),
  _one(
    'A person counts once for each image',
    'dp_diffusion/privacy/label_histogram.py',
    '  shares = np.repeat(1.0 / sizes, sizes)\n',
    '  shares = np.ones(sizes.sum())\n',
    'tests/privacy/label_histogram_test.py',
  ),
  _one(
    'Histogram not entered in the ledger',
    _FINETUNE,
    '    before=histograms.entries(config),\n',
    '',
    'tests/stages/finetune_test.py',
  ),
  _one(
    'One process with another secret',
    'dp_diffusion/training/processes.py',
    '    np.asarray(received, np.uint8).tobytes()\n  )\n',
    '    np.asarray(received, np.uint8).tobytes()\n  )\n'
    '  value = hashlib.sha256(value + b"%d" % jax.process_index()).digest()\n',
    'tests/training/parallel_test.py',
  ),
)
