"""The list of mistakes: what is changed, and which test must notice.

Each is a mistake that public code has made, or that a careless refactoring of
the private path would make. If the old text does not occur exactly once in its
file, `apply` fails, so a mutation cannot silently become one that changes
nothing.
"""

from __future__ import annotations

import dataclasses
import pathlib

_CLIPPING = 'dp_diffusion/privacy/clipping.py'
_ENTRIES = 'dp_diffusion/privacy/entries.py'
_KEYS = 'dp_diffusion/privacy/key_streams.py'
_LEDGER = 'dp_diffusion/privacy/ledger.py'
_NOISE = 'dp_diffusion/privacy/noise.py'
_PER_EXAMPLE = 'dp_diffusion/privacy/per_example_gradients.py'
_SELECTION = 'dp_diffusion/privacy/batch_selection.py'
_FINETUNE = 'dp_diffusion/stages/finetune.py'
_JOURNAL = 'dp_diffusion/training/journal.py'
_LOOP = 'dp_diffusion/training/private_loop.py'
_STEP = 'dp_diffusion/training/private_step.py'
_AUDIT = 'dp_diffusion/privacy/audit.py'
_BASELINE = 'dp_diffusion/stages/baseline.py'
_CLASSIFIER = 'dp_diffusion/stages/baseline_classifier.py'
_CHECKPOINT = 'dp_diffusion/training/checkpoint.py'
_HISTOGRAM = 'dp_diffusion/privacy/label_histogram.py'
_FIXED_POINT = 'dp_diffusion/privacy/fixed_point.py'
_RESUMING = 'dp_diffusion/stages/run/resume.py'
_RUN_FACTS = 'dp_diffusion/stages/run/fingerprint.py'
_PUBLIC_DATA = 'dp_diffusion/stages/run/public_data.py'
_PROCESSES = 'dp_diffusion/training/processes.py'
_VERIFY = 'dp_diffusion/privacy/verify.py'
_ACCOUNTING = 'dp_diffusion/privacy/accounting.py'
_LOSSES = 'dp_diffusion/privacy/loss_distributions.py'
_STATEMENT = 'dp_diffusion/privacy/statement.py'
_HISTOGRAMS = 'dp_diffusion/stages/run/histograms.py'
_BUDGET = 'dp_diffusion/stages/run/budget.py'
_CLASS_MEANS = 'dp_diffusion/baselines/class_means.py'
_WARM_UP = 'dp_diffusion/stages/warm_up.py'
_BEGUN = 'dp_diffusion/stages/run/begun_statistics.py'
_EVOLUTION = 'dp_diffusion/baselines/private_evolution.py'
# The last lines of `private_step.apply`.
_UPDATE = (
  '  return train_state.update(\n'
  '    state, grads, optimizer, config.ema_decay, config.power_exponents\n'
  '  )\n'
)
_AVERAGES = 'dp_diffusion/stages/run/averages.py'
_CLASS_MEANS_TEST = 'tests/baselines/class_means_test.py'
_WARM_UP_TEST = 'tests/stages/warm_up_test.py'
_PUBLIC_VOTES_TEST = 'tests/baselines/public_votes_test.py'
_EVOLUTION_TEST = 'tests/baselines/private_evolution_test.py'
_AVERAGES_TEST = 'tests/stages/run/averages_test.py'

_ACCOUNTING_TEST = 'tests/privacy/accounting_test.py'
_AUDIT_TEST = 'tests/privacy/audit_test.py'
_AUDIT_STAGE_TEST = 'tests/stages/audit_test.py'
_BANDED_TEST = 'tests/privacy/banded_sgd_test.py'
_BASELINE_TEST = 'tests/stages/baseline_test.py'
_BATCHING_TEST = 'tests/data/batching_test.py'
_CHECKPOINT_TEST = 'tests/training/checkpoint_test.py'
_CLIPPING_TEST = 'tests/privacy/clipping_test.py'
_PUBLIC_DATA_TEST = 'tests/stages/run/public_data_test.py'
_PER_EXAMPLE_TEST = 'tests/privacy/per_example_gradients_test.py'
_FINETUNE_TEST = 'tests/stages/finetune_test.py'
_FIXED_POINT_TEST = 'tests/privacy/fixed_point_test.py'
_MEAN_EMBEDDING = 'dp_diffusion/baselines/mean_embedding.py'
_MEAN_EMBEDDING_TEST = 'tests/baselines/mean_embedding_test.py'
_HISTOGRAM_TEST = 'tests/privacy/label_histogram_test.py'
_INHERITANCE_TEST = 'tests/stages/run/inherited_ledger_test.py'
_KEYS_TEST = 'tests/privacy/key_streams_test.py'
_LEAK_TEST = 'tests/stages/leak_test.py'
_LEDGER_TEST = 'tests/privacy/ledger_test.py'
_LOOP_TEST = 'tests/training/private_loop_test.py'
_NOISE_TEST = 'tests/privacy/noise_test.py'
_PARALLEL_TEST = 'tests/training/parallel_test.py'
_RUN_FACTS_TEST = 'tests/stages/run/fingerprint_test.py'
_SELECTION_TEST = 'tests/privacy/batch_selection_test.py'
_STEP_TEST = 'tests/training/private_step_test.py'
_VERIFY_TEST = 'tests/privacy/verify_test.py'
_LOSSES_TEST = 'tests/privacy/loss_distributions_test.py'
_STATEMENT_TEST = 'tests/privacy/statement_test.py'
_HEAD = 'dp_diffusion/baselines/class_head.py'
_HEAD_TEST = 'tests/baselines/class_head_test.py'
_STAGE_HEAD_TEST = 'tests/stages/class_head_test.py'
_HEAD_FEATURES = 'dp_diffusion/evaluation/classifiers/head_features.py'
_HEAD_FEATURES_TEST = 'tests/evaluation/classifiers/head_features_test.py'
_SCATTERING = 'dp_diffusion/models/scattering.py'
_SCATTERING_TEST = 'tests/models/scattering_test.py'
_GAUSSIANS = 'dp_diffusion/baselines/class_gaussians.py'
_GAUSSIANS_TEST = 'tests/baselines/class_gaussians_test.py'
_STAGE_GAUSSIANS_TEST = 'tests/stages/class_gaussians_test.py'
_HISTOGRAMS_TEST = 'tests/stages/run/histograms_test.py'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
  """One replacement.

  Attributes:
    path: file, relative to the root of the repository.
    old: text that occurs exactly once in the file.
    new: text that replaces it.
  """

  path: str
  old: str
  new: str

  def apply(self, root: pathlib.Path) -> None:
    """Changes the file in the repository at `root`.

    Raises:
      ValueError: the old text does not occur exactly once.
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
    name: what goes wrong, in the words of the table.
    edits: the replacements, which are made together.
    test: pytest id of the test that must fail.
  """

  name: str
  edits: tuple[Edit, ...]
  test: str

  @property
  def path(self) -> str:
    """The first file that is changed."""
    return self.edits[0].path

  def apply(self, root: pathlib.Path) -> None:
    """Makes the mistake in the copy at `root`."""
    for edit in self.edits:
      edit.apply(root)


def _one(name: str, path: str, old: str, new: str, test: str) -> Mutation:
  return Mutation(
    name=name, edits=(Edit(path=path, old=old, new=new),), test=test
  )


ALL = (
  Mutation(
    name='Noise on each device, before the sum over devices',
    edits=(
      Edit(
        path=_STEP,
        old='  exact = fixed_point.psum(total.exact, axis_name)\n',
        new='  exact = total.exact\n',
      ),
      Edit(
        path=_STEP,
        old='/ config.expected_batch_size, noised_sum)',
        new='/ config.expected_batch_size, _psum(noised_sum, axis_name))',
      ),
    ),
    test=f'{_STEP_TEST}::test_noise_enters_once_after_the_sum_over_devices',
  ),
  _one(
    'No noise',
    _STEP,
    '  return noise_multiplier * l2_sensitivity\n',
    '  return 0.0 * noise_multiplier * l2_sensitivity\n',
    f'{_STEP_TEST}::test_noise_std_of_an_update',
  ),
  _one(
    'Noise of 0.9 times the std',
    _NOISE,
    '    std_in_units * sample.reshape(',
    '    0.9 * std_in_units * sample.reshape(',
    f'{_NOISE_TEST}::test_std_is_accepted_at_sigma_only',
  ),
  _one(
    'Noise for the mean, added to the sum',
    _STEP,
    'noise_std(config.noise_multiplier, total.l2_sensitivity),',
    'noise_std(config.noise_multiplier, total.l2_sensitivity)'
    ' / config.expected_batch_size,',
    f'{_STEP_TEST}::test_noise_std_of_an_update',
  ),
  _one(
    'Mean over devices instead of the sum',
    _FIXED_POINT,
    '_zeros(low)), low), total.unit)',
    '_zeros(low)), low), total.unit / num_devices)',
    f'{_STEP_TEST}::test_noise_enters_once_after_the_sum_over_devices',
  ),
  _one(
    'Divided by the batch that came, not the expected one',
    _STEP,
    'x / config.expected_batch_size, noised_sum',
    'x / jnp.maximum(total.stats.num_examples, 1), noised_sum',
    f'{_STEP_TEST}::test_divides_by_the_expected_batch_size',
  ),
  _one(
    'Empty batches get no noise',
    _STEP,
    '  grads = jax.tree.map(lambda x: x / config',
    '  noised_sum = jax.tree.map(\n'
    '    lambda x: x * (total.stats.num_examples > 0), noised_sum\n'
    '  )\n'
    '  grads = jax.tree.map(lambda x: x / config',
    f'{_STEP_TEST}::test_empty_batch_is_a_step_of_pure_noise',
  ),
  _one(
    'EMA of the step without noise',
    _STEP,
    _UPDATE,
    '  size = config.expected_batch_size\n'
    '  exact = jax.tree.map(lambda x: x / size, exact.to_floats())\n'
    '  exact = train_state.update(state, exact, optimizer, config.ema_decay)\n'
    '  after = train_state.update(state, grads, optimizer, config.ema_decay)\n'
    '  return after.replace(ema_params=exact.ema_params)\n',
    f'{_STEP_TEST}::test_ema_follows_the_noised_step',
  ),
  _one(
    'Draw keys by slot, not by record',
    _STEP,
    'draw_keys(draw_key, batch.indices, ',
    'draw_keys(draw_key, jax.numpy.arange(batch.indices.shape[0]), ',
    f'{_STEP_TEST}::test_slot_does_not_matter',
  ),
  Mutation(
    name='Sensitivity too small by a factor of 2',
    edits=tuple(
      Edit(
        path=_CLIPPING,
        old=f'{before},\n    ),\n    l2_sensitivity=',
        new=f'{before},\n    ),\n    l2_sensitivity=0.5 * ',
      )
      for before in (
        'num_examples=jnp.zeros((), jnp.int32)',
        'num_examples=jnp.sum(~is_padding, dtype=jnp.int32)',
      )
    ),
    test=f'{_CLIPPING_TEST}::test_the_sensitivity_is_tight',
  ),
  _one(
    'Clip of the sum instead of each example',
    _CLIPPING,
    '    *(per_example_gradients.global_norms(p.leaves) for p in parts),\n',
    '    *(\n'
    '      per_example_gradients.global_norms(\n'
    '        [jnp.zeros_like(g) + g.sum(0, keepdims=True) for g in p.leaves]\n'
    '      )\n'
    '      for p in parts\n'
    '    ),\n',
    f'{_CLIPPING_TEST}::test_equals_a_loop_over_examples',
  ),
  _one(
    'Norm of one leaf instead of the whole gradient',
    _PER_EXAMPLE,
    '  sums = []\n  for leaf in jax.tree.leaves(grads):\n',
    '  sums = []\n  for leaf in jax.tree.leaves(grads)[:1]:\n',
    f'{_CLIPPING_TEST}::test_equals_a_loop_over_examples',
  ),
  _one(
    'Padding summed with the examples',
    _PER_EXAMPLE,
    'jnp.where(is_in, term, 0.0)',
    'term',
    f'{_CLIPPING_TEST}::test_padding_bytes_never_matter[1.0]',
  ),
  _one(
    'Norms of finite gradients that overflow are infinite',
    _PER_EXAMPLE,
    '    jnp.all(is_finite),\n',
    '    jnp.any(is_finite),\n',
    f'{_PER_EXAMPLE_TEST}'
    '::test_one_example_that_overflows_changes_no_other[_norms_by_one_sum_or_two]',
  ),
  _one(
    'Gradients moved back in another order',
    _CLIPPING,
    'jnp.moveaxis(x, range(len(order)), order)',
    'jnp.transpose(x, order)',
    f'{_STEP_TEST}::test_order_of_axes_does_not_matter',
  ),
  _one(
    'Norm of the gradient before it is scaled',
    _CLIPPING,
    '  norms, are_finite = zip(\n'
    '    *(per_example_gradients.global_norms(p.leaves) for p in parts),\n',
    '  norms, are_finite = zip(\n'
    '    *(\n'
    '      per_example_gradients.global_norms(p.leaves)\n'
    '      for p in _parts(grads, config)\n'
    '    ),\n',
    f'{_CLIPPING_TEST}::test_scaled_leaf_alone_is_clipped_to_the_norm',
  ),
  _one(
    'Each group of leaves clipped to the whole norm',
    _CLIPPING,
    '    return [math.sqrt(rule.value / total) for rule in self.clip_groups]\n',
    '    return [total for _ in self.clip_groups]\n',
    f'{_CLIPPING_TEST}::test_groups_are_clipped_to_their_shares',
  ),
  _one(
    'A gradient counts although one group is not finite',
    _CLIPPING,
    '    jnp.logical_and, are_finite, jnp.isfinite(losses)\n',
    '    jnp.logical_or, are_finite, jnp.isfinite(losses)\n',
    f'{_CLIPPING_TEST}::test_non_finite_group_adds_zero_everywhere',
  ),
  _one(
    'Sum over the K draws instead of their mean',
    _CLIPPING,
    'return jnp.mean(draw_losses(',
    'return jnp.sum(draw_losses(',
    f'{_CLIPPING_TEST}::test_mean_over_draws_before_the_clip[2]',
  ),
  _one(
    'The same key for all K draws',
    _KEYS,
    '  draws = np.arange(num_draws, dtype=np.int32)\n',
    '  draws = np.zeros(num_draws, dtype=np.int32)\n',
    f'{_KEYS_TEST}::test_draw_keys_follow_the_record',
  ),
  _one(
    'The same noise key in each step',
    _KEYS,
    "self._hash('noise', 8, step, i)",
    "self._hash('noise', 8, 0, i)",
    f'{_KEYS_TEST}::test_purposes_never_collide',
  ),
  _one(
    'The loop forgets the step when it asks for noise',
    _LOOP,
    'noise_keys = steps.streams.noise_keys(step)',
    'noise_keys = steps.streams.noise_keys(0)',
    f'{_LOOP_TEST}::test_steps_are_those_of_the_mechanism',
  ),
  _one(
    'Batches of fixed size, accounted as Poisson',
    _SELECTION,
    '    return np.concatenate(taking_part).astype(np.int64)\n',
    '    del taking_part\n'
    '    size = round(self.num_records * self.sampling_prob)\n'
    '    return np.sort(np.argsort(self._words(step, 0))[:size])\n',
    f'{_SELECTION_TEST}::test_participation_is_binomial',
  ),
  _one(
    'Shuffled epochs, accounted as Poisson',
    _SELECTION,
    '    return np.concatenate(taking_part).astype(np.int64)\n',
    '    del taking_part\n'
    '    num_parts = round(1 / self.sampling_prob)\n'
    '    order = np.argsort(self._words(step // num_parts, 0))\n'
    '    return np.sort(np.array_split(order, num_parts)[step % num_parts])\n',
    f'{_SELECTION_TEST}::test_participation_is_binomial',
  ),
  _one(
    'Batches truncated to whole microbatches',
    _SELECTION,
    '  return -(-num_selected // (microbatch_size * global_device_count))\n',
    '  return num_selected // (microbatch_size * global_device_count)\n',
    f'{_SELECTION_TEST}::test_microbatches_are_a_partition',
  ),
  _one(
    'Records of every group selected at each step, accounted as in turn',
    _SELECTION,
    'selected[self._groups[selected] == group]',
    'selected',
    f'{_BANDED_TEST}::test_records_take_part_in_turn',
  ),
  _one(
    'A round of the groups begun, and not accounted',
    'dp_diffusion/privacy/banded_sgd.py',
    '-(-num_steps // self.num_bands)',
    'max(1, num_steps // self.num_bands)',
    f'{_BANDED_TEST}::test_part_of_a_training_costs_its_rounds',
  ),
  _one(
    'Correlated noise forgotten at a resume',
    'dp_diffusion/training/past_noise.py',
    'self._devices.replicate(start), 0\n',
    'self._devices.replicate(start), step\n',
    'tests/training/past_noise_test.py::test_resumed_equals_uninterrupted',
  ),
  _one(
    'Records selected a little too often',
    _SELECTION,
    '  return math.floor(fractions',
    '  return math.ceil(fractions',
    f'{_SELECTION_TEST}::test_threshold_is_exact',
  ),
  _one(
    'RDP reported as PLD',
    'dp_diffusion/privacy/accounting.py',
    "_canonical(events), strict_json.probability('delta', delta), accountant\n",
    "_canonical(events), strict_json.probability('delta', delta), 'rdp'\n",
    f'{_ACCOUNTING_TEST}::test_epsilon_matches_oracle[pld-opacus suite]',
  ),
  _one(
    'The larger of two bounds where one says nothing',
    _ACCOUNTING,
    '    return min(_epsilon(canonical',
    '    return max(_epsilon(canonical',
    f'{_ACCOUNTING_TEST}::test_rdp_holds_where_pld_says_nothing',
  ),
  _one(
    'Rounding of the transform is not paid for',
    _LOSSES,
    '  return _solve(masses + error, ',
    '  return _solve(masses, ',
    f'{_LOSSES_TEST}::test_rounding_error_is_paid_for[1e-15]',
  ),
  _one(
    'Losses rounded down to the grid',
    _LOSSES,
    '    upper = np.clip(to_upper + error, 0, mass[inner])\n',
    '    upper = np.clip(0 * to_upper, 0, mass[inner])\n',
    f'{_LOSSES_TEST}::test_cells_keep_both_masses[True-1.0-0.1]',
  ),
  _one(
    'A bound by RDP is stated as one by PLD',
    _STATEMENT,
    '  epsilon = _finite_or_none(min(by_pld, by_rdp))\n',
    '  epsilon = _finite_or_none(by_pld)\n',
    f'{_STATEMENT_TEST}::test_the_bound_that_holds_is_named',
  ),
  _one(
    'An earlier release that understates epsilon passes',
    _VERIFY,
    '    mismatches += _understated(statement, again)\n',
    '',
    f'{_VERIFY_TEST}::test_earlier_epsilon_that_was_too_small_is_refused',
  ),
  _one(
    'Replayed steps not charged',
    _ENTRIES,
    'dp_event(num_steps, self.num_replayed_steps)',
    'dp_event(num_steps)',
    f'{_LEDGER_TEST}::test_replayed_steps_are_charged',
  ),
  _one(
    'Only the last training counts, not what was spent before',
    _LEDGER,
    '      for i, entry in enumerate(self.entries)\n',
    '      for i, entry in enumerate(self.entries)\n      if i == last\n',
    f'{_LEDGER_TEST}::test_every_kind_of_event_counts',
  ),
  _one(
    'Delta of the ledger is not the promised one',
    _LEDGER,
    '    delta=config.delta,\n    budget_epsilon=budget,\n',
    '    delta=2 * config.delta,\n    budget_epsilon=budget,\n',
    f'{_LEDGER_TEST}::test_event_calibrated_is_event_spent',
  ),
  _one(
    'Ledger not advanced',
    _LOOP,
    '      ledger = ledger.with_steps(1)\n',
    '      ledger = ledger.with_steps(0)\n',
    f'{_LOOP_TEST}::test_ledger_is_in_step_with_the_weights',
  ),
  _one(
    'Statistics without noise on the terminal',
    _LOOP,
    '      run.record_stats(step, devices.unreplicate(stats))\n',
    '      host_stats = devices.unreplicate(stats)\n'
    '      run.record_stats(step, host_stats)\n'
    "      console.say(f'step {step}: loss {host_stats.loss_sum:.3f}')\n",
    f'{_LOOP_TEST}::test_terminal_shows_nothing_of_the_records',
  ),
  _one(
    'Resumed with a fresh ledger',
    _RESUMING,
    '    ledger = ledger_lib.Ledger.from_json(restored.ledger)\n',
    '',
    f'{_FINETUNE_TEST}::test_a_resume_continues_its_ledger',
  ),
  _one(
    'Resumed with fresh randomness',
    _RESUMING,
    'key_streams.KeyStreams(secret=secret, run_id=',
    'key_streams.KeyStreams(secret=secret, run_id=str(start_step) + ',
    f'{_FINETUNE_TEST}::test_a_resume_continues_its_ledger',
  ),
  _one(
    'Sampling probability from the number of records found',
    _FINETUNE,
    '      num_records, mechanism.sampling_prob, mechanism.num_groups\n',
    '      num_records, mechanism.expected_batch_size / num_records\n',
    f'{_FINETUNE_TEST}::test_mechanism_reaches_every_part',
  ),
  _one(
    'Persons selected image by image',
    _FINETUNE,
    'batching.make_records(source, config.data.unit)',
    "batching.make_records(source, 'image')",
    f'{_FINETUNE_TEST}::test_a_person_is_one_record',
  ),
  _one(
    'Noise of another mechanism than the one in the ledger',
    _FINETUNE,
    '    noise_multiplier=mechanism.noise_multiplier,\n',
    '    noise_multiplier=mechanism.noise_multiplier * 0.99,\n',
    f'{_FINETUNE_TEST}::test_mechanism_reaches_every_part',
  ),
  _one(
    'Labels sampled by exact counts',
    _HISTOGRAM,
    '    entry.noise_std,\n',
    '    0.0 * entry.noise_std,\n',
    f'{_HISTOGRAM_TEST}::test_noise_std',
  ),
  _one(
    'A person counts once for each image',
    _HISTOGRAM,
    '  shares = np.repeat(1.0 / sizes, sizes)\n',
    '  shares = np.ones(sizes.sum())\n',
    f'{_HISTOGRAM_TEST}::test_one_record_moves_it_by_at_most_one',
  ),
  _one(
    'Histogram not entered in the ledger',
    _FINETUNE,
    '  before = (*inherited.entries, *budget.entries(config))\n',
    '  before = inherited.entries\n',
    f'{_FINETUNE_TEST}::test_histogram_is_paid_for',
  ),
  _one(
    'One process with another secret',
    _PROCESSES,
    '    np.asarray(received, np.uint8).tobytes()\n  )\n',
    '    np.asarray(received, np.uint8).tobytes()\n  )\n'
    '  value = hashlib.sha256(value + b"%d" % jax.process_index()).digest()\n',
    f'{_PARALLEL_TEST}::test_two_processes_equal_one',
  ),
  _one(
    'Sum of four draws divided by 4, not by 2',
    _NOISE,
    '  return total / NUM_KEYS**0.5\n',
    '  return total / NUM_KEYS\n',
    f'{_NOISE_TEST}::test_equals_the_formula',
  ),
  _one(
    'A gradient that is not finite spoils the sum',
    _CLIPPING,
    '  is_used = is_finite & ~is_padding\n',
    '  is_used = ~is_padding\n',
    f'{_CLIPPING_TEST}::test_non_finite_gradient_adds_zero[nan]',
  ),
  _one(
    'The factor that pays for the rounding of norms left out',
    _CLIPPING,
    '  return per_example_gradients.norm_error(grads) + _FEW_ROUNDINGS\n',
    '  del grads\n  return 0.0\n',
    f'{_CLIPPING_TEST}::test_what_a_norm_loses_is_paid_for',
  ),
  _one(
    'Squares of all leaves in one running float32 sum',
    _PER_EXAMPLE,
    '  return _sum_in_loops(jnp.concatenate(sums, axis=1))\n',
    '  rows = jnp.concatenate(sums, axis=1)\n'
    '  return jax.lax.fori_loop(\n'
    '    0,\n'
    '    rows.shape[1],\n'
    '    lambda i, total: total + rows[:, i],\n'
    '    jnp.zeros(len(rows)),\n'
    '  )\n',
    f'{_PER_EXAMPLE_TEST}'
    '::test_norms_are_hardly_too_small[0.00024-_norms_by_one_sum_or_two]',
  ),
  _one(
    'Terms rounded up to the grid, not toward zero',
    _FIXED_POINT,
    '  return _to_int32(units)\n',
    '  return _to_int32(jnp.sign(units) * jnp.ceil(jnp.abs(units)))\n',
    f'{_FIXED_POINT_TEST}::test_cutting_never_lengthens',
  ),
  _one(
    'Microbatches added in float32',
    _FIXED_POINT,
    '    high = jax.tree.map(jnp.add, self.high, other.high)\n'
    '    return from_words(add_to_low((high, self.low), other.low),'
    ' self.unit)\n',
    '    both = jax.tree.map(jnp.add, self.to_floats(), other.to_floats())\n'
    '    units = jax.tree.map(lambda x: x / self.unit, both)\n'
    '    return from_units(units, self.unit)\n',
    f'{_CLIPPING_TEST}::test_long_sums_move_by_at_most_the_sensitivity[64]',
  ),
  _one(
    'Examples of a microbatch added in float32',
    _PER_EXAMPLE,
    '  words = jax.lax.platform_dependent(\n'
    '    grads, weights, is_used, cpu=_sum_by_loop, default=_sum_by_reduction\n'
    '  )\n'
    '  return fixed_point.from_words(words, unit)\n',
    '  def add(i: Any, total: Any) -> Any:\n'
    '    return jax.tree.map(\n'
    '      lambda t, g: t + jnp.where(is_used[i], weights[i] * g[i], 0.0),\n'
    '      total,\n'
    '      grads,\n'
    '    )\n\n'
    '  start = jax.tree.map(lambda g: jnp.zeros(g.shape[1:]), grads)\n'
    '  units = jax.lax.fori_loop(0, len(weights), add, start)\n'
    '  return fixed_point.from_units(units, unit)\n',
    f'{_CLIPPING_TEST}::test_long_sums_move_by_at_most_the_sensitivity[16384]',
  ),
  _one(
    'Noise added after the sum became float32',
    _NOISE,
    '  return (exact + rounded).to_floats()\n',
    '  return jax.tree.map(jnp.add, exact.to_floats(), rounded.to_floats())\n',
    f'{_NOISE_TEST}::test_is_added_to_the_exact_sum',
  ),
  _one(
    'Low words of devices added without their carry',
    _FIXED_POINT,
    '  return from_words(add_to_low((high, _zeros(low)), low), total.unit)\n',
    '  low = jax.tree.map(lambda x: x & _LOW_MASK, low)\n'
    '  return from_words((high, low), total.unit)\n',
    f'{_FIXED_POINT_TEST}::test_devices_are_summed_exactly',
  ),
  _one(
    'Norms of features trusted as float32 found them',
    _MEAN_EMBEDDING,
    '    found = _bound_on_host(found) * weights[:, None]\n',
    '    found = found * weights[:, None]\n',
    f'{_MEAN_EMBEDDING_TEST}::test_features_are_bounded_in_float64',
  ),
  _one(
    'Shares of a histogram added in floating point',
    _HISTOGRAM,
    '  units = fixed_point.cut_on_host(shares, _UNIT)',
    '  units = shares / _UNIT',
    f'{_HISTOGRAM_TEST}::test_order_of_records_does_not_matter',
  ),
  _one(
    'Chunks of draws summed, not averaged',
    _CLIPPING,
    '    return jax.tree.map(lambda x: x / num_chunks, total)\n',
    '    return total\n',
    f'{_CLIPPING_TEST}::test_independent_of_draw_chunks[2]',
  ),
  _one(
    "A person's images chosen by slot, not by record",
    'dp_diffusion/data/batching.py',
    'hashlib.shake_256(seed + int(index).to_bytes(',
    'hashlib.shake_256(seed + row.to_bytes(',
    f'{_BATCHING_TEST}::test_a_draw_depends_on_seed_record_and_draw_only',
  ),
  _one(
    'Secret from a seed',
    _KEYS,
    '    secret = cls(value=os.urandom(SECRET_BYTES))\n',
    '    secret = cls(value=np.random.default_rng(42).bytes(SECRET_BYTES))\n',
    f'{_KEYS_TEST}::test_secrets_come_from_the_operating_system',
  ),
  _one(
    'Secret that others can read',
    _KEYS,
    'os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)',
    'os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)',
    f'{_KEYS_TEST}::test_create_is_private_and_exclusive',
  ),
  _one(
    'Spending past the budget is let through',
    _LEDGER,
    '    if num_more_steps and self.would_exceed(num_more_steps):\n',
    '    if num_more_steps > 10**9 and self.would_exceed(num_more_steps):\n',
    f'{_LEDGER_TEST}::test_spending_past_the_budget_is_refused',
  ),
  _one(
    'A released training goes on',
    _LEDGER,
    'if self.entries and self.entries[-1].is_sealed:',
    'if self.entries and self.entries[-1].is_sealed is None:',
    f'{_LEDGER_TEST}::test_sealed_training_goes_no_further',
  ),
  _one(
    'Steps are begun before the journal knows of them',
    _LOOP,
    '        journal.begin(step)\n',
    '        pass\n',
    f'{_LOOP_TEST}::test_journal_is_written_before_the_steps',
  ),
  _one(
    'A lost run on other data is forgotten',
    _JOURNAL,
    "  return f'{run_id} {key_streams.rng_test_vector()}'\n",
    '  return key_streams.rng_test_vector()\n',
    f'{_LOOP_TEST}::test_another_run_charges_the_steps_of_the_one_before',
  ),
  _one(
    'Checkpoint believed without its digest',
    _CHECKPOINT,
    '    if digest != read.digest(version):\n',
    '    if not digest:\n',
    f'{_CHECKPOINT_TEST}::test_damaged_steps_are_skipped_and_named'
    '[change_ledger]',
  ),
  _one(
    'Processes that are not compared',
    _FINETUNE,
    '  processes.agree({k: json.dumps(v, sort_keys=True)'
    ' for k, v in facts.items()})\n',
    '',
    f'{_RUN_FACTS_TEST}::test_processes_compare_all_facts',
  ),
  _one(
    'Ledger of an earlier release forgotten',
    _FINETUNE,
    '  before = (*inherited.entries, *budget.entries(config))\n',
    '  before = budget.entries(config)\n',
    f'{_INHERITANCE_TEST}::test_fine_tuning_composes_the_ledger',
  ),
  _one(
    'Calibrated as if nothing had been spent before',
    _BUDGET,
    '  before = (*inherited, *entries(config))\n',
    '  before = entries(config)\n',
    f'{_INHERITANCE_TEST}::test_what_is_inherited_counts',
  ),
  _one(
    'Statistics without noise in public/',
    _FINETUNE,
    '  with metrics.PrivateMetrics(workdir.private) as writer:\n',
    '  with metrics.PublicMetrics(workdir.public) as writer:\n',
    f'{_LEAK_TEST}::test_only_weights_and_what_follows_differ',
  ),
  _one(
    'Changed files pass the check of a release',
    _VERIFY,
    '    elif _sha256(folder / name) != digest:\n',
    '    elif not _sha256(folder / name):\n',
    f'{_VERIFY_TEST}::test_changed_folder_is_refused',
  ),
  _one(
    'Stated epsilon believed, not computed again',
    _VERIFY,
    'math.isclose(stated, found, rel_tol=_TOLERANCE)',
    'math.isfinite(stated)',
    f'{_VERIFY_TEST}::test_changed_statement_is_refused',
  ),
  _one(
    'Audit without the term of delta',
    _AUDIT,
    'min(tail + 2 * num_canaries * delta * alpha, 1.0)',
    'min(tail, 1.0)',
    f'{_AUDIT_TEST}::test_bound_is_that_of_jax_privacy',
  ),
  _one(
    'Resumed under another mechanism',
    _RUN_FACTS,
    "  for name in ('mechanism', 'training'):\n",
    "  for name in ('training',):\n",
    f'{_FINETUNE_TEST}::test_resume_refuses_what_changed',
  ),
  _one(
    'Resumed on another dataset',
    _RUN_FACTS,
    "  for name in ('secret', 'dataset'):\n",
    "  for name in ('secret',):\n",
    f'{_FINETUNE_TEST}::test_resume_refuses_another_dataset',
  ),
  _one(
    'Audit that passes whatever it finds',
    'dp_diffusion/stages/audit.py',
    "    'is_passed': found <= audit.epsilon,\n",
    "    'is_passed': found <= max(found, audit.epsilon),\n",
    f'{_AUDIT_STAGE_TEST}::test_noise_that_is_missing_ends_with_exit_code_1',
  ),
  _one(
    'One secret, other first weights: the same noise',
    _RUN_FACTS,
    "      'weights': first_weights(secret, params),\n",
    "      'weights': '',\n",
    f'{_RUN_FACTS_TEST}::test_other_first_weights_are_another_run',
  ),
  _one(
    'Two workdirs with one secret',
    'dp_diffusion/privacy/key_streams.py',
    '    if file.read_text().strip() != owner:\n',
    '    if not file.read_text():\n',
    'tests/stages/run/run_secret_test.py::test_a_secret_belongs_to_one_workdir',
  ),
  _one(
    'Files of another run sealed under a ledger that never paid',
    'dp_diffusion/release.py',
    '  if folder.exists() and (names := files.list_files(folder)):\n',
    '  if not folder.parent and (names := files.list_files(folder)):\n',
    f'{_FINETUNE_TEST}::test_leftovers_in_the_release_are_refused',
  ),
  _one(
    'Released weights pass for public ones where their ledger is gone',
    'dp_diffusion/stages/run/inherited_ledger.py',
    '  if weights.is_released(path):\n',
    '  if not path:\n',
    f'{_INHERITANCE_TEST}'
    '::test_released_weights_without_their_ledger_are_refused',
  ),
  _one(
    'The sensitive set is pre-trained on as public data',
    _PUBLIC_DATA,
    '  if found == same_source.SAME:\n',
    "  if found == '':\n",
    f'{_PUBLIC_DATA_TEST}::test_the_sensitive_set_by_name',
  ),
  _one(
    'Overlapping slices of one TFDS split pass',
    'dp_diffusion/data/same_source.py',
    '  return max(start, other_start) < min(end, other_end)\n',
    '  return (start, end) == (other_start, other_end)\n',
    'tests/data/same_source_test.py::test_slices_of_tfds_splits',
  ),
  _one(
    'Public images are not compared with the sensitive ones',
    _FINETUNE,
    '  public = public_data.compare(config, workdir, source)\n',
    '  public = []\n',
    f'{_PUBLIC_DATA_TEST}::test_fine_tuning_ends_before_anything_private',
  ),
  _one(
    'Equal images do not end the run',
    _PUBLIC_DATA,
    "    return 'equal'\n",
    "    return 'none_equal'\n",
    f'{_PUBLIC_DATA_TEST}::test_equal_images_end_the_run',
  ),
  _one(
    'Images compared under a key that all know',
    _PUBLIC_DATA,
    '  key = os.urandom(_KEY_BYTES)\n',
    '  key = bytes(_KEY_BYTES)\n',
    f'{_PUBLIC_DATA_TEST}::test_no_digest_is_left_behind',
  ),
  _one(
    'Images of an earlier release count nothing',
    'dp_diffusion/stages/run/inherited_ledger.py',
    '    found += released_ledger.of_images(config.pretrain.data)\n',
    '    pass\n',
    f'{_INHERITANCE_TEST}::test_released_images_bring_the_ledger',
  ),
  _one(
    'Marked images pass where their ledger is gone',
    'dp_diffusion/release_marks.py',
    '  if mark is not None:\n    raise',
    '  if not path:\n    raise',
    'tests/release_marks_test.py::test_marked_images_without_a_ledger',
  ),
  _one(
    'A card that hides the sentence passes',
    _VERIFY,
    "not heading.startswith('# ') or not rest.startswith(f'{sentence}\\n')",
    'sentence not in rest',
    f'{_VERIFY_TEST}::test_a_card_that_hides_the_sentence_is_refused',
  ),
  _one(
    'The DP classifier opens its test images before it trains',
    _BASELINE,
    '  with held_out.closed():\n    predict',
    '  registry.load(config.data, config.data.test_split)\n'
    '  with held_out.closed():\n    predict',
    f'{_BASELINE_TEST}::'
    'test_the_classifier_is_trained_before_its_test_images_are_opened',
  ),
  _one(
    'The classifier baseline trains with half the noise of its ledger',
    'dp_diffusion/stages/baseline_classifier.py',
    '    _finetune_config(config),\n    mechanism,\n',
    '    _finetune_config(config),\n'
    '    dataclasses.replace(\n'
    '      mechanism, noise_multiplier=mechanism.noise_multiplier / 2\n'
    '    ),\n',
    f'{_BASELINE_TEST}::test_classifier_is_wired_by_its_mechanism',
  ),
  _one(
    'The loop skips empty batches',
    _LOOP,
    '  draw_key = steps.streams.draw_key(step)\n  total = steps',
    '  draw_key = steps.streams.draw_key(step)\n'
    '  if not len(selected):\n'
    '    return state, steps.private_stats(steps.zeros(state.params))\n'
    '  total = steps',
    f'{_LOOP_TEST}::test_an_empty_batch_is_a_step',
  ),
  _one(
    "Adam's moments from the gradient without noise",
    _STEP,
    _UPDATE,
    '  size = config.expected_batch_size\n'
    '  exact = jax.tree.map(lambda x: x / size, exact.to_floats())\n'
    '  exact = train_state.update(state, exact, optimizer, config.ema_decay)\n'
    '  after = train_state.update(state, grads, optimizer, config.ema_decay)\n'
    '  return after.replace(opt_state=exact.opt_state)\n',
    f'{_STEP_TEST}::test_optimizer_state_is_of_the_noised_gradient[adam]',
  ),
  _one(
    'Events of equal noise and other selection are merged',
    _ACCOUNTING,
    '      counts[event] += count\n',
    '      same = [e for e in counts if _noise(e) == _noise(event)]\n'
    '      counts[(*same, event)[0]] += count\n',
    f'{_ACCOUNTING_TEST}'
    '::test_events_of_equal_noise_are_told_apart_by_their_selection[pld]',
  ),
  _one(
    'A run id without the dataset',
    _RUN_FACTS,
    "if k != 'versions'}",
    "if k not in ('versions', 'dataset')}",
    f'{_RUN_FACTS_TEST}::test_every_fact_but_the_versions_names_the_run',
  ),
  _one(
    'The last charge of lost steps replaces those before',
    _ENTRIES,
    '    total = self.num_replayed_steps + num_steps\n',
    '    total = num_steps\n',
    f'{_LEDGER_TEST}::test_charges_of_replayed_steps_add_up',
  ),
  _one(
    'Noise that repeats every 2^16 elements',
    _NOISE,
    '    return total + jax.random.normal(key, (size,), jnp.float32), None\n',
    '    few = jax.random.normal(key, (min(size, 2**16),), jnp.float32)\n'
    '    return total + jnp.resize(few, (size,)), None\n',
    f'{_NOISE_TEST}::test_noise_does_not_repeat_within_a_leaf',
  ),
  _one(
    'Noise keys of the step modulo 2^16',
    _KEYS,
    "self._hash('noise', 8, step, i)",
    "self._hash('noise', 8, step % 2**16, i)",
    f'{_KEYS_TEST}::test_keys_do_not_come_back_after_many_steps[16]',
  ),
  _one(
    'A published ledger that is not sealed',
    _FINETUNE,
    '    workdir, ledger.seal(), is_insecure=is_insecure, public_data=public\n',
    '    workdir, ledger, is_insecure=is_insecure, public_data=public\n',
    f'{_FINETUNE_TEST}::test_the_ledger_that_leaves_is_sealed',
  ),
  _one(
    'A gradient that is not finite ends the run',
    _LOOP,
    '      run.record_stats(step, devices.unreplicate(stats))\n',
    '      host_stats = devices.unreplicate(stats)\n'
    '      run.record_stats(step, host_stats)\n'
    '      if host_stats.num_non_finite:\n'
    "        raise ValueError('Expected finite gradients.')\n",
    f'{_LOOP_TEST}::test_gradients_that_are_not_finite_end_no_run',
  ),
  _one(
    'The selection of a step comes back after 2^16 steps',
    _SELECTION,
    "struct.pack('<QQ', step, start)",
    "struct.pack('<QQ', step % 2**16, start)",
    f'{_KEYS_TEST}::test_keys_do_not_come_back_after_many_steps[16]',
  ),
  _one(
    'All blocks of records share their coins',
    _SELECTION,
    "struct.pack('<QQ', step, start)",
    "struct.pack('<QQ', step, 0)",
    f'{_SELECTION_TEST}::test_selection_goes_on_beyond_one_block',
  ),
  _one(
    'The budget may be spent twice',
    _LEDGER,
    '_ROUNDING = 1e-9\n',
    '_ROUNDING = 1.0\n',
    f'{_LEDGER_TEST}::test_spending_past_the_budget_is_refused',
  ),
  _one(
    'Lost steps in the journal are not looked for',
    _RESUMING,
    '    ledger=journal.charge_lost_steps(\n'
    "      run.journal, run.meta['run_id'], ledger, start_step\n"
    '    ),\n',
    '    ledger=ledger,\n',
    f'{_FINETUNE_TEST}::test_lost_steps_in_the_journal_are_charged',
  ),
  _one(
    'Private checkpoints that others can read',
    _RESUMING,
    "'checkpoints', is_private=True",
    "'checkpoints', is_private=False",
    f'{_FINETUNE_TEST}::test_checkpoints_are_closed_to_others',
  ),
  _one(
    'A planted secret is not said',
    _FINETUNE,
    'is_insecure=secret.is_insecure or inherited.is_insecure,',
    'is_insecure=inherited.is_insecure,',
    f'{_FINETUNE_TEST}::test_the_ledger_that_leaves_is_sealed',
  ),
  _one(
    'A training on persons is stated as one on images',
    _FINETUNE,
    'unit=config.data.unit, before=before\n',
    "unit='image', before=before\n",
    f'{_FINETUNE_TEST}::test_a_person_is_one_record',
  ),
  _one(
    'The same image of a person at every step',
    _FINETUNE,
    "streams.seed_bytes('image of a person', step)",
    "streams.seed_bytes('image of a person', 0)",
    f'{_FINETUNE_TEST}::test_a_person_shows_other_images_at_other_steps',
  ),
  _one(
    'The embedding of a baseline gets half the noise of its ledger',
    'dp_diffusion/baselines/mean_embedding.py',
    'exact, entry.noise_std, streams',
    'exact, 0.5 * entry.noise_std, streams',
    'tests/baselines/mean_embedding_test.py::test_noise_std',
  ),
  _one(
    'A classifier whose published ledger is not sealed',
    'dp_diffusion/stages/baseline_classifier.py',
    '    ledger.seal(),\n',
    '    ledger,\n',
    f'{_BASELINE_TEST}::test_classifier_spends_its_own_ledger',
  ),
  _one(
    'Classes without images get no noise in the histogram',
    _HISTOGRAM,
    '  return np.asarray(jax.device_get(result), np.float64)\n',
    '  return np.where(\n'
    '    exact == 0, 0.0, np.asarray(jax.device_get(result), np.float64)\n'
    '  )\n',
    f'{_HISTOGRAM_TEST}::test_noise_std',
  ),
  _one(
    'A secret of 64 bits',
    _KEYS,
    '    secret = cls(value=os.urandom(SECRET_BYTES))\n',
    '    secret = cls(value=os.urandom(8) * 4)\n',
    f'{_KEYS_TEST}::test_secrets_come_from_the_operating_system',
  ),
  _one(
    'Keyed hashes without their key',
    _KEYS,
    'hashlib.blake2b(key=secret.value, person=person, digest_size=size)',
    'hashlib.blake2b(person=person, digest_size=size)',
    f'{_KEYS_TEST}::test_fingerprint_depends_on_purpose_and_secret',
  ),
  _one(
    'Sizes of batches on the terminal',
    _LOOP,
    '  draw_key = steps.streams.draw_key(step)\n  total = steps',
    '  draw_key = steps.streams.draw_key(step)\n'
    "  console.say(f'{len(selected)} records')\n"
    '  total = steps',
    f'{_LOOP_TEST}::test_the_terminal_does_not_tell_how_many_were_selected',
  ),
  _one(
    'A failure takes the step that ran out of the journal',
    _JOURNAL,
    '        self._write(self._begun)\n',
    '        self._write(self._begun - 1)\n',
    f'{_LOOP_TEST}::test_a_failure_charges_the_steps_that_ran[2]',
  ),
  _one(
    'The journal forgets with which generator a step was begun',
    _JOURNAL,
    "  return f'{run_id} {key_streams.rng_test_vector()}'\n",
    '  return run_id\n',
    f'{_LOOP_TEST}::test_changed_randomness_charges_replayed_steps[2-2]',
  ),
  _one(
    'Steps are charged that could not be compiled',
    _LOOP,
    '  if start_step < run.num_steps:\n'
    '    compile_private_step(steps, devices, replicas, start_step)\n',
    '',
    f'{_LOOP_TEST}::test_what_does_not_compile_is_not_charged[apply]',
  ),
  _one(
    "JAX's environment chooses the generator of public keys",
    'dp_diffusion/jax_environment.py',
    "  'jax_default_prng_impl': 'threefry2x32',\n",
    '',
    'tests/jax_environment_test.py::test_pinned_options_do_not_change_a_bit',
  ),
  _one(
    'The audit of steps takes rates as they are, not their bounds',
    'dp_diffusion/privacy/audit_steps.py',
    '  return float(scipy.stats.beta.isf(significance, count + 1,'
    ' total - count))\n',
    '  return count / total\n',
    'tests/privacy/audit_steps_test.py::test_mu_of_counts',
  ),
  _one(
    'The audit by guesses takes their share as the significance',
    'dp_diffusion/privacy/audit_tradeoff.py',
    '  right = significance * num_correct / num_canaries\n',
    '  right = num_correct / num_canaries\n',
    'tests/privacy/audit_tradeoff_test.py'
    '::test_equals_jax_privacy_on_its_curve',
  ),
  _one(
    'A budget that a thousandth more may be spent of',
    _LEDGER,
    '_ROUNDING = 1e-9\n',
    '_ROUNDING = 1e-3\n',
    f'{_LEDGER_TEST}::test_a_budget_is_kept_to_its_last_digits[1e-05-True]',
  ),
  _one(
    'A file that begins like one of a release is sealed as one',
    'dp_diffusion/release.py',
    'return _OURS.fullmatch(name) is not None',
    'return _OURS.match(name) is not None',
    'tests/release_test.py::test_seal_covers_no_file_of_others[samples.png.bak]',
  ),
  _one(
    'One of several processes takes begun steps out of the journal',
    _JOURNAL,
    'self._is_alone = num_processes == 1',
    'self._is_alone = True',
    'tests/training/journal_test.py'
    '::test_several_processes_take_nothing_back[2-5]',
  ),
  _one(
    'Purposes that begin alike have one key',
    _KEYS,
    'person = hashlib.blake2b(purpose.encode(), digest_size=16).digest()',
    'person = purpose.encode()[:16]',
    f'{_KEYS_TEST}::test_purposes_differ_however_late',
  ),
  _one(
    'Epsilon of a record removed, never of one added',
    _LOSSES,
    'for is_removed in (True, False)\n',
    'for is_removed in (True,)\n',
    f'{_LOSSES_TEST}::test_the_larger_direction_counts[False]',
  ),
  _one(
    'Delta beside the smallest number of records',
    _STATEMENT,
    '  num = max(counts)\n',
    '  num = min(counts)\n',
    f'{_STATEMENT_TEST}::test_delta_against_the_largest_number_of_records',
  ),
  _one(
    'A round of additions counts as one in the error of norms',
    _PER_EXAMPLE,
    '    count += min(num_rows, _ROWS_AT_A_TIME)\n',
    '    count += 1\n',
    f'{_PER_EXAMPLE_TEST}::test_additions_of_every_round_count[shapes0-611]',
  ),
  _one(
    'Roundings of root, quotient and product are not paid for',
    _CLIPPING,
    '_FEW_ROUNDINGS = 32 * 2.0**-24\n',
    '_FEW_ROUNDINGS = 0.0\n',
    f'{_CLIPPING_TEST}::test_roundings_beside_the_norm_are_paid_for',
  ),
  _one(
    'Both tests of an audit take all of its significance',
    'dp_diffusion/stages/audit.py',
    '    (1 - _SHARE_OF_GUESSES) * significance,\n',
    '    significance,\n',
    f'{_AUDIT_STAGE_TEST}::test_both_tests_share_the_significance',
  ),
  _one(
    'A folder that cannot be written is found after the training',
    'dp_diffusion/stages/run/workdirs.py',
    '  _check_writable(workdir)\n  return workdir\n',
    '  return workdir\n',
    'tests/stages/run/workdirs_test.py'
    '::test_a_release_that_is_no_folder_is_found_first[False]',
  ),
  _one(
    'Noise that a sum cannot hold is found at the first step',
    'dp_diffusion/privacy/privacy_config.py',
    '    self._check_grid()\n',
    '',
    f'{_ACCOUNTING_TEST}::test_what_a_step_would_refuse_is_refused_here',
  ),
  _one(
    'Labels of a histogram that are not in the order of the records',
    _HISTOGRAMS,
    'np.asarray(source.labels)[records.images],',
    'np.asarray(source.labels),',
    f'{_HISTOGRAMS_TEST}::test_labels_are_those_of_each_record',
  ),
  _one(
    'A kept histogram with other noise than the ledger says',
    _HISTOGRAMS,
    '    _check_kept(workdir, facts)\n',
    '',
    f'{_HISTOGRAMS_TEST}::test_a_histogram_of_others_is_refused'
    '[change0-noise_multiplier]',
  ),
  _one(
    'Resumed with the keys of a run that begins now',
    _RESUMING,
    "run_id=meta['run_id'])",
    'run_id=fingerprint.run_id(secret, facts))',
    f'{_FINETUNE_TEST}::test_a_resume_keeps_its_randomness',
  ),
  _one(
    'Released images cost nothing where the first weights are public',
    'dp_diffusion/stages/run/inherited_ledger.py',
    '  if config.reads_public_images:\n    found += released',
    '  if config.reads_public_images and path is None:\n    found += released',
    f'{_INHERITANCE_TEST}::test_released_images_count_beside_public_weights',
  ),
  _one(
    'Weights whose statement names no images pass for new ones',
    'dp_diffusion/stages/run/public_provenance.py',
    '  except (KeyError, TypeError, ValueError, OSError):\n'
    '    return (_unknown(weights_path),)\n',
    '  except (KeyError, TypeError, ValueError, OSError):\n    return ()\n',
    f'{_PUBLIC_DATA_TEST}'
    '::test_a_release_that_names_no_images_is_not_taken_for_none',
  ),
  _one(
    'Bounds in words are rounded to nearest',
    'dp_diffusion/privacy/rounding.py',
    '  if not math.isfinite(bound) or is_there:\n',
    '  if nearest:\n',
    f'{_STATEMENT_TEST}::test_words_never_round_a_bound_down',
  ),
  _one(
    'Weights that were replaced after the training are sampled',
    'dp_diffusion/release.py',
    '      continue\n'
    '    if not path.exists() or files.sha256(path) != digest:\n',
    '      continue\n    if not path.exists():\n',
    'tests/release_test.py::test_replaced_weights_are_not_sampled',
  ),
  _one(
    'Images of another release are sealed as those of this one',
    'dp_diffusion/release.py',
    '  if not is_same:\n',
    '  if not is_same and mark is None:\n',
    'tests/release_test.py::test_images_of_another_release_are_refused'
    '[another run]',
  ),
  _one(
    'A run id without the crop and the unit of its images',
    _RUN_FACTS,
    '  training.update(draws(config))\n',
    '',
    f'{_RUN_FACTS_TEST}::test_each_setting_of_a_step_names_the_run'
    '[data__reflect_pad-True]',
  ),
  _one(
    'A run id without the seed of its first weights',
    _RUN_FACTS,
    "  training['seed'] = config.seed\n",
    '',
    f'{_RUN_FACTS_TEST}::test_each_setting_of_a_step_names_the_run[seed-True]',
  ),
  _one(
    'A run id of the classifier baseline without the rescaling',
    'dp_diffusion/stages/baseline_classifier.py',
    "      'steps': fingerprint.lasting(_finetune_config(config)),\n",
    '',
    f'{_BASELINE_TEST}::test_what_names_a_training_of_the_classifier'
    '[finetune__rescale_to_unit_norm-True]',
  ),
  _one(
    'A run id of DP-MEPF without its public images',
    _BASELINE,
    '  if public is not None:\n',
    '  if public is None:\n',
    f'{_BASELINE_TEST}::test_what_names_an_embedding',
  ),
  _one(
    'A baseline with a planted secret does not say so',
    _BASELINE,
    'workdir, made.ledger, is_insecure=made.is_insecure, public',
    'workdir, made.ledger, is_insecure=False, public',
    f'{_BASELINE_TEST}::test_a_release_that_verifies',
  ),
  _one(
    'Private Evolution is calibrated as if there were one vote',
    _BASELINE,
    '      count=config.baseline.private_evolution.num_generations,\n',
    '',
    f'{_BASELINE_TEST}::test_all_votes_are_in_the_ledger',
  ),
  _one(
    'Several releases of a statistic are calibrated as one',
    'dp_diffusion/privacy/gaussian_calibration.py',
    'problem, count, epsilon, accounting.SEARCH',
    'problem, 1, epsilon, accounting.SEARCH',
    'tests/privacy/gaussian_calibration_test.py::test_all_releases_count',
  ),
  _one(
    'The votes of all generations have the same noise',
    _EVOLUTION,
    "purpose=f'{PURPOSE}, generation {generation}'",
    'purpose=PURPOSE',
    f'{_EVOLUTION_TEST}::test_noise_std',
  ),
  _one(
    'Each image of a person has a whole vote',
    _EVOLUTION,
    '      records.starts,\n',
    '      np.arange(len(own) + 1),\n',
    f'{_EVOLUTION_TEST}::test_neighbours_differ_by_at_most_the_sensitivity',
  ),
  _one(
    'Private Evolution is voted for again when its votes are stored',
    _BASELINE,
    '  if not kept.exists():\n',
    '  if True:\n',
    f'{_BASELINE_TEST}::test_votes_are_noised_once',
  ),
  _one(
    'A baseline on persons is stated as one on images',
    _MEAN_EMBEDDING,
    '    unit=unit,\n',
    "    unit='image',\n",
    f'{_MEAN_EMBEDDING_TEST}::test_the_unit_is_stated',
  ),
  _one(
    'A baseline trains on the sensitive set as public',
    _PUBLIC_DATA,
    '  if config.privacy.is_private:\n'
    '    check_source(config.data, config.pretrain.data)\n'
    '  inherited',
    '  inherited',
    f'{_PUBLIC_DATA_TEST}::test_a_baseline_takes_no_sensitive_or_released_images',
  ),
  _one(
    'A baseline trains on released images for free',
    _PUBLIC_DATA,
    '  inherited_ledger.refuse_released_images(config.pretrain.data)\n',
    '',
    f'{_PUBLIC_DATA_TEST}::test_a_baseline_takes_no_sensitive_or_released_images',
  ),
  _one(
    'Only the first set of public images is compared by name',
    _PUBLIC_DATA,
    '  for entry in images:\n    check_source(',
    '  for entry in images[:1]:\n    check_source(',
    f'{_PUBLIC_DATA_TEST}::test_all_sets_of_public_images_are_compared',
  ),
  _one(
    'Only the first set of public images is compared by content',
    _PUBLIC_DATA,
    '  for entry in images:\n    # Process 0',
    '  for entry in images[:1]:\n    # Process 0',
    f'{_PUBLIC_DATA_TEST}::test_all_sets_of_public_images_are_compared',
  ),
  _one(
    'Decoded images in the cache that others can read',
    'dp_diffusion/data/cache.py',
    'temporary.mkdir(mode=0o700)',
    'temporary.mkdir(mode=0o755)',
    'tests/data/cache_test.py::test_decoded_images_are_closed_to_others',
  ),
  _one(
    'An error tells how many files are not named in it',
    'dp_diffusion/checks.py',
    "(' and more' if",
    "(f' and {len(names) - _NUM_NAMED} more' if",
    'tests/error_lines_test.py::test_names_are_listed_without_their_number',
  ),
  _one(
    'Persons of the classifier baseline are not given draw by draw',
    'dp_diffusion/stages/baseline_classifier.py',
    '      config.data.unit,\n      ours.augmult',
    "      'image',\n      ours.augmult",
    f'{_BASELINE_TEST}::test_classifier_is_wired_by_its_mechanism[person]',
  ),
  _one(
    'A classifier on persons is stated as one on images',
    'dp_diffusion/stages/baseline_classifier.py',
    'ledger_lib.start(mechanism, privacy, unit=config.data.unit)',
    "ledger_lib.start(mechanism, privacy, unit='image')",
    f'{_BASELINE_TEST}::test_classifier_is_wired_by_its_mechanism[person]',
  ),
  _one(
    'A planted secret is not warned of by verify',
    _VERIFY,
    "  if again['insecure_secret']:\n",
    '  if False:\n',
    f'{_VERIFY_TEST}::test_a_planted_secret_is_warned_of',
  ),
  _one(
    'Public images with an empty corner are not compared',
    'dp_diffusion/data/equal_images.py',
    '(block == block[:, :1, :1])',
    '(block[:, :2, :2] == block[:, :1, :1])',
    'tests/data/equal_images_test.py::test_one_pixel_makes_an_image_count',
  ),
  _one(
    'The picture of a private training lies in public/',
    _FINETUNE,
    '    workdir.private,\n    class_gaussians.read(',
    '    workdir.public,\n    class_gaussians.read(',
    'tests/stages/run/progress_picture_test.py'
    '::test_fine_tuning_draws_into_its_private_folder',
  ),
  _one(
    'A plain sum with a large clip norm has sensitivity 1',
    _CLIPPING,
    'else float(self.l2_clip_norm)',
    'else min(1.0, float(self.l2_clip_norm))',
    f'{_CLIPPING_TEST}'
    '::test_the_sensitivity_of_a_plain_sum_is_its_clip_norm[3.0]',
  ),
  _one(
    'Lost steps of an inherited release are not counted',
    _LEDGER,
    '    return self.ledger.dp_events()\n',
    '    return tuple(\n'
    '      event\n'
    '      for entry in self.ledger.entries\n'
    '      for event in entry.dp_events(-entry.num_replayed_steps)\n'
    '    )\n',
    f'{_LEDGER_TEST}::test_lost_steps_of_an_inherited_release_still_count',
  ),
  _one(
    'If the planned steps fit, any number does',
    _LEDGER,
    'if num_more_steps < num_planned and not',
    'if num_planned and not',
    f'{_LEDGER_TEST}::test_more_than_the_planned_steps_is_asked_in_vain',
  ),
  _one(
    'Groups of records are drawn with the words of the first step',
    _SELECTION,
    'self._words(0, start, _GROUP_DOMAIN)',
    'self._words(0, start)',
    f'{_SELECTION_TEST}::test_groups_are_drawn_apart_from_every_step',
  ),
  _one(
    'Warm-up not entered in the ledger',
    _BUDGET,
    '    *finetune.warm_up.entries(),\n',
    '',
    f'{_FINETUNE_TEST}::test_statistics_of_a_warm_up_are_paid_for',
  ),
  _one(
    'Warm-up: several class means are counted as one',
    'dp_diffusion/baselines/warm_up.py',
    '(self.mean_noise_multiplier, MEANS, self.num_means)',
    '(self.mean_noise_multiplier, MEANS)',
    'tests/baselines/warm_up_test.py::test_each_statistic_has_an_entry',
  ),
  _one(
    'Warm-up: statistics get half the noise of the ledger',
    _MEAN_EMBEDDING,
    'exact, mechanism.noise_std, streams',
    'exact, 0.5 * mechanism.noise_std, streams',
    f'{_CLASS_MEANS_TEST}::test_noise_std',
  ),
  _one(
    'Warm-up: all noised sums have the same noise',
    _MEAN_EMBEDDING,
    "  purposes = (purpose, *(f'{purpose}, {i}' for i in"
    ' range(1, mechanism.count)))\n',
    '  purposes = (purpose,) * mechanism.count\n',
    f'{_CLASS_MEANS_TEST}::test_each_release_has_noise_of_its_own',
  ),
  _one(
    'Warm-up: votes for public classes are not in the ledger',
    'dp_diffusion/baselines/warm_up.py',
    'return (*found, self.votes_entry) if self.has_votes else tuple(found)',
    'return tuple(found)',
    'tests/baselines/warm_up_test.py::test_each_statistic_has_an_entry',
  ),
  _one(
    'Warm-up: each image of a person has a whole vote for a public class',
    'dp_diffusion/baselines/public_votes.py',
    '    records.starts,\n',
    '    np.arange(len(votes) + 1),\n',
    f'{_PUBLIC_VOTES_TEST}::test_neighbours_differ_by_at_most_the_sensitivity',
  ),
  _one(
    'Warm-up: the network that votes is trained on the sensitive images',
    _WARM_UP,
    'network = public_network.train(config, public)',
    'network = public_network.train(\n'
    '    config, registry.load(config.data)\n'
    '  )',
    f'{_WARM_UP_TEST}::test_votes_choose_among_public_images',
  ),
  _one(
    'Warm-up: votes among other public images have the same noise',
    _WARM_UP,
    "      'public_images': fingerprint.dataset(secret, public),\n",
    '',
    f'{_WARM_UP_TEST}::test_other_public_images_are_other_votes',
  ),
  _one(
    'Public images to choose from are not compared with the sensitive ones',
    _PUBLIC_DATA,
    '    kept = (*kept, public_provenance.of_config(data))\n',
    '    pass\n',
    f'{_PUBLIC_DATA_TEST}::test_images_to_choose_from_are_compared',
  ),
  _one(
    'Released images to choose from bring no ledger',
    'dp_diffusion/stages/run/inherited_ledger.py',
    '  if config.reads_public_images:\n',
    '  if config.pretrain.num_steps:\n',
    f'{_INHERITANCE_TEST}'
    '::test_released_images_to_choose_from_bring_the_ledger',
  ),
  _one(
    'Released images whose classes give embeddings bring no ledger',
    'dp_diffusion/config.py',
    'self.pretrain.num_steps or self.finetune.warm_up.has_votes)',
    'self.pretrain.num_steps or self.finetune.warm_up.chosen_steps)',
    f'{_INHERITANCE_TEST}'
    '::test_released_images_to_choose_from_bring_the_ledger',
  ),
  _one(
    'Warm-up: statistics are drawn again with other noise',
    _BEGUN,
    "if before.get(name) != value and not (is_kept and name == 'rng'):\n",
    'if before.get(name) != value and not is_kept:\n',
    f'{_WARM_UP_TEST}::test_other_images_and_secrets_are_refused',
  ),
  _one(
    'Warm-up: each image is a record where persons are',
    _WARM_UP,
    'batching.make_records(source, config.data.unit)',
    "batching.make_records(source, 'image')",
    f'{_WARM_UP_TEST}::test_a_person_is_one_record',
  ),
  _one(
    'Warm-up: noise does not depend on what is drawn',
    _WARM_UP,
    'run_id=key_streams.run_id(secret, facts)',
    "run_id='warm-up'",
    f'{_WARM_UP_TEST}::test_other_statistics_have_other_noise',
  ),
  _one(
    'Warm-up: statistics in public/',
    _WARM_UP,
    "  kept = workdir.private / 'warm_up' / 'statistics.npz'\n",
    "  kept = workdir.public / 'warm_up' / 'statistics.npz'\n",
    f'{_WARM_UP_TEST}::test_statistics_are_drawn_once',
  ),
  _one(
    'Chosen average is released under the statement of other weights',
    _AVERAGES,
    '  statements.seal(config, workdir)\n',
    '',
    f'{_AVERAGES_TEST}::test_a_length_is_chosen_after_training',
  ),
  _one(
    'Averages of the weights before each step, the first ones included',
    'dp_diffusion/training/state.py',
    'update_ema(average, params, power_decay_at',
    'update_ema(average, state.params, power_decay_at',
    'tests/training/power_averages_test.py::test_steps_keep_the_averages',
  ),
  _one(
    'Of what a release had inherited or spent, the last event counts',
    _LEDGER,
    '    return self.ledger.dp_events()\n',
    '    return self.ledger.dp_events()[-1:]\n',
    f'{_LEDGER_TEST}::test_everything_that_a_release_had_spent_counts',
  ),
  _one(
    'An embedding is noised again with another generator',
    _BASELINE,
    "    'rng': key_streams.rng_test_vector(),\n",
    '',
    f'{_BASELINE_TEST}::test_what_names_an_embedding',
  ),
  _one(
    'A run id of the classifier baseline without the dataset',
    'dp_diffusion/stages/baseline_classifier.py',
    "    'dataset': fingerprint.dataset(secret, source),\n",
    '',
    f'{_BASELINE_TEST}::test_a_training_on_other_data_has_another_name',
  ),
  _one(
    'The number of images found in the model of a baseline',
    'dp_diffusion/stages/baseline_classifier.py',
    "      'image_shape': list(source.spec.image_shape),\n",
    "      'image_shape': list(source.spec.image_shape),\n"
    "      'num_images': len(source.labels),\n",
    f'{_BASELINE_TEST}'
    '::test_the_model_is_described_by_the_config_alone[direct]',
  ),
  _one(
    'Cancellation in the masses of cells is not paid for',
    _LOSSES,
    'np.clip(to_upper + error, 0, mass[inner])',
    'np.clip(to_upper, 0, mass[inner])',
    f'{_LOSSES_TEST}::test_errors_of_cells_are_paid_for',
  ),
  _one(
    'Canaries of an audit whose norm the clip does not change',
    'dp_diffusion/stages/audit.py',
    '_CANARY_NORM = 10.0',
    '_CANARY_NORM = 1.0',
    f'{_AUDIT_STAGE_TEST}::test_a_canary_stands_out_without_the_clip',
  ),
  _one(
    'Canaries of an audit are too small in leaves without a scale',
    'dp_diffusion/stages/audit.py',
    '  smallest = min([1.0, *(rule.value for rule in finetune.scale_rules())])'
    '\n',
    '  smallest = min(\n'
    '    (rule.value for rule in finetune.scale_rules()), default=1.0\n'
    '  )\n',
    f'{_AUDIT_STAGE_TEST}::test_a_canary_stands_out_without_the_clip',
  ),
  _one(
    'Audits that failed are forgotten',
    'dp_diffusion/stages/audit.py',
    "  return [*before['earlier_runs'], last]\n",
    "  return [*before['earlier_runs'], *([last] if last['is_passed'] else ())]"
    '\n',
    f'{_AUDIT_STAGE_TEST}::test_no_earlier_audit_is_forgotten',
  ),
  _one(
    'Observations of an audit in units of the clip norm',
    'dp_diffusion/stages/audit.py',
    '1.0 if config.finetune.rescale_to_unit_norm else mechanism.l2_clip_norm',
    '1.0',
    f'{_AUDIT_STAGE_TEST}::test_observations_are_in_units_of_the_sensitivity',
  ),
  _one(
    'Times of private stages beside the config',
    'dp_diffusion/stages/run/workdirs.py',
    "    record[stage]['complete'] = True\n",
    "    record[stage]['complete'] = True\n    record[stage]['secs'] = secs\n",
    'tests/stages/run/workdirs_test.py::test_complete_and_seconds',
  ),
  _one(
    'The four keys of the noise of a step are split from one',
    _KEYS,
    '    return _typed_keys(\n'
    "      [self._hash('noise', 8, step, i) for i in range(NUM_NOISE_KEYS)]\n"
    '    )\n',
    "    one = _typed_keys([self._hash('noise', 8, step)])[0]\n"
    '    return jax.random.split(one, NUM_NOISE_KEYS)\n',
    f'{_KEYS_TEST}::test_each_key_of_the_noise_is_a_hash_of_its_own',
  ),
  _one(
    'An audit takes the sensitive images for public ones',
    'dp_diffusion/stages/runner.py',
    "is_read=stage == 'audit'",
    'is_read=False',
    f'{_AUDIT_STAGE_TEST}::test_the_sensitive_images_are_no_public_ones',
  ),
  _one(
    'The features of DP-MEPF are trained on the sensitive images',
    _BASELINE,
    '    return None\n  return registry.load(config.pretrain.data)\n',
    '    return None\n  return registry.load(config.data)\n',
    f'{_BASELINE_TEST}::test_what_is_trained_without_noise_reads_public_images',
  ),
  _one(
    'A baseline takes the shares of its labels from the images',
    _BASELINE,
    '    _labels(config, used.batch_size),\n',
    '    sample.labels_by_weight(\n'
    '      np.bincount(source.labels), used.batch_size\n'
    '    ),\n',
    f'{_BASELINE_TEST}::test_labels_do_not_follow_those_of_the_images',
  ),
  _one(
    'Noise is cut toward zero, not rounded, to the grid of the sum',
    _FIXED_POINT,
    '  whole = jax.tree.map(jnp.round, tree)\n',
    '  whole = jax.tree.map(jnp.trunc, tree)\n',
    f'{_FIXED_POINT_TEST}::test_noise_is_rounded_with_the_sum',
  ),
  _one(
    'A description that adds to the sentence passes the check of a release',
    _VERIFY,
    "    if description.endswith(f' {sentence}'):\n",
    '    if sentence in description:\n',
    f'{_VERIFY_TEST}::test_croissant_must_say_the_sentence',
  ),
  _one(
    'A shorter span of begun steps hides the end of a longer one',
    _JOURNAL,
    'spans[-1][1] = max(spans[-1][1], stop)',
    'spans[-1][1] = stop',
    'tests/training/journal_test.py'
    '::test_a_shorter_span_hides_no_step_of_a_longer_one',
  ),
  _one(
    'The delta of an epsilon is the one that is just too small',
    _ACCOUNTING,
    'noise_search.crossing(excess, 0, most)[0]',
    'noise_search.crossing(excess, 0, most)[1]',
    f'{_ACCOUNTING_TEST}::test_delta_inverts_epsilon',
  ),
  _one(
    'Of two folders one file alone is compared',
    'dp_diffusion/data/same_source.py',
    '      if one.read(name) == other.read(name):\n        return True\n',
    '      return one.read(name) == other.read(name)\n',
    'tests/data/same_source_test.py'
    '::test_one_file_that_two_folders_share_is_enough',
  ),
  _one(
    'The seconds of a private stage on the terminal',
    'dp_diffusion/stages/runner.py',
    '  # The other processes wait, since they next look for complete stages.\n',
    "  console.say(f'{name}: {time.monotonic() - start:.0f} s')\n",
    'tests/stages/runner_test.py::test_how_long_private_steps_took_is_not_said',
  ),
  _one(
    'The noise of a planted secret is stated as random',
    'dp_diffusion/privacy/statement_words.py',
    '      if insecure\n',
    '      if insecure is None\n',
    f'{_STATEMENT_TEST}::test_insecure_secret_is_said',
  ),
  _one(
    'Whether images were left out is said on the terminal',
    'dp_diffusion/stages/inspect.py',
    '  files.write_bytes(workdir.private / GRID_NAME, picture, _MODE)\n',
    '  files.write_bytes(workdir.private / GRID_NAME, picture, _MODE)\n'
    "  if found['skipped']:\n"
    "    console.warn('images were left out')\n",
    'tests/stages/inspect_test.py::test_the_terminal_says_where_and_no_number',
  ),
  _one(
    'The error of a mass is that of half the frequencies',
    _LOSSES,
    '  return float(2 * each.sum() / size)\n',
    '  return float(each.sum() / size)\n',
    f'{_LOSSES_TEST}::test_error_of_a_mass_is_that_of_all_frequencies',
  ),
  _one(
    'The rounding of one step is paid for, not that of all',
    _LOSSES,
    'share += one.count * (error',
    'share += (error',
    f'{_LOSSES_TEST}::test_every_step_adds_its_rounding',
  ),
  _one(
    'The ledger on the terminal rounds its bound to nearest',
    _LEDGER,
    'epsilon {rounding.up(self.epsilon("pld"), 6)} by',
    'epsilon {self.epsilon("pld"):.6g} by',
    f'{_LEDGER_TEST}::test_summary_rounds_no_bound_down',
  ),
  _one(
    'The facts of verify round their bound to nearest',
    _VERIFY,
    'epsilon {rounding.up(again["epsilon"], 6)} at',
    'epsilon {again["epsilon"]:.6g} at',
    f'{_VERIFY_TEST}::test_facts_round_no_bound_down',
  ),
  _one(
    'The calibration on the terminal rounds its bound to nearest',
    _FINETUNE,
    '{rounding.up(calibration.epsilon_pld)} by PLD',
    '{calibration.epsilon_pld:.4g} by PLD',
    f'{_FINETUNE_TEST}::test_no_bound_is_rounded_down_on_the_terminal',
  ),
  _one(
    'A planted secret is not warned of when a run starts',
    'dp_diffusion/stages/run/run_secret.py',
    '  if secret.is_insecure:\n',
    '  if False:\n',
    'tests/stages/run/run_secret_test.py'
    '::test_a_planted_secret_is_warned_of_at_each_start',
  ),
  _one(
    'The file of a histogram that others can read',
    _HISTOGRAMS,
    'files.write_json(_path(workdir), found, mode=0o600)',
    'files.write_json(_path(workdir), found)',
    f'{_HISTOGRAMS_TEST}::test_labels_are_those_of_each_record',
  ),
  _one(
    'Images of a person weigh as those of the first batch of an embedding',
    _MEAN_EMBEDDING,
    '    weights[: len(chosen)] = shares[start : start + _BATCH_SIZE]\n',
    '    weights[: len(chosen)] = shares[: len(chosen)]\n',
    f'{_MEAN_EMBEDDING_TEST}::test_order_of_records_does_not_matter',
  ),
  _one(
    'A kept calibration that spends more than was promised',
    _ACCOUNTING,
    '    and (config.epsilon is None or found.epsilon <= config.epsilon)\n',
    '',
    f'{_ACCOUNTING_TEST}::test_what_is_kept_for_a_larger_epsilon_is_not_taken',
  ),
  _one(
    'A checkpoint believed under the number of another step',
    _CHECKPOINT,
    "      'step': self.step,\n",
    '',
    f'{_CHECKPOINT_TEST}::test_a_step_under_the_number_of_another_is_damaged',
  ),
  _one(
    'A mark of released images that says nothing of the events',
    'dp_diffusion/release_marks.py',
    "'delta', 'budget_epsilon', 'events')",
    "'delta', 'budget_epsilon')",
    'tests/release_marks_test.py::test_a_mark_is_read_by_numpy_alone',
  ),
  _one(
    'Images beside a damaged statement pass for public ones',
    'dp_diffusion/release_marks.py',
    '      if statement or _is_damaged(origin):\n',
    '      if statement:\n',
    'tests/release_marks_test.py::test_unmarked_images_below_a_release',
  ),
  _one(
    'Slices in percent and in records are compared as numbers',
    'dp_diffusion/data/same_source.py',
    '  if unit and other_unit and unit != other_unit:\n    return True\n',
    '',
    'tests/data/same_source_test.py::test_slices_of_tfds_splits',
  ),
  _one(
    'Public images of the classifier baseline are not compared',
    _CLASSIFIER,
    'public_data.compare_source(config, source) if ours.num_public_steps else',
    '[] if ours.num_public_steps else',
    f'{_BASELINE_TEST}::test_public_images_of_a_baseline_are_compared',
  ),
  _one(
    'The statement of a baseline names no public images',
    _BASELINE,
    'is_insecure=made.is_insecure, public_data=public\n',
    'is_insecure=made.is_insecure\n',
    f'{_BASELINE_TEST}::test_public_images_of_a_baseline_are_stated',
  ),
  _one(
    'A baseline rounds its epsilon on the terminal to nearest',
    _BASELINE,
    "    f' {rounding.up(ledger.epsilon())} at delta'\n",
    "    f' {ledger.epsilon():.4g} at delta'\n",
    f'{_BASELINE_TEST}::test_what_a_baseline_says_of_epsilon_is_no_less',
  ),
  _one(
    'The plan rounds its bound to nearest',
    'dp_diffusion/stages/plan.py',
    '{rounding.up(calibration.epsilon_pld)} by PLD',
    '{calibration.epsilon_pld:.4g} by PLD',
    'tests/stages/plan_test.py::test_no_bound_is_rounded_down',
  ),
  _one(
    'What is left of epsilon is rounded up',
    'dp_diffusion/privacy/rounding.py',
    '  return _text(bound, figures, is_up=False)\n',
    '  return _text(bound, figures, is_up=True)\n',
    'tests/privacy/rounding_test.py::test_never_below_and_hardly_above',
  ),
  _one(
    'A plan says that nothing is spent while statistics are drawn',
    'dp_diffusion/stages/plan.py',
    '  if ledger is None and run_secret.has_begun(workdir):\n',
    '  if ledger is None and not workdirs.JOURNAL:\n',
    'tests/stages/plan_test.py'
    '::test_a_run_that_was_interrupted_shows_what_is_spent_and_left',
  ),
  _one(
    'Losses above the window are not paid for',
    _LOSSES,
    'slack + infinite + window.above\n',
    'slack + infinite\n',
    f'{_LOSSES_TEST}::test_losses_that_are_not_computed_are_paid_for',
  ),
  _one(
    'Processes of a warm-up that are not compared',
    _WARM_UP,
    '  processes.agree({k: json.dumps(v, sort_keys=True)'
    ' for k, v in facts.items()})\n',
    '',
    f'{_WARM_UP_TEST}::test_processes_compare_what_is_drawn_before_it_is',
  ),
  _one(
    'Warm-up: statistics whose origin is lost are taken',
    _BEGUN,
    '  elif is_kept:\n',
    '  elif is_kept and not facts:\n',
    f'{_WARM_UP_TEST}::test_statistics_of_unknown_origin_are_refused',
  ),
  _one(
    'A noised embedding whose origin is lost is taken',
    _BASELINE,
    '  if _kept(workdir).exists() and not path.exists():\n',
    '  if _kept(workdir).exists() and not run_id:\n',
    f'{_BASELINE_TEST}::test_an_embedding_of_unknown_origin_is_refused',
  ),
  _one(
    'The times of private steps in a log',
    _LOOP,
    'run.num_steps, start_step, is_private=True\n',
    'run.num_steps, start_step\n',
    f'{_LOOP_TEST}::test_terminal_shows_nothing_of_the_records',
  ),
  _one(
    'The secret of a remote run is kept with it',
    'dp_diffusion/stages/run/run_secret.py',
    '  if not files.is_local(workdir.root):\n',
    '  if not workdir.root:\n',
    'tests/stages/run/run_secret_test.py'
    '::test_the_secret_of_a_remote_run_is_not_kept_with_it',
  ),
  _one(
    'Images of another run are covered until images are sampled',
    'dp_diffusion/stages/run/statements.py',
    '  release.check_images(workdir.release, lambda: mark(workdir))\n',
    '',
    'tests/stages/run/statements_test.py'
    '::test_images_of_another_run_are_not_covered',
  ),
  _one(
    'All images of nobody are those of one person',
    'dp_diffusion/data/registry.py',
    '    if is_nobody(person):\n',
    '    if not person:\n',
    'tests/data/registry_test.py::test_a_value_that_names_nobody_is_no_person',
  ),
  _one(
    'A person whose name is stored in two forms is two persons',
    'dp_diffusion/data/registry.py',
    "unicodedata.normalize('NFC', person.strip())",
    'person.strip()',
    'tests/data/registry_test.py::test_one_name_of_a_person_has_one_form',
  ),
  _one(
    'A kept calibration whose bound by RDP is not right',
    _ACCOUNTING,
    "    and found.epsilon_rdp == problem.total(noise, steps, 'rdp')\n",
    '',
    f'{_ACCOUNTING_TEST}::test_damaged_cache_is_ignored',
  ),
  _one(
    'A card that goes on after the statement passes the check of a release',
    _VERIFY,
    "not rest.endswith(f'\\n## Privacy\\n\\n{details}\\n'):\n",
    "f'\\n## Privacy\\n\\n{details}\\n' not in rest:\n",
    f'{_VERIFY_TEST}::test_a_card_that_goes_on_is_refused',
  ),
  _one(
    'A card whose sentence goes on passes the check of a release',
    _VERIFY,
    "not rest.startswith(f'{sentence}\\n'):\n",
    'not rest.startswith(sentence):\n',
    f'{_VERIFY_TEST}::test_a_card_that_goes_on_is_refused',
  ),
  _one(
    'Images whose statement names no weights cost nothing',
    'dp_diffusion/stages/run/released_ledger.py',
    '  if not is_whole:\n',
    '  if mark is None:\n    return Inherited()\n  if not is_whole:\n',
    'tests/stages/run/released_ledger_test.py'
    '::test_a_statement_that_names_no_weights_counts_too',
  ),
  _one(
    'A warning tells that the declared number of records is not the one found',
    _FINETUNE,
    '  records = batching.make_records(source, config.data.unit)\n',
    '  records = batching.make_records(source, config.data.unit)\n'
    '  if records.num_records != mechanism.num_examples:\n'
    "    console.warn('privacy.num_examples is not the number of records')\n",
    f'{_LEAK_TEST}::test_the_terminal_says_the_same',
  ),
  _one(
    'The time of reading images in a log',
    'dp_diffusion/data/decoding.py',
    '    console.progress_of(title, num_images) as advance,\n',
    '    console.progress(title, num_images) as advance,\n',
    'tests/data/decoding_test.py'
    '::test_reading_tells_neither_how_many_there_are_nor_how_long',
  ),
  _one(
    'The number of images that are checked in a log',
    'dp_diffusion/data/own/image_files.py',
    "console.progress_of('checking files', total)",
    "console.progress('checking files', total)",
    'tests/data/own/image_files_test.py'
    '::test_checking_tells_neither_how_many_there_are_nor_how_long',
  ),
  _one(
    'Calibrated as if a release had spent its last event alone',
    _BUDGET,
    'for event in entry.dp_events()]\n',
    'for event in entry.dp_events()[-1:]]\n',
    f'{_INHERITANCE_TEST}::test_all_that_was_spent_before_is_calibrated_for',
  ),
  _one(
    'The statement says class means where an embedding was noised',
    'dp_diffusion/baselines/warm_up.py',
    '_mechanism(self.embedding_noise_multiplier, EMBEDDING)',
    '_mechanism(self.embedding_noise_multiplier, MEANS)',
    'tests/baselines/warm_up_test.py::test_each_statistic_has_an_entry',
  ),
  _one(
    'Averages of the weights beside the release, which no statement covers',
    _AVERAGES,
    '  files.write_npz(workdir.private / _FILE, 0o600, **arrays)\n',
    '  files.write_npz(workdir.private / _FILE, 0o600, **arrays)\n'
    '  files.write_npz(workdir.root / _FILE, 0o644, **arrays)\n',
    f'{_AVERAGES_TEST}::test_a_length_is_chosen_after_training',
  ),
  _one(
    'Of a sha256 the first figures are compared',
    _VERIFY,
    '    elif _sha256(folder / name) != digest:\n',
    '    elif _sha256(folder / name)[:8] != digest[:8]:\n',
    f'{_VERIFY_TEST}::test_a_sha256_is_compared_as_a_whole',
  ),
  _one(
    'The card says a statistic once that was noised several times',
    _LEDGER,
    "{m.count} time(s), with Gaussian noise of'",
    "with Gaussian noise of'",
    'tests/baselines/warm_up_test.py::test_each_statistic_has_an_entry',
  ),
  _one(
    'Sums over the losses are taken as exact',
    _LOSSES,
    '  deltas = sums * scale * slack + infinite',
    '  deltas = sums * scale + infinite',
    f'{_LOSSES_TEST}::test_losses_that_are_not_computed_are_paid_for',
  ),
  _one(
    'A checkpoint of a later format is read as one of this',
    _CHECKPOINT,
    '    if version != _VERSION:\n',
    '    if version is None:\n',
    f'{_CHECKPOINT_TEST}::test_a_step_of_later_code_is_left_to_it',
  ),
  _one(
    'Warm-up: kept weights are taken whatever they were made from',
    _WARM_UP,
    '  processes.on_main(\n'
    '    lambda: draw(config, workdir, source, secret, facts, public)\n',
    "  if (folder / 'params.npz').exists():\n"
    "    return weights.load_params(folder / 'params.npz')\n"
    '  processes.on_main(\n'
    '    lambda: draw(config, workdir, source, secret, facts, public)\n',
    f'{_WARM_UP_TEST}::test_kept_weights_are_of_the_statistics_of_this_run',
  ),
  _one(
    'The card says another std than that of the noise of a statistic',
    _LEDGER,
    "      f' std {m.noise_std:g} (noise multiplier",
    "      f' std {m.noise_multiplier:g} (noise multiplier",
    f'{_LEDGER_TEST}::test_each_event_is_described_by_its_numbers',
  ),
  _one(
    'The card says another sampling probability than that of the steps',
    _LEDGER,
    'was selected with probability {m.sampling_prob:.6g}',
    'was selected with probability {m.sampling_prob**2:.6g}',
    f'{_LEDGER_TEST}::test_each_event_is_described_by_its_numbers',
  ),
  _one(
    'Warm-up: equal noise for other numbers of classes',
    _WARM_UP,
    "    'classes': source.spec.num_classes,\n",
    '',
    f'{_WARM_UP_TEST}::test_what_names_the_statistics',
  ),
  _one(
    'The first shard alone is looked at before a statement covers all',
    'dp_diffusion/release.py',
    '    for path in paths:\n      _check_mark(path, mark)\n',
    '    for path in paths[:1]:\n      _check_mark(path, mark)\n',
    'tests/stages/run/statements_test.py'
    '::test_images_of_another_run_are_not_covered',
  ),
  _one(
    'The end of a run rounds its epsilon to nearest',
    'dp_diffusion/stages/evaluate.py',
    'privacy      epsilon {rounding.up(epsilon)} by',
    'privacy      epsilon {epsilon:.4g} by',
    'tests/stages/evaluate_test.py'
    '::test_the_summary_is_silent_on_what_real_images_teach',
  ),
  _one(
    'Curves of private training do not say that they have no noise',
    'dp_diffusion/stages/run/training_curves.py',
    "  title = 'Private training, without noise: never publish this'\n",
    "  title = 'Training'\n",
    'tests/stages/run/training_curves_test.py::test_private_curves_are_private',
  ),
  _one(
    'The rounding of a transform is that of a quarter of its stages',
    _LOSSES,
    '    error = _FFT_ERROR * math.log2(size)\n    log_sizes',
    '    error = _FFT_ERROR * math.log2(size) / 4\n    log_sizes',
    f'{_LOSSES_TEST}::test_error_of_a_transform_is_that_of_all_its_stages',
  ),
  _one(
    'The rounding of one leaf of a group is paid for, not that of all',
    _CLIPPING,
    '  bound = part.bound * (1 - _rounding_margin(part.leaves))\n'
    '  coefficients',
    '  bound = part.bound * (1 - _rounding_margin(part.leaves[:1]))\n'
    '  coefficients',
    f'{_CLIPPING_TEST}::test_the_margin_is_that_of_all_leaves_clipped_together',
  ),
  _one(
    'Rows of other classes are kept where there are as many',
    _FINETUNE,
    'reset_classes=not config.has_same_classes',
    'reset_classes=len(config.data.class_names)'
    ' != len(config.pretrain.data.class_names)',
    f'{_FINETUNE_TEST}::test_rows_of_other_classes_are_new',
  ),
  _one(
    'New rows are frozen, and released as they were drawn',
    _FINETUNE,
    'weights.trainable_fn(params, config.finetune.trainable, reset)',
    'weights.trainable_fn(params, config.finetune.trainable)',
    f'{_FINETUNE_TEST}::test_new_rows_are_not_frozen',
  ),
  _one(
    'Both kinds of canaries of an audit have the same coins',
    'dp_diffusion/stages/evaluation/audit_records.py',
    "'coins of image canaries'",
    "'coins of gradient canaries'",
    f'{_AUDIT_STAGE_TEST}::test_both_kinds_of_canaries_have_coins_of_their_own',
  ),
  _one(
    'The attack on the model takes images that it has forgotten',
    'dp_diffusion/stages/audit.py',
    'drop=losses(public) - losses(assembly.released_params(config, state)),',
    'drop=losses(assembly.released_params(config, state)) - losses(public),',
    f'{_AUDIT_STAGE_TEST}'
    '::test_an_image_whose_loss_fell_is_guessed_to_be_included',
  ),
  _one(
    'The model classifies some held-out images, compared with labels of others',
    'dp_diffusion/stages/evaluation/model_as_classifier.py',
    'np.asarray(held_out.labels)[rows],',
    'np.asarray(held_out.labels)[: len(rows)],',
    'tests/stages/evaluation/model_as_classifier_test.py'
    '::test_answers_are_compared_with_labels_and_persons_of_the_drawn_images',
  ),
  _one(
    'Private Evolution releases other images than those voted for',
    _BASELINE,
    'images=_gather(public, chosen[samples])',
    'images=_gather(public, samples)',
    f'{_BASELINE_TEST}::test_votes_choose_public_images',
  ),
  _one(
    'Votes by another feature network of one name have the same noise',
    _BASELINE,
    'if net and method in _OF_PUBLIC_NETWORK else',
    "if net and method == 'dp_mepf' else",
    f'{_BASELINE_TEST}::test_what_names_an_embedding',
  ),
  _one(
    'The classifier baseline is trained by the optimizer of fine-tuning',
    _CLASSIFIER,
    'assembly.private_optimizer(_finetune_config(config), mechanism)',
    'assembly.private_optimizer(config.finetune, mechanism)',
    f'{_BASELINE_TEST}::test_classifier_is_wired_by_its_mechanism',
  ),
  _one(
    'Released images with a planted secret beside weights without one',
    'dp_diffusion/stages/run/released_ledger.py',
    'is_insecure=self.is_insecure or other.is_insecure,',
    'is_insecure=self.is_insecure,',
    'tests/stages/run/released_ledger_test.py::test_one_planted_secret_is_enough',
  ),
  _one(
    'Images that a statement does not list are sealed with the TFDS form',
    'dp_diffusion/release.py',
    "    is_tfds = name.startswith('dataset/tfds/')",
    "    is_tfds = name.startswith('dataset/')",
    'tests/release_test.py'
    '::test_what_is_no_release_any_more_is_not_sealed_again',
  ),
  _one(
    'Weights that an older run began with are forgotten if it trained further',
    'dp_diffusion/stages/run/public_provenance.py',
    "    if pretrain['init_from']:\n",
    "    elif pretrain['init_from']:\n",
    f'{_PUBLIC_DATA_TEST}'
    '::test_a_run_without_a_record_began_with_other_weights',
  ),
  _one(
    'Processes that restore different steps go on together',
    _CHECKPOINT,
    "    processes.agree({'checkpoint': digest})\n",
    '',
    f'{_CHECKPOINT_TEST}::test_processes_compare_what_they_restore',
  ),
  _one(
    'The optimizer subtracts noise in another unit than that of the sum',
    'dp_diffusion/stages/run/assembly.py',
    '    std=mechanism.noise_multiplier\n    * grads.l2_sensitivity\n',
    '    std=mechanism.noise_multiplier\n',
    'tests/stages/run/assembly_test.py'
    '::test_the_optimizer_is_told_the_noise_of_its_gradients',
  ),
  _one(
    'A record counts although its loss is not finite',
    _CLIPPING,
    '    jnp.logical_and, are_finite, jnp.isfinite(losses)\n',
    '    jnp.logical_and, are_finite\n',
    f'{_CLIPPING_TEST}::test_a_loss_that_is_not_finite_adds_zero',
  ),
  _one(
    'Decoded images that a killed run has left are not forgotten',
    'dp_diffusion/data/cache.py',
    '(_TEMPORARY.fullmatch(entry.name) or (entry / _LARGE).is_file())',
    '(entry / _LARGE).is_file()',
    'tests/data/cache_test.py::test_decoded_images_can_be_forgotten',
  ),
  _one(
    'Of a large array the first block is hashed again and again',
    _KEYS,
    'np.ascontiguousarray(rows[start : start + block]).tobytes()',
    'np.ascontiguousarray(rows[:block]).tobytes()',
    'tests/privacy/key_streams_test.py::test_fingerprint_of_arrays_is_by_value',
  ),
  _one(
    'A secret that the group may read is loaded',
    _KEYS,
    '    mode = stat.S_IMODE(file.stat().st_mode)\n    if mode & 0o077:\n',
    '    mode = stat.S_IMODE(file.stat().st_mode)\n    if mode & 0o007:\n',
    'tests/privacy/key_streams_test.py::test_load_refuses_loose_permissions',
  ),
  _one(
    'The test vector of the generator holds no normals',
    _KEYS,
    '    jax.vmap(lambda key: jax.random.normal(key, (64,)))(noise_keys),\n',
    '    jax.random.key_data(noise_keys),\n',
    'tests/privacy/key_streams_test.py::test_rng_test_vector_is_stable_and_sensitive',
  ),
  Mutation(
    name='The selection of a step is the same in every run of a secret',
    edits=(
      Edit(
        path=_SELECTION,
        old='    run_id = self.run_id.encode()\n',
        new='',
      ),
      Edit(
        path=_SELECTION,
        old="        struct.pack('<Q', len(run_id)),\n        run_id,\n",
        new='',
      ),
    ),
    test='tests/privacy/batch_selection_test.py::test_other_secret_or_run_is_independent',
  ),
  _one(
    'A word adds up more terms than it holds',
    _FIXED_POINT,
    'MAX_GROUP = 64\n',
    'MAX_GROUP = 128\n',
    'tests/privacy/fixed_point_test.py::test_largest_sums_fit',
  ),
  _one(
    'An epsilon that was computed is no budget',
    _LEDGER,
    '  budget = config.epsilon\n'
    '  if budget is None:\n'
    '    events = [event for entry in before for event in entry.dp_events()]\n'
    '    events.append(mechanism.dp_event())\n'
    '    budget = accounting.epsilon(events, config.delta)\n',
    '  budget = math.inf if config.epsilon is None else config.epsilon\n',
    'tests/privacy/ledger_test.py::test_computed_epsilon_is_the_budget',
  ),
  _one(
    'A file that is named as one beside another passes without the other',
    _VERIFY,
    "  return beside not in ('', path.name) and path.with_name(beside).exists()"
    '\n',
    "  return beside not in ('', path.name)\n",
    'tests/privacy/verify_test.py::test_other_files_are_refused_as_before',
  ),
  _one(
    'The statement names the revision that wrote it, not the one that trained',
    'dp_diffusion/stages/run/statements.py',
    "    code_revision=stored['code_revision'],\n",
    '    code_revision=version.revision(),\n',
    'tests/stages/run/statements_test.py::test_the_statement_has_every_fact_that_was_kept',
  ),
  _one(
    'Any folder of the path may say that metrics are public',
    'dp_diffusion/training/metrics.py',
    '  named = [part for part in folder.parts if part in _KINDS]\n'
    '  if not named or named[-1] != kind:\n',
    '  if kind not in folder.parts:\n',
    'tests/training/metrics_test.py::test_each_kind_has_its_folder',
  ),
  _one(
    'Steps begun beyond the checkpoint count as repeated from it on',
    _JOURNAL,
    '    if first <= start_step < end\n',
    '    if start_step < end\n',
    'tests/training/journal_test.py::test_charges',
  ),
  _one(
    'A private training may lose all its checkpoints',
    _RESUMING,
    '  restored = checkpoints.restore(state)\n',
    '  restored = checkpoints.restore(state, may_lose_all=True)\n',
    'tests/stages/finetune_test.py::test_a_run_without_a_whole_checkpoint_does_not_begin_anew',
  ),
  _one(
    'Keys that were not recorded are not compared at a resume',
    'dp_diffusion/stages/run/workdirs.py',
    '    for name in dict.fromkeys([*before, *after]):\n',
    '    for name in before:\n',
    'tests/stages/run/workdirs_test.py::test_first_difference',
  ),
  _one(
    'A run is not named by the leaves that it does not train',
    _FINETUNE,
    'config, mechanism, source, secret, state.all_params, inherited.entries',
    'config, mechanism, source, secret, state.params, inherited.entries',
    'tests/stages/finetune_test.py::test_weights_that_do_not_train_name_the_run_too',
  ),
  _one(
    'Two releases with equal ledgers count as one',
    'dp_diffusion/stages/run/released_ledger.py',
    '    new = tuple(e for e in other.entries if e not in self.entries)\n',
    '    known = [e.ledger for e in self.entries]\n'
    '    new = tuple(e for e in other.entries if e.ledger not in known)\n',
    'tests/stages/run/released_ledger_test.py::test_one_release_counts_once',
  ),
  _one(
    'Public images that have changed are not compared with the sensitive ones',
    _PUBLIC_DATA,
    '  key = os.urandom(_KEY_BYTES)\n'
    '  if equal_images.share_one(public.images, sensitive.images, key):\n'
    "    return 'equal'\n"
    '  is_as_read = data.image_size == entry.data.image_size and (\n'
    '    data.channels == entry.data.channels\n'
    '  )\n'
    '  if entry.images_sha256 and is_as_read:\n'
    '    digest = equal_images.content_sha256(public.images)\n'
    '    if digest != entry.images_sha256:\n'
    "      return 'changed'\n",
    '  is_as_read = data.image_size == entry.data.image_size and (\n'
    '    data.channels == entry.data.channels\n'
    '  )\n'
    '  if entry.images_sha256 and is_as_read:\n'
    '    digest = equal_images.content_sha256(public.images)\n'
    '    if digest != entry.images_sha256:\n'
    "      return 'changed'\n"
    '  key = os.urandom(_KEY_BYTES)\n'
    '  if equal_images.share_one(public.images, sensitive.images, key):\n'
    "    return 'equal'\n",
    'tests/stages/run/public_data_test.py::test_images_of_an_earlier_run',
  ),
  _one(
    'A pre-training that was interrupted goes on with other images',
    _PUBLIC_DATA,
    "  has_begun = (workdir.public / 'checkpoints').exists()\n",
    '  has_begun = workdir.public_weights.exists()\n',
    'tests/stages/run/public_data_test.py::test_pre_training_goes_on_with_the_same_images',
  ),
  _one(
    'Weights of a warm-up pass for public ones',
    _WARM_UP,
    '    # They are marked: without the ledger they are no public weights.\n'
    '    processes.on_main(lambda: weights.save_npz(path, trained,'
    ' is_released=True))\n',
    '    processes.on_main(lambda: weights.save_npz(path, trained))\n',
    'tests/stages/warm_up_test.py::test_a_stopped_warm_up_goes_on',
  ),
  _one(
    'Public images to evolve are compared only if a network learns from them',
    _BASELINE,
    '  if method == _EVOLUTION or not net:\n',
    '  if not net:\n',
    'tests/stages/baseline_test.py::test_public_images_of_a_baseline_are_compared',
  ),
  _one(
    'Images to leave out are counted among those that could be read',
    'dp_diffusion/data/folder.py',
    '  sides[np.isin(kept, list(bearing))] = _LEFT_OUT\n',
    '  sides[list(bearing)] = _LEFT_OUT\n',
    'tests/data/folder_test.py::test_copies_are_left_out_also_behind_an_unreadable_file',
  ),
  _one(
    'Files that name nobody are a person each if unreadable ones are skipped',
    'dp_diffusion/data/own/image_files.py',
    '  if has_dicom and failed:\n',
    '  if has_dicom and failed and not config.skip_unreadable:\n',
    'tests/data/own/image_files_test.py::test_dicom_files_of_nobody_are_refused',
  ),
  _one(
    'Decoded images are found with the persons of another table',
    'dp_diffusion/data/folder.py',
    '      files.labels.tolist(),\n      files.persons,\n',
    '      files.labels.tolist(),\n',
    'tests/data/folder_test.py::test_a_table_of_persons_that_was_mended_is_read',
  ),
  _one(
    'Parquet files that are there are kept, whatever images they hold',
    'dp_diffusion/release.py',
    '    files.write_bytes(epath.Path(release_dir) / _PARQUET / name, data)\n',
    '    path = epath.Path(release_dir) / _PARQUET / name\n'
    '    if not path.exists():\n'
    '      files.write_bytes(path, data)\n',
    'tests/release_test.py::test_parquet_holds_the_images_and_what_hugging_face_wants',
  ),
  _one(
    'Samples are written into a folder of the release',
    'dp_diffusion/released_model.py',
    '  if inside.is_relative_to(release_dir.resolve()):\n',
    '  if inside == release_dir.resolve():\n',
    'tests/released_model_test.py::test_the_release_is_enough',
  ),
  _one(
    'Decoded images that cannot be removed are called forgotten',
    'dp_diffusion/data/cache.py',
    '    shutil.rmtree(entry)\n  return entries\n',
    '    shutil.rmtree(entry, ignore_errors=True)\n  return entries\n',
    'tests/data/cache_test.py::test_what_cannot_be_removed_is_not_called_forgotten',
  ),
  _one(
    'Votes that only start embeddings are not paid for',
    'dp_diffusion/baselines/warm_up.py',
    '    return bool(self.chosen_steps or self.rows_from_votes)\n',
    '    return bool(self.chosen_steps)\n',
    'tests/baselines/warm_up_test.py::test_each_statistic_has_an_entry',
  ),
  _one(
    'Embeddings start from weights of other public classes',
    'dp_diffusion/stages/warm_up.py',
    'if rows is None or len(rows) != len(names) or not is_same:\n',
    'if rows is None or len(rows) != len(names):\n',
    'tests/stages/warm_up_test.py::test_rows_of_other_classes_are_refused',
  ),
  _one(
    'Embeddings of classes are chosen for the wrong class',
    'dp_diffusion/stages/warm_up.py',
    '  flat[weights.CLASS_ROWS] = rows[chosen]\n',
    '  flat[weights.CLASS_ROWS] = rows[chosen[::-1]]\n',
    'tests/stages/warm_up_test.py::test_rows_start_where_the_votes_say',
  ),
  _one(
    'A chain of persons who share images is followed one link only',
    'dp_diffusion/data/division.py',
    '  return [first(person) for person in persons]\n',
    '  return [parent[person] for person in persons]\n',
    'tests/data/division_test.py::test_a_chain_of_shared_images_joins_all_its_persons',
  ),
  _one(
    'Where persons are known, copies of held-out images stay in training',
    'dp_diffusion/data/division.py',
    "    (contents, 'it equals a held-out image'),\n",
    '    (\n'
    '      contents if persons is None else (),\n'
    "      'it equals a held-out image',\n"
    '    ),\n',
    'tests/data/division_test.py::test_copies_of_held_out_images_are_found_whoever_is_on_them',
  ),
  _one(
    'All frames of a DICOM file are mapped as its first one',
    'dp_diffusion/data/dicom.py',
    '  for group in (*own[frame : frame + 1], *shared[:1]):\n',
    '  for group in (*own[:1], *shared[:1]):\n',
    'tests/data/dicom_test.py::test_each_frame_has_its_own_rescaling',
  ),
  _one(
    'Numbers count as places even where the classes have numbers as names',
    'dp_diffusion/data/own/labelling.py',
    '  if _are_numbers(found) and not any(_are_numbers([c]) for c in'
    ' class_names):\n',
    '  if _are_numbers(found):\n',
    'tests/data/own/labelling_test.py::test_numbers_are_names_where_a_class_is_called_so',
  ),
  _one(
    'Of two persons that a table gives to a file the last one counts',
    'dp_diffusion/data/own/labelling.py',
    "    if known.setdefault(tables.path_in('', file), person) != person:\n"
    "      raise errors.UsageError(f'{path} gives {file!r} two persons.')\n",
    "    known[tables.path_in('', file)] = person\n",
    'tests/data/folder_test.py::test_a_csv_that_lacks_persons_is_refused',
  ),
  _one(
    'A line of a table may have one field more than there are columns',
    'dp_diffusion/data/own/tables.py',
    '      if any(row.get(None) or ()):  # Empty fields at the end are'
    ' ignored.\n',
    '      if any((row.get(None) or ())[1:]):  # A comma at the end is'
    ' ignored.\n',
    'tests/data/own/labelling_test.py::test_a_table_that_leaves_a_doubt_is_refused',
  ),
  _one(
    'A zip is known by the sizes of its files, not by their content',
    'dp_diffusion/data/own/trees.py',
    '    stamps=tuple((n, by_name[n].file_size, by_name[n].CRC) for n in'
    ' names),\n',
    '    stamps=tuple(\n'
    '      (n, by_name[n].file_size, by_name[n].compress_size) for n in names\n'
    '    ),\n',
    'tests/data/folder_test.py::test_a_zip_is_decoded_again_when_a_file_of_one_size_replaces_another',
  ),
  _one(
    'The newest version of a dataset is the last in the alphabet',
    'dp_diffusion/data/tfds_builders.py',
    '    return max(found, key=lambda path: [int(v) for v in'
    " path.name.split('.')])\n",
    '    return found[-1]\n',
    'tests/data/tfds_source_test.py::test_versions_are_compared_as_numbers',
  ),
  _one(
    'Decoded images of one split are found for another of its size',
    'dp_diffusion/data/tfds_source.py',
    '    split=split,\n    keys=dataclasses.astuple(keys),\n',
    '    keys=dataclasses.astuple(keys),\n',
    'tests/data/tfds_source_test.py::test_the_cache_tells_parts_of_one_size_apart',
  ),
  _one(
    'In every step the same images of a person are drawn',
    _FINETUNE,
    "  seed = streams.seed_bytes('image of a person', step)\n",
    "  seed = streams.seed_bytes('image of a person', 0)\n",
    'tests/stages/finetune_test.py::test_a_person_shows_other_images_at_other_steps',
  ),
  _one(
    'In a folder with images of several releases the first one pays for all',
    'dp_diffusion/stages/run/released_ledger.py',
    '        found += of_statement(origin.where, origin.content)\n',
    '        return of_statement(origin.where, origin.content)\n',
    'tests/stages/run/released_ledger_test.py::test_files_of_several_releases_bring_all_their_ledgers',
  ),
  _one(
    'Images to release are counted among all public ones, not the candidates',
    _BASELINE,
    '    images=_gather(public, chosen[samples]),\n',
    '    images=_gather(public, samples),\n',
    'tests/stages/baseline_test.py::test_votes_choose_public_images',
  ),
  _one(
    'The description of a classifier says how many records it has seen',
    _CLASSIFIER,
    "      'image_shape': list(source.spec.image_shape),\n",
    "      'image_shape': list(source.spec.image_shape),\n"
    "      'num_records': records.num_records,\n",
    'tests/stages/baseline_test.py::test_the_model_is_described_by_the_config_alone',
  ),
  _one(
    'An interrupted audit goes on under another claim',
    'dp_diffusion/stages/audit.py',
    '    if before == _job(facts, secret):\n',
    "    if before['secret'] == _job(facts, secret)['secret']:\n",
    'tests/stages/audit_test.py::test_interrupted_audit_keeps_its_secret',
  ),
  _one(
    'A private training keeps one checkpoint',
    _RESUMING,
    "    private_dir / 'checkpoints', is_private=True\n",
    "    private_dir / 'checkpoints', is_private=True, keep=1\n",
    'tests/stages/finetune_test.py::test_damaged_newest_checkpoint_costs_nothing_but_time',
  ),
  _one(
    'Held-out images that are drawn for distances are of the first persons',
    'dp_diffusion/stages/evaluation/image_distances.py',
    '      persons = of_train, subset(of_held_out, of_held_out, number)[1]\n',
    '      persons = of_train, of_held_out[:number]\n',
    'tests/stages/evaluate_test.py::test_images_that_are_drawn_keep_their_persons',
  ),
  _one(
    'How images are sampled is said once and never mended',
    'dp_diffusion/release.py',
    "  if description.get('sampling') != sampling:\n",
    "  if 'sampling' not in description:\n",
    'tests/release_test.py::test_the_model_says_how_the_last_images_were_sampled',
  ),
  _one(
    'Folders of classes are numbered without zeros before the number',
    'dp_diffusion/released_model.py',
    '  width = len(str(len(names) - 1))\n'
    '  return [\n'
    "    f'{i:0{width}d}-{re.sub(",
    "  return [\n    f'{i}-{re.sub(",
    'tests/released_model_test.py::test_folders_of_classes_have_the_order_of_labels',
  ),
  _one(
    'The seed 0 is no seed',
    'dp_diffusion/released_model.py',
    '    if seed is None:\n'
    '      seed = secrets.randbelow(sampling.MAX_SEED + 1)\n',
    '    seed = seed or secrets.randbelow(sampling.MAX_SEED + 1)\n',
    'tests/released_model_test.py::test_the_seed_0_is_a_seed',
  ),
  _one(
    'All further tries of an image have the same noise',
    'dp_diffusion/sampling.py',
    '    again = jax.random.fold_in(self._key_again, attempt)\n',
    '    again = self._key_again\n',
    'tests/sampling_test.py::test_an_image_is_drawn_until_the_model_takes_it_for_its_class',
  ),
  _one(
    'The ledger of images is not looked for where a link leads',
    'dp_diffusion/release_marks.py',
    '  for start in (path.absolute(), path.resolve()):\n',
    '  for start in (path.absolute(),):\n',
    'tests/release_marks_test.py::test_a_mark_finds_its_own_statement',
  ),
  _one(
    'Classes in another order are the same classes',
    'dp_diffusion/config.py',
    '    return self.pretrain.data.class_names == self.data.class_names\n',
    '    return set(self.pretrain.data.class_names) == set(\n'
    '      self.data.class_names\n'
    '    )\n',
    'tests/config_test.py::test_classes_in_another_order_are_other_classes',
  ),
  _one(
    'Features of many images are counted on the terminal',
    'dp_diffusion/evaluation/metrics/features.py',
    '      console.progress_of(title, len(images))\n',
    '      console.progress(title, len(images))\n',
    'tests/evaluation/metrics/features_test.py::test_the_number_of_images_is_not_said',
  ),
  _one(
    'Both noises of an antithetic draw are the same',
    'dp_diffusion/diffusion/losses.py',
    '  noises = [noise, -noise] if',
    '  noises = [noise, noise] if',
    'tests/diffusion/losses_test.py::test_antithetic_noise_cancels_what_is_odd_in_it',
  ),
  _one(
    'Grey DICOM images whose black is white are resized as negatives',
    'dp_diffusion/data/decoding.py',
    '  scaled = 255 - scaled if is_inverted else scaled\n',
    '',
    'tests/data/dicom_test.py::test_monochrome1_is_turned_at_every_size',
  ),
  _one(
    'The rescaling that all frames of a DICOM file share is not applied',
    'dp_diffusion/data/dicom.py',
    '(*own[frame : frame + 1], *shared[:1])',
    '(*own[frame : frame + 1],)',
    'tests/data/dicom_test.py::test_what_the_frames_share_holds_for_each',
  ),
  _one(
    'All frames of a DICOM file have the window of the first',
    'dp_diffusion/data/dicom.py',
    "_group(dataset, frame, 'FrameVOILUTSequence')",
    "_group(dataset, 0, 'FrameVOILUTSequence')",
    'tests/data/dicom_test.py::test_each_frame_has_its_own_window',
  ),
  _one(
    'A range in modality units is applied to the values of a VOI table',
    'dp_diffusion/data/decoding.py',
    '    value_range = stored.window\n'
    '    pixels = pixels if stored.view is None else stored.view\n',
    '    value_range = stored.window\n'
    '  pixels = pixels if stored.view is None else stored.view\n',
    'tests/data/dicom_test.py::test_the_range_wins_over_a_voi_table',
  ),
  _one(
    'Signed pixels of DICOM files count as pixels from 0',
    'dp_diffusion/data/dicom.py',
    '  is_unsigned = is_plain and not int(dataset.PixelRepresentation)',
    '  is_unsigned = is_plain',
    'tests/data/dicom_test.py::test_signed_pixels_without_a_window_need_a_range',
  ),
  _one(
    'A modality table that begins below 0 is read beyond its end',
    'dp_diffusion/data/dicom.py',
    '    first -= 1 << 16  # A signed value that was read as unsigned.',
    '    first -= 0',
    'tests/data/dicom_test.py::test_a_table_may_begin_below_zero',
  ),
  _one(
    'A palette of 8-bit colours in words is nearly black',
    'dp_diffusion/data/dicom.py',
    '  return any(np.frombuffer(t, words).max() > 255 for t in tables)',
    '  return True',
    'tests/data/dicom_test.py::test_a_palette_of_words_may_hold_bytes',
  ),
  _one(
    'DICOM files of unknown patients are those of one person',
    'dp_diffusion/data/own/image_files.py',
    '      if registry.is_nobody(person):\n',
    '      if not person:\n',
    'tests/data/own/image_files_test.py::test_a_patient_who_stands_for_nobody_is_refused',
  ),
  _one(
    'A patient whose name is stored in two forms is two persons',
    'dp_diffusion/data/own/image_files.py',
    'registry.one_form(dicom.person_of(data))',
    'dicom.person_of(data)',
    'tests/data/own/image_files_test.py::test_a_patient_whose_name_is_stored_in_two_forms_is_one_person',
  ),
  _one(
    'Persons of DICOM files are kept with their name',
    'dp_diffusion/data/own/image_files.py',
    '      persons[-1] = hashlib.sha256(person.encode()).hexdigest()',
    '      persons[-1] = person',
    'tests/data/own/image_files_test.py::test_a_patient_whose_name_is_stored_in_two_forms_is_one_person',
  ),
  _one(
    'Deep PNG files are not turned upright',
    'dp_diffusion/data/image_formats.py',
    'pixels=_upright(pixels[..., :channels], turn)',
    'pixels=pixels[..., :channels]',
    'tests/data/image_formats_test.py::test_images_of_every_depth_are_turned_upright',
  ),
  _one(
    'Deep images that lie on their right side are turned onto their head',
    'dp_diffusion/data/image_formats.py',
    '    6: lambda x: x.swapaxes(0, 1)[:, ::-1],',
    '    6: lambda x: x.swapaxes(0, 1)[::-1],',
    'tests/data/image_formats_test.py::test_images_of_every_depth_are_turned_upright',
  ),
  _one(
    'With a range, images of 8 bits are not turned upright',
    'dp_diffusion/data/image_formats.py',
    '      return ImageOps.exif_transpose(image)',
    '      return image.copy()',
    'tests/data/image_formats_test.py::test_images_of_every_depth_are_turned_upright',
  ),
  _one(
    'Deep colours become grey with equal weights',
    'dp_diffusion/data/decoding.py',
    '(scaled @ _LUMA)[..., None]',
    'scaled.mean(axis=2, keepdims=True)',
    'tests/data/image_formats_test.py::test_deep_colours_become_grey_as_those_of_eight_bits',
  ),
  _one(
    'A page of a TIFF that is a mask counts as an image',
    'dp_diffusion/data/image_formats.py',
    'if not (p.is_reduced or p.is_mask)]',
    'if not p.is_reduced]',
    'tests/data/image_formats_test.py::test_a_page_that_is_a_mask_is_no_image',
  ),
  _one(
    'Of a stack of ImageJ in one page the first image alone is read',
    'dp_diffusion/data/image_formats.py',
    "  stack = (tiff.imagej_metadata or {}).get('images', 1) if"
    ' tiff.is_imagej else 1\n',
    '  stack = 1\n',
    'tests/data/image_formats_test.py::test_a_stack_of_imagej_in_one_page_is_refused',
  ),
  _one(
    'Of two stains in a TIFF the first alone is read',
    'dp_diffusion/data/image_formats.py',
    '  if any(kind == 0 for kind in page.extrasamples or ()) and colours == 1:',
    '  if any(kind == 0 for kind in page.extrasamples or ()) and colours > 3:',
    'tests/data/image_formats_test.py::test_a_second_channel_that_is_no_alpha_is_refused',
  ),
  _one(
    'The first image of a file alone is checked for its size',
    'dp_diffusion/data/decoding.py',
    '_check_num_pixels(header.sizes[frame], config)',
    '_check_num_pixels(header.sizes[0], config)',
    'tests/data/image_formats_test.py::test_every_image_of_a_file_is_checked_for_its_size',
  ),
  _one(
    'The first page of a TIFF says how deep all others are',
    'dp_diffusion/data/image_formats.py',
    '        or _holds_more(page)\n        for page in pages\n',
    '        or _holds_more(page)\n        for page in pages[:1]\n',
    'tests/data/image_formats_test.py::test_deep_images_behind_one_of_eight_bits_are_read_as_deep',
  ),
  _one(
    'Large signed images are mapped by a table that begins at 0',
    'dp_diffusion/data/value_range.py',
    '  return array.astype(np.int32) - int(np.iinfo(array.dtype).min)',
    '  return array.astype(np.int32)',
    'tests/data/bit_depths_test.py::test_large_signed_images_are_mapped_as_small_ones',
  ),
  _one(
    'Decoded images are found for a division by another seed',
    'dp_diffusion/data/folder.py',
    "'channels', 'split_seed'),",
    "'channels'),",
    'tests/data/folder_test.py::test_the_cache_knows_how_the_images_were_divided',
  ),
  _one(
    'Images in use are those of another size',
    'dp_diffusion/data/folder.py',
    "'class_names', 'image_size', 'channels'",
    "'class_names', 'channels'",
    'tests/data/folder_test.py::test_images_in_use_are_taken_for_no_others',
  ),
  _one(
    'Images that several loads share can be changed',
    'dp_diffusion/data/folder.py',
    '    owner.setflags(write=False)\n    images.setflags(write=False)\n',
    '',
    'tests/data/folder_test.py::test_images_in_use_are_taken_for_no_others',
  ),
  _one(
    'Images of a run that left some out are found by one that does not',
    'dp_diffusion/data/folder.py',
    "*('test_fraction', 'skip_unreadable', ",
    "*('test_fraction', ",
    'tests/data/folder_test.py::test_the_cache_knows_what_was_left_out',
  ),
  _one(
    'An .npz is known by its size alone',
    'dp_diffusion/data/own/npz_images.py',
    '    stamps=[status.st_size, status.st_mtime_ns],',
    '    stamps=[status.st_size],',
    'tests/data/folder_test.py::test_what_replaces_a_file_of_its_size_is_decoded',
  ),
  _one(
    'Of two files of one name in a zip the last one counts',
    'dp_diffusion/data/own/trees.py',
    "    elif name in seen:\n      why = 'comes twice'\n",
    '',
    'tests/data/folder_test.py::test_a_zip_with_two_files_of_one_name_is_refused',
  ),
  _one(
    'A range is not applied to arrays of 8 bits',
    'dp_diffusion/data/decoding.py',
    'if is_shallow and tuple(config.value_range) in ((), (0, 255)):',
    'if is_shallow and max(config.value_range, default=255) <= 255:',
    'tests/data/folder_test.py::test_arrays_of_eight_bits_follow_the_range_too',
  ),
  _one(
    'A damaged .npz is said with the number of its images',
    'dp_diffusion/data/own/npz_images.py',
    '{errors.without_counts(error)}',
    '{errors.first_line(error)}',
    'tests/data/folder_test.py::test_a_damaged_npz_is_said_without_the_sizes_in_it',
  ),
  _one(
    'Parts that an .npz stores as bytes are not seen',
    'dp_diffusion/data/own/npz_images.py',
    "dtype.kind not in 'SU':",
    "dtype.kind != 'U':",
    'tests/data/folder_test.py::test_an_array_of_persons_or_parts_is_not_dropped_unsaid',
  ),
  _one(
    'A damaged entry of the cache is said with the sizes in it',
    'dp_diffusion/data/cache.py',
    '      reason = errors.without_counts(error)\n'
    "      console.warn(f'{entry} is",
    "      reason = error\n      console.warn(f'{entry} is",
    'tests/data/cache_test.py::test_a_damaged_file_is_said_without_the_sizes_in_it',
  ),
  _one(
    'Decoded images in the cache can be changed',
    'dp_diffusion/data/cache.py',
    "mmap_mode='r')",
    "mmap_mode='r+')",
    'tests/data/cache_test.py::test_decoded_images_cannot_be_changed',
  ),
  _one(
    'Decoded images of another shape are taken from the cache',
    'dp_diffusion/data/cache.py',
    'if large.shape != tuple(shape) or large.dtype != np.uint8:',
    'if large.dtype != np.uint8:',
    'tests/data/cache_test.py::test_decoded_images_of_another_shape_are_made_again',
  ),
  _one(
    'Of two processes that decode one set the slower fails',
    'dp_diffusion/data/cache.py',
    '    except OSError:\n'
    '      if not entry.exists():  # Another process may have made it'
    ' meanwhile.\n'
    '        raise\n',
    '    except FileNotFoundError:\n      pass\n',
    'tests/data/cache_test.py::test_of_two_processes_that_decode_one_set_either_is_right',
  ),
  _one(
    'Decoded images of a TFDS dataset are found with other labels',
    'dp_diffusion/data/tfds_source.py',
    '    keys=dataclasses.astuple(keys),\n    image_size',
    '    image_size',
    'tests/data/tfds_source_test.py::test_the_cache_tells_labels_and_ranges_apart',
  ),
  _one(
    'Decoded images of a TFDS dataset are found for another range',
    'dp_diffusion/data/tfds_source.py',
    '    value_range=config.value_range,\n',
    '',
    'tests/data/tfds_source_test.py::test_the_cache_tells_labels_and_ranges_apart',
  ),
  _one(
    'Images of TFDS that cannot be read are left out, not their labels',
    'dp_diffusion/data/tfds_source.py',
    '  if kept.errors:\n',
    '  if len(kept.errors) == len(records):\n',
    'tests/data/tfds_source_test.py::test_an_image_that_cannot_be_read_is_an_error',
  ),
  _one(
    'Classes of a TFDS dataset are named in the order of the alphabet',
    'dp_diffusion/data/tfds_source.py',
    'return tuple(builder.info.features[keys.label].names)',
    'return tuple(sorted(builder.info.features[keys.label].names))',
    'tests/data/tfds_source_test.py::test_classes_are_named_in_the_order_of_their_labels',
  ),
  _one(
    'Held-out images that equal a training image are counted once',
    'dp_diffusion/data/registry.py',
    'sum(d in trained_on for d in digests[1])',
    'len(trained_on & {*digests[1]})',
    'tests/data/tfds_source_test.py::test_a_survey_counts_equal_images',
  ),
  _one(
    'Decoded images of one parquet column are found for another',
    'dp_diffusion/data/folder.py',
    "'value_range', 'frames', 'image_key', 'label_key'",
    "'value_range', 'frames', 'label_key'",
    'tests/data/own/parquet_images_test.py::test_the_cache_tells_columns_and_changed_files_apart',
  ),
  _one(
    'Parquet files and their images are known by their sizes alone',
    'dp_diffusion/data/own/parquet_images.py',
    '  return os.fspath(path), status.st_size, status.st_mtime_ns',
    '  return os.fspath(path), status.st_size, 0',
    'tests/data/own/parquet_images_test.py::test_the_cache_tells_columns_and_changed_files_apart',
  ),
  _one(
    'Of two columns of classes the first is the label',
    'dp_diffusion/data/own/parquet_images.py',
    'not in schema.names and len(classes) == 1:',
    'not in schema.names and classes:',
    'tests/data/own/parquet_images_test.py::test_of_two_columns_of_classes_none_is_chosen',
  ),
  _one(
    'A division in a column is looked for in the first row group',
    'dp_diffusion/data/own/parquet_images.py',
    '    for group in range(file.num_row_groups):\n      column =',
    '    for group in range(1):\n      column =',
    'tests/data/own/parquet_images_test.py::test_a_division_in_a_column_is_found_in_any_row_group',
  ),
  _one(
    'A division is not seen where its column begins empty',
    'dp_diffusion/data/own/parts.py',
    "  return divides(column) or are_parts(values - {''})",
    '  return divides(column) or are_parts(values)',
    'tests/data/own/parquet_images_test.py::test_a_division_in_a_column_is_found_in_any_row_group',
  ),
  _one(
    'Images of one colour join persons unless they are grey',
    'dp_diffusion/data/division.py',
    '(image == image[:1, :1]).all()',
    '(image == image[0, 0, 0]).all()',
    'tests/data/division_test.py::test_images_of_one_colour_join_no_persons',
  ),
  _one(
    'Behind an unreadable file images have the person of another',
    'dp_diffusion/data/folder.py',
    "    small['person'] = image_files.codes(persons)[order]",
    "    small['person'] = image_files.codes(files.persons)[order]",
    'tests/data/own/image_files_test.py::test_behind_an_unreadable_file_each_image_keeps_its_person',
  ),
  _one(
    'Files of one name in two folders are one person',
    'dp_diffusion/data/own/image_files.py',
    '    files = dataclasses.replace(files, persons=files.names)',
    '    files = dataclasses.replace(files,'
    " persons=tuple(n.rpartition('/')[2] for n in files.names))",
    'tests/data/own/image_files_test.py::test_files_of_one_name_in_two_folders_are_two_persons',
  ),
  _one(
    'In a division a table may give another class than the folder',
    'dp_diffusion/data/own/labelling.py',
    "    folder = name.split('/')[1 if is_divided else 0 : -1][:1]",
    "    folder = name.split('/')[:-1][:1]",
    'tests/data/own/labelling_test.py::test_a_table_of_a_division_may_not_contradict_its_folders',
  ),
  _one(
    'A column that marks held-out images alone is no division',
    'dp_diffusion/data/own/parts.py',
    '  if is_split and len(values) > 1:',
    "  if is_split and len(values - {''}) > 1:",
    'tests/data/own/labelling_test.py::test_a_division_in_a_column_of_few_marks_is_refused',
  ),
  _one(
    'Equal images of two classes are named as if all files were read',
    'dp_diffusion/data/folder.py',
    '[(files.names[kept[i]], config.class_names[labels[i]]) for i in together]',
    '[(files.names[i], config.class_names[labels[i]]) for i in together]',
    'tests/data/own/labelling_test.py::test_equal_images_of_two_classes_are_named',
  ),
  _one(
    'Files are checked without decoding one',
    'dp_diffusion/data/own/image_files.py',
    '    for index in sorted(set(headers) - set(failed)):\n      if',
    '    for index in ():\n      if',
    'tests/data/own/labelling_test.py::test_what_decoding_would_refuse_is_known_before',
  ),
  _one(
    'Images of a folder `dev` are trained on',
    'dp_diffusion/data/own/parts.py',
    "('val', 'valid', 'validation', 'dev'), True)",
    "('val', 'valid', 'validation'), True),\n"
    "  **dict.fromkeys(('dev',), False)",
    'tests/data/own/labelling_test.py::test_every_part_beside_the_training_part_is_held_out',
  ),
  _one(
    'One grey image makes a coloured set grey',
    'dp_diffusion/data/folder.py',
    '  return 1 if share <= _MOST_ODD else 3',
    '  return 1 if share < 1 else 3',
    'tests/data/grey_or_colour_test.py::test_one_odd_image_that_is_looked_at_decides_nothing',
  ),
  _one(
    'Rescaling of DICOM files by a fraction makes black images',
    'dp_diffusion/data/dicom.py',
    '  if slope.is_integer() and intercept.is_integer():',
    '  if intercept.is_integer():',
    'tests/data/dicom_test.py::test_a_slope_may_be_a_fraction',
  ),
  _one(
    'A later version divides images in another way',
    'dp_diffusion/data/division.py',
    "    [int.from_bytes(coin, 'little') < threshold for coin in coins], bool",
    "    [int.from_bytes(coin, 'big') < threshold for coin in coins], bool",
    'tests/data/division_test.py::test_a_later_version_divides_as_this_one',
  ),
  _one(
    'A later version draws other images of a person',
    'dp_diffusion/data/batching.py',
    "seed + int(index).to_bytes(8, 'little')",
    "seed + int(index).to_bytes(8, 'big')",
    'tests/data/batching_test.py::test_a_later_version_draws_as_this_one',
  ),
  _one(
    'A later version shuffles public images in another way',
    'dp_diffusion/data/batching.py',
    'np.random.default_rng([seed, epoch])',
    'np.random.default_rng([epoch, seed])',
    'tests/data/batching_test.py::test_a_later_version_draws_as_this_one',
  ),
  _one(
    'A prepared Camelyon17 of another size is taken',
    'dp_diffusion/data/camelyon17.py',
    '  check_counts(builder.info.splits)\n',
    '',
    'tests/data/camelyon17_test.py::test_a_prepared_set_of_another_size_is_refused',
  ),
  _one(
    'Tables are read by names in lower case alone',
    'dp_diffusion/data/own/tables.py',
    '  return posixpath.basename(name).casefold() in BESIDE',
    '  return posixpath.basename(name) in BESIDE',
    'tests/data/own/labelling_test.py::test_a_table_is_read_whatever_the_case_of_its_name',
  ),
  _one(
    'Of several features of TFDS the first in the alphabet is taken',
    'dp_diffusion/data/tfds_source.py',
    '    elif usual and usual[0] in fits:',
    '    elif usual and fits:\n'
    '      found[what] = fits[0]\n'
    '    elif usual and usual[0] in fits:',
    'tests/data/tfds_source_test.py::test_supervised_keys_choose_among_features_unless_the_config_does',
  ),
  _one(
    'The middle square of an image is cut at whole pixels',
    'dp_diffusion/data/decoding.py',
    '(image.width - side) / 2, (image.height - side) / 2',
    '(image.width - side) // 2, (image.height - side) // 2',
    'tests/data/decoding_test.py::test_the_middle_is_kept_to_half_a_pixel',
  ),
  _one(
    'Changed image files that structs of a parquet file name are not seen',
    'dp_diffusion/data/own/parquet_images.py',
    '(table.path, *table.images, *table.beside)',
    '(table.path, *table.images)',
    'tests/data/own/parquet_images_test.py::test_the_cache_tells_columns_and_changed_files_apart',
  ),
  _one(
    'Of a TIFF of 8 bits with two stains the first alone is read',
    'dp_diffusion/data/image_formats.py',
    '        or _holds_more(page)\n',
    '',
    'tests/data/image_formats_test.py::test_a_second_channel_that_is_no_alpha_is_refused',
  ),
  _one(
    'A checkpoint whose facts of the run have changed is whole',
    'dp_diffusion/training/checkpoint.py',
    "      'meta': self.meta,\n",
    '',
    'tests/training/checkpoint_test.py::test_damaged_steps_are_skipped_and_named',
  ),
  _one(
    'A saved checkpoint is left to the memory of the system',
    'dp_diffusion/training/checkpoint.py',
    '    files.sync_tree(self.folder / str(step))\n',
    '',
    'tests/training/checkpoint_test.py::test_a_saved_step_is_on_the_disk',
  ),
  _one(
    'Steps that were lost are forgotten if others are lost later',
    'dp_diffusion/training/checkpoint.py',
    'lost = sorted({*self._damaged, *self._read_lost_list()})',
    'lost = sorted(self._damaged)',
    'tests/training/checkpoint_test.py::test_lost_steps_stay_known_beside_those_lost_later',
  ),
  _one(
    'Damaged checkpoints are removed before their numbers are kept',
    'dp_diffusion/training/checkpoint.py',
    '    files.write_json(self._lost_list(), lost, mode=0o600)\n'
    '    for step in self._damaged:\n'
    '      (self.folder / str(step)).rmtree(missing_ok=True)\n',
    '    for step in self._damaged:\n'
    '      (self.folder / str(step)).rmtree(missing_ok=True)\n'
    '    files.write_json(self._lost_list(), lost, mode=0o600)\n',
    'tests/training/checkpoint_test.py::test_damaged_steps_go_when_their_numbers_are_written',
  ),
  _one(
    'The name of a new file is left to the memory of the system',
    'dp_diffusion/files.py',
    '    temporary.unlink(missing_ok=True)\n  sync_folder(path.parent)\n',
    '    temporary.unlink(missing_ok=True)\n',
    'tests/files_test.py::test_a_file_is_on_the_disk_before_its_name_and_then_its_name',
  ),
  _one(
    'A release that is sealed again keeps the hashes of before',
    'dp_diffusion/release.py',
    "  sealed = {**statement, 'files': hashes}\n",
    "  sealed = {'files': hashes, **statement}\n",
    'tests/release_test.py::test_sealed_again_a_release_has_the_hashes_of_now',
  ),
  _one(
    'Shards of two divisions are read as one dataset',
    'dp_diffusion/release.py',
    '  if missing or len(paths) != num_shards:\n',
    '  if missing:\n',
    'tests/release_test.py::test_shards_of_two_numbers_are_no_dataset',
  ),
  _one(
    'Images whose mark cannot be read are those of this release',
    'dp_diffusion/release.py',
    '  except ValueError:\n    is_same = False\n',
    '  except ValueError:\n    is_same = True\n',
    'tests/release_test.py::test_images_of_a_damaged_mark_are_refused',
  ),
  _one(
    'A changed sampler has defaults in place of the values of the release',
    'dp_diffusion/sample.py',
    'dataclasses.asdict(before or samplers.SamplerConfig())',
    'dataclasses.asdict(samplers.SamplerConfig())',
    'tests/released_model_test.py::test_what_is_not_given_of_a_sampler_is_that_of_the_release',
  ),
  _one(
    'The name of a class ends at its first comma',
    'dp_diffusion/sample.py',
    '  if arguments.labels in release.class_names:  # A name may '
    'hold a comma.\n'
    '    labels = (arguments.labels,)\n'
    '  elif labels',
    '  if labels',
    'tests/released_model_test.py::test_a_name_with_a_comma_is_one_class',
  ),
  _one(
    'A file that is there is found when all images are sampled',
    'dp_diffusion/sample.py',
    '  released_model.check_new_file(arguments.out, release.folder)\n',
    '',
    'tests/released_model_test.py::test_a_file_that_cannot_be_written_is_found_before_sampling',
  ),
  _one(
    'On accelerators all batches of images have the same noise',
    'dp_diffusion/sampling.py',
    '      self._init(labels, index, attempt),\n',
    '      self._init(labels, index * 0, attempt),\n',
    'tests/sampling_test.py::test_one_program_samples_what_single_steps_do',
  ),
  _one(
    'A folder of checkpoints that cannot be written is found at the first',
    'dp_diffusion/stages/run/workdirs.py',
    "    workdir.private / 'checkpoints',\n",
    '',
    'tests/stages/run/workdirs_test.py::test_a_folder_that_weights_go_to_is_tried_at_the_start',
  ),
  _one(
    'A run is not named by the optimizer of its steps',
    'dp_diffusion/stages/run/fingerprint.py',
    "    'checkpoint_every_steps',\n  ):\n",
    "    'checkpoint_every_steps',\n    'optimizer',\n  ):\n",
    'tests/stages/run/fingerprint_test.py::test_what_changes_no_step_alone_is_left_out',
  ),
  _one(
    'A dataset is known by its first image and all labels',
    'dp_diffusion/stages/run/fingerprint.py',
    "secret, 'dataset', source.images, source.labels, person\n",
    "secret, 'dataset', source.images[:1], source.labels, person\n",
    'tests/stages/run/fingerprint_test.py::test_each_image_is_part_of_the_dataset',
  ),
  _one(
    'What a record of an earlier version inherited is forgotten',
    'dp_diffusion/stages/run/inherited_ledger.py',
    "found.get('entries', [found.get('entry')])",
    "found.get('entries', [])",
    'tests/stages/run/inherited_ledger_test.py::test_a_record_of_an_earlier_version_counts',
  ),
  _one(
    'A secret is made anew after the statistics of a warm-up',
    'dp_diffusion/stages/run/workdirs.py',
    '  BEGUN_WARM_UP,\n',
    '',
    'tests/stages/run/run_secret_test.py::test_a_secret_that_was_drawn_from_is_not_made_anew',
  ),
  _one(
    'A picture of private training that others can read',
    'dp_diffusion/stages/run/progress_picture.py',
    '_MODE = 0o600\n',
    '_MODE = 0o644\n',
    'tests/stages/run/progress_picture_test.py::test_a_picture_is_for_its_owner_alone',
  ),
  _one(
    'A statement without a checksum is taken as it is',
    'dp_diffusion/stages/run/released_ledger.py',
    "    is_whole = statement.get('checksum') == "
    'statement_lib.checksum(statement)\n',
    '    known = statement_lib.checksum(statement)\n'
    "    is_whole = statement.get('checksum', known) == known\n",
    'tests/stages/run/released_ledger_test.py::test_a_statement_without_a_checksum_is_refused',
  ),
  _one(
    'Released images do not say that their secret was planted',
    'dp_diffusion/stages/run/released_ledger.py',
    '    is_insecure=is_insecure,\n  )\n\n\ndef doubtful',
    "    is_insecure=is_insecure and what == 'weights',\n  )\n\n\ndef doubtful",
    'tests/stages/run/released_ledger_test.py::test_images_of_a_planted_secret_say_so',
  ),
  _one(
    'The interval of an ensemble takes images of a person as independent',
    'dp_diffusion/stages/evaluation/classifier_tests.py',
    '    return scoring.accuracy(predicted, self.labels, self._persons)\n',
    '    return scoring.accuracy(predicted, self.labels)\n',
    'tests/stages/evaluation/classifier_tests_test.py::test_an_ensemble_is_judged_by_persons_too',
  ),
  _one(
    'An ensemble of a few classifiers is one of all of them',
    'dp_diffusion/stages/evaluation/classifier_tests.py',
    'for m in group[:size]]',
    'for m in group]',
    'tests/stages/evaluation/classifier_tests_test.py::test_an_ensemble_is_of_the_first_classifiers',
  ),
  _one(
    'Scores of held-out images do not know their persons',
    'dp_diffusion/stages/evaluation/measurements.py',
    '    None if test.person is None else np.asarray(test.person),\n',
    '    None,\n',
    'tests/stages/evaluation/measurements_test.py::test_duplicates_are_held_out_images_that_were_trained_on',
  ),
  _one(
    'Held-out images that equal synthetic ones count as trained on',
    'dp_diffusion/stages/evaluation/measurements.py',
    'duplicates.equal_to_any(test.images, train.real.images)',
    'duplicates.equal_to_any(test.images, train.synthetic[0])',
    'tests/stages/evaluation/measurements_test.py::test_duplicates_are_held_out_images_that_were_trained_on',
  ),
  _one(
    'Distances are those from the test set, of whichever distribution',
    'dp_diffusion/stages/evaluation/measurements.py',
    "  if config.evaluate.held_out_split not in ('', "
    'config.data.test_split):\n',
    '  if not config.evaluate.held_out_split:\n',
    'tests/stages/evaluation/measurements_test.py::test_other_held_out_images_are_compared_than_tested_on',
  ),
  _one(
    'Classifiers have more public images than synthetic ones',
    'dp_diffusion/stages/evaluation/measurements.py',
    '      public.images, public.labels, len(synthetic[1])\n',
    '      public.images, public.labels, len(public.labels)\n',
    'tests/stages/evaluation/measurements_test.py::test_as_many_images_of_each_source_as_is_said',
  ),
  _one(
    'Copies are looked for among some of the training images',
    'dp_diffusion/stages/evaluation/image_distances.py',
    '    compared = sets.at_most(most, has_whole_train=True)\n',
    '    compared = sets.at_most(most)\n',
    'tests/stages/evaluate_test.py::test_copies_are_looked_for_among_all_training_images',
  ),
  _one(
    'The summary says another epsilon than the guarantee',
    'dp_diffusion/stages/evaluate.py',
    "  epsilon = privacy.get('epsilon', privacy['epsilon_pld'])\n",
    "  epsilon = privacy['epsilon_pld']\n",
    'tests/stages/evaluate_test.py::test_the_summary_says_the_epsilon_that_is_guaranteed',
  ),
  _one(
    'Figures without images that were trained on do not know persons',
    'dp_diffusion/evaluation/classifiers/scoring.py',
    '_of_correct(mean[rest], _part(persons, rest))',
    '_of_correct(mean[rest], None)',
    'tests/evaluation/classifiers/scoring_test.py::test_every_interval_of_a_score_is_by_person',
  ),
  _one(
    'Accuracies of classes take images of a person as independent',
    'dp_diffusion/evaluation/classifiers/scoring.py',
    '_of_correct(correct[m], _part(persons, m))',
    '_of_correct(correct[m], None)',
    'tests/evaluation/classifiers/scoring_test.py::test_every_interval_of_a_score_is_by_person',
  ),
  _one(
    'A score takes images of a person as independent',
    'dp_diffusion/evaluation/classifiers/scoring.py',
    'accuracy=_of_correct(mean, persons),',
    'accuracy=_of_correct(mean, None),',
    'tests/evaluation/classifiers/scoring_test.py::test_every_interval_of_a_score_is_by_person',
  ),
  _one(
    'Whatever is a little above one answer is better than guessing',
    'dp_diffusion/evaluation/classifiers/scoring.py',
    'majority_share < 1 and self.low <= majority_share',
    'majority_share < 1 and self.value <= majority_share',
    'tests/evaluation/classifiers/scoring_test.py::test_better_than_guessing_is_what_the_interval_says',
  ),
  _one(
    'An interval of few persons is one of 90 percent',
    'dp_diffusion/evaluation/classifiers/scoring.py',
    'stats.t.ppf(0.975, num_persons - 1)',
    'stats.t.ppf(0.95, num_persons - 1)',
    'tests/evaluation/classifiers/scoring_test.py::test_an_interval_of_few_persons_is_students',
  ),
  _one(
    'The p-value of copies is that of images that are far',
    'dp_diffusion/evaluation/metrics/memorization.py',
    'special.ndtr(c_t)',
    'special.ndtr(-c_t)',
    'tests/evaluation/metrics/memorization_test.py::test_a_low_score_has_a_small_p_value',
  ),
  _one(
    'Copies are expected by the share of images, not of persons',
    'dp_diffusion/evaluation/metrics/closeness.py',
    '  expected = len(of_train) / total\n',
    '  expected = len(train_units) / (len(train_units) + '
    'len(held_out_units))\n',
    'tests/evaluation/metrics/memorization_test.py::test_what_is_expected_is_the_share_of_persons_not_of_images',
  ),
  _one(
    'Digests are those of the first rows, whichever are asked for',
    'dp_diffusion/evaluation/metrics/duplicates.py',
    'np.asarray(images[rows[start : start + _ROWS_AT_ONCE]])',
    'np.asarray(images[start : start + _ROWS_AT_ONCE])',
    'tests/evaluation/metrics/duplicates_test.py::test_digests_are_of_the_rows_that_were_asked_for',
  ),
  _one(
    'The headline of a report is epsilon by PLD, whatever is guaranteed',
    'dp_diffusion/evaluation/report/report.py',
    "  return privacy.get('epsilon', privacy.get('epsilon_pld'))\n",
    "  return privacy.get('epsilon_pld', privacy.get('epsilon'))\n",
    'tests/evaluation/report/report_test.py::test_the_headline_is_the_epsilon_that_is_guaranteed',
  ),
  _one(
    'Accuracies without images that were trained on are those with them',
    'dp_diffusion/evaluation/report/report.py',
    'lambda s: s.without_duplicates.value if s.without_duplicates else None',
    'lambda s: s.accuracy.value if s.without_duplicates else None',
    'tests/evaluation/report/report_test.py::test_json_has_the_accuracy_without_images_that_were_trained_on',
  ),
  _one(
    'The recall has the interval of the precision',
    'dp_diffusion/evaluation/report/quality_section.py',
    '_share(s.recall, s.recall_interval)',
    '_share(s.recall, s.precision_interval)',
    'tests/evaluation/report/quality_section_test.py::test_each_share_has_its_own_interval',
  ),
  _one(
    'An ensemble has the interval of one of its classifiers',
    'dp_diffusion/evaluation/report/curves_section.py',
    '      accuracy_section.interval(accuracy),\n',
    '      accuracy_section.interval(found.scores[source][key].accuracy),\n',
    'tests/evaluation/report/curves_section_test.py::test_ensembles_have_intervals_of_their_own',
  ),
  _one(
    'An ensemble of some images has the interval of one classifier',
    'dp_diffusion/evaluation/report/curves_section.py',
    'accuracy_section.interval(point.ensemble)',
    'accuracy_section.interval(point.single.accuracy)',
    'tests/evaluation/report/curves_section_test.py::test_ensembles_have_intervals_of_their_own',
  ),
  _one(
    'A release in a subfolder of public images costs nothing',
    'dp_diffusion/release_marks.py',
    '      if STATEMENT in names and pathlib.Path(root) != path:\n'
    '        yield pathlib.Path(root)\n',
    '',
    'tests/release_marks_test.py::test_a_release_below_a_folder_is_found',
  ),
  _one(
    'Of the statements in a zip the first one is read',
    'dp_diffusion/release_marks.py',
    '          yield Origin(where=where, content=archive.read(info))\n',
    '          yield Origin(where=where, content=archive.read(info))\n'
    '          return\n',
    'tests/release_marks_test.py::test_a_statement_in_a_zip_is_found_behind_what_is_none',
  ),
  _one(
    'A row of the report has the interval of one class',
    'dp_diffusion/evaluation/report/accuracy_section.py',
    '    interval(accuracy),\n    formats.percent(guessing),',
    '    interval(score.per_class[0]),\n    formats.percent(guessing),',
    'tests/evaluation/report/accuracy_section_test.py::test_every_figure_of_a_row_is_that_of_its_column',
  ),
  _one(
    'An ensemble stands beside the balanced accuracy, not one answer',
    'dp_diffusion/evaluation/report/curves_section.py',
    '      formats.percent(found.scores[source][key].majority_share),\n',
    '      formats.percent(found.scores[source][key].balanced_accuracy),\n',
    'tests/evaluation/report/curves_section_test.py::test_an_ensemble_stands_beside_one_answer_and_not_the_balanced_share',
  ),
  _one(
    'The classifier baseline takes images of a person as independent',
    'dp_diffusion/stages/baseline.py',
    '    persons=test.person,\n',
    '',
    'tests/stages/baseline_test.py::test_the_classifier_has_an_interval_by_person',
  ),
  _one(
    'A statement does not name the feature network of a file',
    'dp_diffusion/stages/baseline.py',
    "    found += [statement_words.public_data(vars(e), 'unknown') "
    'for e in images]\n',
    '',
    'tests/stages/baseline_test.py::test_a_network_of_a_file_is_stated',
  ),
  _one(
    'The average has the decay of the step that follows',
    'dp_diffusion/training/state.py',
    '  decay = ema_decay_at(state.step, ema_decay)\n',
    '  decay = ema_decay_at(state.step + 1, ema_decay)\n',
    'tests/training/state_test.py::test_a_step_moves_the_weights_and_then_their_averages',
  ),
  _one(
    'The average is that of the weights before each step',
    'dp_diffusion/training/state.py',
    '    ema_params=update_ema(state.ema_params, params, decay),',
    '    ema_params=update_ema(state.ema_params, state.params, decay),',
    'tests/training/state_test.py::test_a_step_moves_the_weights_and_then_their_averages',
  ),
  _one(
    'A citation has no date',
    'dp_diffusion/release_card.py',
    'config.date, config.url]',
    'config.url]',
    'tests/release_card_test.py::test_the_metadata_of_the_dataset_are_what_the_publisher_says',
  ),
  _one(
    'The metadata of a dataset say that no licence was given',
    'dp_diffusion/release_card.py',
    "    'license': config.license or 'None was given.',\n",
    "    'license': 'None was given.',\n",
    'tests/release_card_test.py::test_the_metadata_of_the_dataset_are_what_the_publisher_says',
  ),
  _one(
    'The averaged weights leave where the last ones were asked for',
    'dp_diffusion/stages/run/assembly.py',
    '  return state.all_ema_params if is_ema else state.all_params\n',
    '  return state.all_ema_params\n',
    'tests/stages/run/assembly_test.py::test_the_weights_that_leave_are_those_of_the_config',
  ),
  _one(
    'The optimizer does not know which leaves have less noise',
    'dp_diffusion/stages/run/assembly.py',
    "divided_by=rules if scaled == 'gradient' else ()",
    'divided_by=()',
    'tests/stages/run/assembly_test.py::test_the_optimizer_is_told_which_leaves_have_less_noise',
  ),
  _one(
    'Images are sampled from other weights than the chosen average',
    'dp_diffusion/stages/sample.py',
    '  processes.on_main(lambda: averages.choose(config, workdir))\n',
    '',
    'tests/stages/sample_test.py::test_the_average_is_chosen_before_images_are_sampled',
  ),
  _one(
    'Images that processes make together are in another order',
    'dp_diffusion/stages/sample.py',
    'found = np.concatenate(gathered, axis=1)',
    'found = np.concatenate(gathered, axis=0)',
    'tests/stages/sample_test.py::test_processes_make_the_images_of_a_shard_together',
  ),
  _one(
    'Decoded images in the folder of public ones are not forgotten',
    'dp_diffusion/stages/forget.py',
    '    (config.data.cache_dir, config.pretrain.data.cache_dir)\n',
    '    (config.data.cache_dir,)\n',
    'tests/stages/inspect_test.py::test_the_folder_of_public_images_is_emptied_too',
  ),
  _one(
    'Features of another network are taken for those of this one',
    'dp_diffusion/evaluation/metrics/feature_cache.py',
    '    extractor.name,\n    extractor.num_features,\n',
    '    extractor.num_features,\n',
    'tests/evaluation/metrics/feature_cache_test.py::test_features_of_another_network_are_computed_anew',
  ),
  _one(
    'A classifier is trained on its validation images too',
    'dp_diffusion/evaluation/classifiers/downstream.py',
    'np.sort(shuffled[num_validation:])',
    'np.sort(shuffled)',
    'tests/evaluation/classifiers/downstream_test.py::test_no_image_is_trained_on_and_validated_with',
  ),
  _one(
    'A classifier has its last weights, not its best ones',
    'dp_diffusion/evaluation/classifiers/downstream.py',
    'variables=best_variables if best else state[0]',
    'variables=state[0]',
    'tests/evaluation/classifiers/downstream_test.py::test_the_weights_are_those_of_the_best_step',
  ),
  _one(
    'A plan does not count the steps of a warm-up',
    'dp_diffusion/stages/plan.py',
    '  if first:\n    public[cost_estimates.WARM_UP] = first\n',
    '',
    'tests/stages/plan_test.py::test_the_steps_of_a_warm_up_are_part_of_the_costs',
  ),
  _one(
    'Audits before this one are at most one',
    'dp_diffusion/evaluation/report/audit_section.py',
    "  earlier = len(result['earlier_runs'])\n",
    "  earlier = int(bool(result['earlier_runs']))\n",
    'tests/evaluation/report/audit_section_test.py::test_each_attack_has_its_own_bound',
  ),
  _one(
    'A refuted claim is said not to be contradicted',
    'dp_diffusion/evaluation/report/audit_section.py',
    "    if result['is_passed']\n",
    "    if result['white_box']\n",
    'tests/evaluation/report/audit_section_test.py::test_a_refuted_claim_is_said_to_be_one',
  ),
  _one(
    'An audit by steps says its ceiling as its bound',
    'dp_diffusion/evaluation/report/audit_section.py',
    '{steps["epsilon_lower_bound"]:.3g} of at most',
    '{steps["ceiling"]:.3g} of at most',
    'tests/evaluation/report/audit_section_test.py::test_the_sentence_has_each_number_in_its_place',
  ),
  _one(
    'Of several releases in a zip the first one pays for all',
    'dp_diffusion/stages/run/released_ledger.py',
    '      for origin in release_marks.find_all(place):\n',
    '      for origin in release_marks.find_all(place)[:1]:\n',
    'tests/stages/run/released_ledger_test.py::test_pictures_of_several_releases_in_a_zip_bring_all_their_ledgers',
  ),
  _one(
    'Labels of the metadata lead to names of classes',
    'dp_diffusion/croissant.py',
    "      'references': {'field': {'@id': f'{_CLASSES}/label'}},\n",
    "      'references': {'field': {'@id': f'{_CLASSES}/name'}},\n",
    'tests/croissant_test.py::test_every_reference_leads_somewhere',
  ),
  _one(
    'Classes of the metadata are numbered from 1',
    'dp_diffusion/croissant.py',
    'for i, text in enumerate(class_names)]',
    'for i, text in enumerate(class_names, 1)]',
    'tests/croissant_test.py::test_classes_are_numbered_by_their_labels',
  ),
  _one(
    'The metadata name a column that is not there',
    'dp_diffusion/croissant.py',
    "'source': _source('image', {'jsonPath': 'bytes'}),",
    "'source': _source('images', {'jsonPath': 'bytes'}),",
    'tests/croissant_test.py::test_columns_are_those_of_the_files',
  ),
  _one(
    'Rendered images are said to have been compared',
    'dp_diffusion/stages/run/public_data.py',
    "    return 'rendered'\n",
    "    return 'none_equal'\n",
    'tests/stages/run/public_data_test.py::test_rendered_images_are_not_said_to_be_compared',
  ),
  _one(
    'Public images are forgotten where weights to start from are given',
    'dp_diffusion/stages/run/public_data.py',
    '      found = (*found, *public_provenance.of_weights(path))\n',
    '      found = public_provenance.of_weights(path)\n',
    'tests/stages/run/public_data_test.py::test_images_count_beside_those_of_the_weights_to_start_from',
  ),
  _one(
    'The unit of the first inherited ledger alone is compared',
    'dp_diffusion/stages/run/inherited_ledger.py',
    '  for entry in found.entries:\n    if entry.ledger.unit',
    '  for entry in found.entries[:1]:\n    if entry.ledger.unit',
    'tests/stages/run/inherited_ledger_test.py::test_another_unit_of_images_beside_weights_is_refused',
  ),
  _one(
    'Whether a column divides is judged by the first row group of a file',
    'dp_diffusion/data/own/parquet_images.py',
    '    for group in range(file.num_row_groups):\n'
    '      column = file.read_row_group(group, columns=[field.name]).column(0)'
    '\n',
    '    for group in range(min(1, file.num_row_groups)):\n'
    '      column = file.read_row_group(group, columns=[field.name]).column(0)'
    '\n',
    'tests/data/own/parquet_images_test.py::test_a_division_in_a_column_is_found_in_any_row_group',
  ),
  _one(
    'Persons of a part of an .npz are not recognised by a name of their own',
    'dp_diffusion/data/own/npz_images.py',
    '    if parts_lib.names_persons(name.removeprefix(prefix)):\n',
    '    if parts_lib.names_persons(name):\n',
    'tests/data/folder_test.py::test_persons_of_no_part_are_refused',
  ),
  _one(
    'Persons of an .npz in parts are numbered for each part',
    'dp_diffusion/data/own/npz_images.py',
    '        persons += _persons(path, name, found)\n',
    '        persons += [name + x for x in _persons(path, name, found)]\n',
    'tests/data/folder_test.py'
    '::test_a_person_in_two_parts_of_an_npz_is_one_person',
  ),
  _one(
    'How many files of a class are lost is counted over all parts together',
    'dp_diffusion/data/own/image_files.py',
    '    sides = np.zeros(len(self.names), bool) if sides is None else sides\n',
    '    sides = np.zeros(len(self.names), bool)\n',
    'tests/data/inputs_table_test.py::test_the_page_says_what_comes_of_each_form',
  ),
  _one(
    'Decoded images of one column are found for another of its file',
    'dp_diffusion/data/folder.py',
    "        *('value_range', 'frames', 'image_key', 'label_key'),\n",
    "        *('value_range', 'frames', 'label_key'),\n",
    'tests/data/own/parquet_images_test.py::test_the_cache_tells_columns_and_changed_files_apart',
  ),
  _one(
    'A release on top of one with a known secret does not say so',
    _FINETUNE,
    '      is_insecure=secret.is_insecure or inherited.is_insecure,\n',
    '      is_insecure=secret.is_insecure,\n',
    'tests/stages/run/inherited_ledger_test.py::test_fine_tuning_composes_the_ledger',
  ),
  _one(
    'Pre-trained weights that began as released ones are not marked',
    'dp_diffusion/stages/pretrain.py',
    '  weights.save_npz(weights_path(workdir), params, is_released=has_cost)\n',
    '  del has_cost  # Its ledger lies beside the weights.\n'
    '  weights.save_npz(weights_path(workdir), params)\n',
    'tests/stages/run/inherited_ledger_test.py::test_released_weights_without_their_ledger_are_refused',
  ),
  _one(
    'All audits of a folder toss the same coins',
    'dp_diffusion/stages/audit.py',
    '  if before:\n    path.unlink(missing_ok=True)\n',
    '',
    'tests/stages/audit_test.py::test_every_audit_has_its_own_secret',
  ),
  _one(
    'What weights were made with is overruled by the defaults',
    'dp_diffusion/stages/run/first_weights.py',
    '  made_with = {key: {**_DEFAULTS, **made_with}[key] for key in'
    ' foreign.UNSAID}\n',
    '  made_with = {key: {**made_with, **_DEFAULTS}[key] for key in'
    ' foreign.UNSAID}\n',
    'tests/stages/run/first_weights_test.py::test_a_bare_file_says_what_it_is',
  ),
  _one(
    'The size of shards may change between runs',
    'dp_diffusion/stages/run/workdirs.py',
    "    'sample.batch_size',\n",
    "    'sample.batch_size',\n    'sample.shard_size',\n",
    'tests/stages/run/workdirs_test.py::test_sampling_goes_on_with_the_shards_that_it_began_with',
  ),
  _one(
    'A key of --sampler sets all others to their defaults',
    'dp_diffusion/sample.py',
    '  values = dataclasses.asdict(before or samplers.SamplerConfig())\n',
    '  values = dataclasses.asdict(samplers.SamplerConfig())\n',
    'tests/released_model_test.py::test_what_is_not_given_of_a_sampler_is_that_of_the_release',
  ),
  _one(
    'Whether an image is drawn again depends on its place in the shard',
    'dp_diffusion/sampling.py',
    '          is_done = self._takes_for(found[rows], numbers) =='
    ' labels[rows]\n',
    '          is_done = self._takes_for(found[rows], rows) == labels[rows]\n',
    'tests/sampling_test.py::test_noise_of_a_judgement_depends_on_the_number_of_the_image',
  ),
  _one(
    'Any folder on the way that is called public makes metrics public',
    'dp_diffusion/training/metrics.py',
    '  if not named or named[-1] != kind:\n',
    '  if kind not in named:\n',
    'tests/training/metrics_test.py::test_each_kind_has_its_folder',
  ),
  _one(
    'A checkpoint of another format is taken for a damaged one',
    _CHECKPOINT,
    '    if digest != read.digest(version):\n',
    '    if digest != read.digest():\n',
    'tests/training/checkpoint_test.py::test_damaged_steps_are_skipped_and_named',
  ),
  _one(
    'A short span of begun steps hides a long one',
    _JOURNAL,
    '        spans[-1][1] = max(spans[-1][1], stop)\n',
    '        spans[-1][1] = stop\n',
    'tests/training/journal_test.py::test_a_shorter_span_hides_no_step_of_a_longer_one',
  ),
  _one(
    'Without duplicates each image counts as a person of its own',
    'dp_diffusion/evaluation/classifiers/scoring.py',
    '    distinct = _of_correct(mean[rest], _part(persons, rest))\n',
    '    distinct = _of_correct(mean[rest], None)\n',
    'tests/evaluation/classifiers/scoring_test.py::test_every_interval_of_a_score_is_by_person',
  ),
  _one(
    'The binomial p-value leaves out the number that was found',
    'dp_diffusion/evaluation/metrics/closeness.py',
    '  binomial = stats.binom.sf(wins - 1, decisions, expected) if decisions'
    ' else 1.0\n',
    '  binomial = stats.binom.sf(wins, decisions, expected) if decisions'
    ' else 1.0\n',
    'tests/evaluation/metrics/memorization_test.py::test_what_is_expected_is_the_share_of_persons_not_of_images',
  ),
  _one(
    'A version that does not exist yet is verified as an earlier one',
    _VERIFY,
    '  if type(version) is int and version in range(1, statement_lib.VERSION):'
    '\n',
    '  if type(version) is int and version != statement_lib.VERSION:\n',
    'tests/privacy/verify_test.py::test_older_words_are_not_compared',
  ),
  _one(
    'A link to a folder inside a release goes unnoticed',
    _VERIFY,
    '    for name in (*folders, *names):\n',
    '    for name in names:\n',
    'tests/privacy/verify_test.py::test_links_are_refused',
  ),
  _one(
    'Class head not entered in the ledger',
    _BUDGET,
    '    *finetune.class_head.entries(),\n',
    '',
    f'{_STAGE_HEAD_TEST}::test_a_head_is_paid_for',
  ),
  _one(
    'Gaussians of classes: not entered in the ledger',
    'dp_diffusion/stages/run/budget.py',
    '    *finetune.class_gaussians.entries(),\n',
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_they_are_paid_for',
  ),
  _one(
    'Gaussians of classes: products off the diagonal are not shared out',
    _GAUSSIANS,
    'np.where(rows == columns, 1.0, 2**0.5).astype',
    'np.where(rows == columns, 1.0, 2.0).astype',
    f'{_GAUSSIANS_TEST}::test_gaussians_are_those_of_a_loop[image]',
  ),
  _one(
    'Gaussians of classes: the count is not part of the bound',
    _GAUSSIANS,
    '0.25**0.5, 0.65**0.5, 0.1**0.5',
    '0.25**0.5, 0.75**0.5, 0.1**0.5',
    f'{_GAUSSIANS_TEST}::test_features_need_no_bound_from_others',
  ),
  _one(
    'Gaussians of classes: a class of few records has a count without noise',
    _GAUSSIANS,
    'max(noise_std / _OF_COUNT, 1.0)',
    '1.0',
    f'{_GAUSSIANS_TEST}::test_a_count_below_its_noise_counts_as_the_noise',
  ),
  _one(
    'Gaussians of classes: eigenvalues of noise are kept',
    _GAUSSIANS,
    'np.where(values > least * (2 * size) ** 0.5, values, 0.0)',
    'np.where(values > 0, values, 0.0)',
    f'{_GAUSSIANS_TEST}::test_noise_is_told_from_covariance',
  ),
  _one(
    'Gaussians of classes: drawn again with other noise',
    'dp_diffusion/stages/class_gaussians.py',
    "    'gaussians': config_lib.to_dict(used),\n",
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_others_are_refused',
  ),
  _one(
    'Gaussians of classes: equal noise for other images',
    'dp_diffusion/stages/class_gaussians.py',
    "    'dataset': fingerprint.dataset(secret, source),\n",
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_other_images_and_secrets_are_refused',
  ),
  _one(
    'Gaussians of classes: the secret is no longer needed once they are drawn',
    'dp_diffusion/stages/run/workdirs.py',
    '  BEGUN_CLASS_GAUSSIANS,\n',
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_they_are_drawn_once',
  ),
  _one(
    'Gaussians that nothing paid for are sampled from',
    'dp_diffusion/release.py',
    '  beside = (_CLASS_HEAD, _GAUSSIANS)\n',
    '  beside = (_CLASS_HEAD,)\n',
    'tests/release_test.py::test_gaussians_that_nothing_paid_for_are_not_used',
  ),
  _one(
    'Gaussians that were replaced are sealed with another average of weights',
    'dp_diffusion/stages/run/averages.py',
    '  release.check_model(workdir.release, is_rewritten=True)\n',
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_an_average_seals_no_gaussians_of_others',
  ),
  _one(
    'Gaussians of classes: equal noise for other facts',
    'dp_diffusion/stages/class_gaussians.py',
    'run_id=key_streams.run_id(secret, facts)',
    "run_id='gaussians'",
    f'{_STAGE_GAUSSIANS_TEST}::test_other_facts_give_other_noise',
  ),
  _one(
    'Gaussians of classes: used elsewhere, they bring no ledger',
    'dp_diffusion/release.py',
    'dataclasses.asdict(gaussians), is_released=True)',
    'dataclasses.asdict(gaussians), is_released=False)',
    f'{_STAGE_GAUSSIANS_TEST}::test_a_run_releases_them_and_samples_from_them',
  ),
  _one(
    'A class head has equal noise for samples from another start',
    'dp_diffusion/stages/class_head.py',
    '    **start,\n',
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_a_head_names_what_samples_start_from',
  ),
  _one(
    'The image of a start has the key of the noise of a step',
    'dp_diffusion/diffusion/samplers.py',
    '_START = 2**32 - 1',
    '_START = 1',
    'tests/diffusion/samplers_test.py'
    '::test_a_start_from_images_has_the_noise_of_its_timestep',
  ),
  _one(
    'All samples of a class start from one image',
    'dp_diffusion/diffusion/samplers.py',
    'draw_fn(fold_fn(state.keys, jnp.uint32(_START)), labels)',
    'draw_fn(state.keys[:1].repeat(len(labels)), labels)',
    'tests/diffusion/samplers_test.py'
    '::test_a_start_from_images_has_the_noise_of_its_timestep',
  ),
  _one(
    'The image and the noise of a start have the same key',
    'dp_diffusion/diffusion/samplers.py',
    'fold_fn(state.keys, jnp.uint32(_START))',
    'fold_fn(state.keys, jnp.uint32(0))',
    'tests/diffusion/samplers_test.py'
    '::test_a_start_from_images_has_the_noise_of_its_timestep',
  ),
  _one(
    'A sampler of the user starts from pure noise, which was not trained on',
    'dp_diffusion/released_model.py',
    '    if not chosen.first_timestep:\n',
    '    if chosen is self.sampler:\n',
    f'{_STAGE_GAUSSIANS_TEST}::test_a_run_releases_them_and_samples_from_them',
  ),
  _one(
    'The class head is scaled by samples from pure noise',
    'dp_diffusion/stages/class_head.py',
    '      first_timestep=first,\n',
    '',
    f'{_STAGE_GAUSSIANS_TEST}::test_a_run_releases_them_and_samples_from_them',
  ),
  _one(
    'Gaussians of classes have the noise of epsilon 10 whatever epsilon is',
    'configs/recipes/machines.py',
    'privacy.epsilon, privacy.delta, 1, _SHARE_OF_GAUSSIANS',
    '10.0, privacy.delta, 1, _SHARE_OF_GAUSSIANS',
    'tests/configs/machines_test.py'
    '::test_many_classes_of_many_records_start_from_gaussians',
  ),
  _one(
    'Class head: many noised gradients are counted as one',
    _HEAD,
    '      count=self.num_steps,\n',
    '',
    f'{_STAGE_HEAD_TEST}::test_a_head_is_paid_for',
  ),
  _one(
    'Class head: activations are not bounded',
    _HEAD,
    '    z = z / np.maximum(norms, 1.0)\n',
    '',
    f'{_HEAD_TEST}::test_neighbours_differ_by_at_most_the_sensitivity',
  ),
  _one(
    'Class head: the residual of two classes is taken to be at most 1',
    _HEAD,
    '    scale = (1 - 2.0**-24) / math.sqrt(2)  # Float64 rounds p.\n',
    '    scale = 1 - 2.0**-24\n',
    f'{_HEAD_TEST}::test_neighbours_differ_by_at_most_the_sensitivity',
  ),
  _one(
    'Class head: each image of a person counts in full',
    _HEAD,
    '_cut(part / (end - first), _UNIT**2)',
    '_cut(part, _UNIT**2)',
    f'{_HEAD_TEST}::test_neighbours_differ_by_at_most_the_sensitivity',
  ),
  _one(
    'Class head: every step has the same noise',
    _HEAD,
    "statistic_keys(f'{PURPOSE}, {step}')",
    'statistic_keys(PURPOSE)',
    f'{_HEAD_TEST}::test_each_step_has_noise_of_its_own',
  ),
  _one(
    'Class head: gradients are divided by the exact number of records',
    _HEAD,
    'gradients.noised(weights, step) / num_examples',
    'gradients.noised(weights, step) / len(gradients._labels)',
    f'{_HEAD_TEST}::test_the_head_follows_from_the_noised_gradients',
  ),
  _one(
    'Class head: activations are scaled by those of the sensitive images',
    'dp_diffusion/stages/class_head.py',
    'class_head.fit_scaling(read.of(samples), widths)',
    'class_head.fit_scaling(read.of(source.images), widths)',
    f'{_STAGE_HEAD_TEST}::test_scaling_is_by_sampled_images',
  ),
  _one(
    'Class head: trained again with other noise',
    'dp_diffusion/stages/class_head.py',
    "    'head': config_lib.to_dict(config.finetune.class_head),\n",
    '',
    f'{_STAGE_HEAD_TEST}::test_another_head_is_refused',
  ),
  _one(
    'Class head: equal noise for other weights',
    'dp_diffusion/stages/class_head.py',
    "    'weights': fingerprint.first_weights(secret, params),\n",
    '',
    f'{_STAGE_HEAD_TEST}::test_other_images_weights_and_secrets_are_refused',
  ),
  _one(
    'Class head: what it is trained on is not recorded',
    'dp_diffusion/stages/class_head.py',
    "  begun_statistics.begin(workdir, begun, kept, facts, 'its class head')\n",
    '',
    f'{_STAGE_HEAD_TEST}::test_other_images_weights_and_secrets_are_refused',
  ),
  _one(
    'A secret is made anew after a class head',
    'dp_diffusion/stages/run/workdirs.py',
    '  BEGUN_CLASS_HEAD,\n',
    '',
    'tests/stages/run/run_secret_test.py::test_a_secret_that_was_drawn_from_is_not_made_anew',
  ),
  _one(
    'A class head that was replaced labels the samples',
    'dp_diffusion/release.py',
    '  beside = (_CLASS_HEAD, _GAUSSIANS)\n',
    '  beside = (_GAUSSIANS,)\n',
    f'{_STAGE_HEAD_TEST}::test_the_head_labels_the_images_of_the_stage_and_of_a_release',
  ),
  _one(
    'Samples keep the labels they were sampled for, and the card says the head',
    'dp_diffusion/stages/sample.py',
    '      labels = found.labels\n',
    '',
    f'{_STAGE_HEAD_TEST}::test_the_head_labels_the_images_of_the_stage_and_of_a_release',
  ),
  _one(
    'A class head has the noise of epsilon 10 whatever epsilon is',
    'configs/recipes/machines.py',
    '    privacy.epsilon, privacy.delta, num_steps, share\n',
    '    10.0, privacy.delta, num_steps, share\n',
    'tests/configs/machines_test.py::test_enough_records_train_a_class_head',
  ),
  _one(
    'Delta is weighed with the records of the last training alone',
    _STATEMENT,
    '  num = max(counts)\n',
    '  num = counts[-1]\n',
    'tests/privacy/statement_test.py::test_delta_against_the_largest_number_of_records',
  ),
  _one(
    'The keyed hash of a large array reads its first block alone',
    _KEYS,
    '  for start in range(0, len(rows), block):\n'
    '    digest.update(np.ascontiguousarray(rows[start : start + block])'
    '.tobytes())\n',
    '  digest.update(np.ascontiguousarray(rows[:block]).tobytes())\n',
    'tests/privacy/key_streams_test.py::test_fingerprint_of_arrays_is_by_value',
  ),
  _one(
    'A secret that the group can read is accepted',
    _KEYS,
    '    mode = stat.S_IMODE(file.stat().st_mode)\n    if mode & 0o077:\n',
    '    mode = stat.S_IMODE(file.stat().st_mode)\n    if mode & 0o007:\n',
    'tests/privacy/key_streams_test.py::test_load_refuses_loose_permissions',
  ),
  _one(
    'Any file whose name begins as those of macOS may be added to a release',
    _VERIFY,
    "  return beside not in ('', path.name) and path.with_name(beside)"
    '.exists()\n',
    "  return beside not in ('', path.name)\n",
    'tests/privacy/verify_test.py::test_other_files_are_refused_as_before',
  ),
  _one(
    'With several processes, too, a failure takes back the steps not begun',
    _JOURNAL,
    '    self._is_alone = num_processes == 1\n',
    '    self._is_alone = num_processes > 0\n',
    'tests/training/journal_test.py::test_several_processes_take_nothing_back',
  ),
  _one(
    'Weight decay acts on a leaf where its scaled parameter is trained',
    'dp_diffusion/training/optimizers.py',
    '    inner = None if params is None else _divide(params, scales)\n',
    '    inner = params\n',
    'tests/training/optimizers_test.py::test_scaled_parameters_equal_a_model_of_them',
  ),
  _one(
    'Where a link leads is not asked before metrics are called public',
    'dp_diffusion/training/metrics.py',
    '    places.append(epath.Path(os.path.realpath(path)).parent)\n',
    '    places.append(epath.Path(os.path.abspath(path)).parent)\n',
    'tests/training/metrics_test.py::test_a_tracker_gets_public_metrics_alone',
  ),
  _one(
    'A key that is not in the record of a run may be set at its resume',
    'dp_diffusion/stages/run/workdirs.py',
    '    for name in dict.fromkeys([*before, *after]):\n',
    '    for name in before:\n',
    'tests/stages/run/workdirs_test.py::test_first_difference',
  ),
  _one(
    'Class means and mean embedding of a warm-up have the same noise',
    _WARM_UP,
    '      used.embedding_mechanism,\n'
    '      streams,\n'
    '      warm_up_lib.EMBEDDING,\n',
    '      used.embedding_mechanism,\n'
    '      streams,\n'
    '      warm_up_lib.MEANS,\n',
    'tests/stages/warm_up_test.py::test_what_is_drawn_is_what_the_ledger_says',
  ),
  _one(
    'Frozen weights count in the noise over signal of the plan',
    'dp_diffusion/stages/planning/sufficiency.py',
    '  num_weights = flop_counts.num_trained(config)\n',
    '  num_weights = flop_counts.num_parameters(config)\n',
    'tests/stages/planning/sufficiency_test.py::test_the_noise_is_what_the_module_says',
  ),
  _one(
    'The test of steps has the significance of both tests of an audit',
    'dp_diffusion/stages/audit.py',
    '    (1 - _SHARE_OF_GUESSES) * significance,\n',
    '    significance,\n',
    'tests/stages/audit_test.py::test_both_tests_share_the_significance',
  ),
  _one(
    'The offset of a timestep is scaled too',
    'dp_diffusion/models/unet.py',
    '      time = timestep * config.time_scale + config.time_offset\n',
    '      time = (timestep + config.time_offset) * config.time_scale\n',
    'tests/models/unet_test.py::test_timesteps_of_another_length',
  ),
  _one(
    'An absent head size of diffusers is taken for null',
    'dp_diffusion/models/formats/diffusers_unet.py',
    "  if not config.is_none('attention_head_dim'):\n",
    "  if config['attention_head_dim'] is not None:\n",
    'tests/models/formats/diffusers_unet_test.py::test_a_head_size_that_is_absent_is_not_null',
  ),
  _one(
    'Guidance is accepted for a release without a null class',
    'dp_diffusion/sampling.py',
    '    weight = self.sampler.guidance_weight\n'
    '    if weight and not self.diffusion.label_drop_prob:\n'
    '      raise ValueError(\n'
    "        f'Expected guidance_weight={weight:g} to be 0: the network was"
    " trained'\n"
    "        ' without a null class, which guidance needs.'\n"
    '      )\n',
    '',
    'tests/released_model_test.py::test_guidance_needs_a_null_class',
  ),
  _one(
    'The noise of a noised count is taken for that of a sum',
    _CLASS_MEANS,
    '  least = max(noise_std / c, 1.0)\n',
    '  least = max(noise_std, 1.0)\n',
    'tests/baselines/class_means_test.py::test_means_depend_on_the_noised_sum_alone',
  ),
  _one(
    'The DP classifier that is tested is not the one that is released',
    _CLASSIFIER,
    '  return dp_classifier.make_predict_fn(module, state.all_ema_params)\n',
    '  return dp_classifier.make_predict_fn(module, state.all_params)\n',
    'tests/stages/baseline_test.py::test_the_classifier_that_is_tested_is_the_released_one',
  ),
  _one(
    'Runs of neighbouring seeds train the same classifiers',
    'dp_diffusion/stages/evaluation/classifier_plan.py',
    '        seed=(_MOST_SEEDS * seed + number_of_seed) % _NUM_SEEDS,\n',
    '        seed=(seed + number_of_seed) % _NUM_SEEDS,\n',
    'tests/stages/evaluation/classifier_plan_test.py::test_runs_of_two_seeds_train_no_network_alike',
  ),
  _one(
    'A classifier is found again for the same images with other labels',
    'dp_diffusion/evaluation/classifiers/trained_classifiers.py',
    'fingerprint(images) + fingerprint(labels.astype(np.int32))\n',
    'fingerprint(images)\n',
    'tests/evaluation/classifiers/trained_classifiers_test.py::test_other_images_or_labels_are_trained_on_anew',
  ),
  _one(
    'A slice that is counted from the end overlaps nothing',
    'dp_diffusion/data/same_source.py',
    '    bounds.append(value + 100 if value < 0 else value)\n',
    '    bounds.append(value)\n',
    'tests/data/same_source_test.py::test_slices_of_tfds_splits',
  ),
  _one(
    'Decoded images in the cache are open to other users',
    'dp_diffusion/data/cache.py',
    '  temporary.mkdir(mode=0o700)\n',
    '  temporary.mkdir()\n',
    'tests/data/cache_test.py::test_decoded_images_are_closed_to_others',
  ),
  _one(
    'Class head: the log says how many sensitive images there are',
    'dp_diffusion/stages/class_head.py',
    "console.progress_of('class head, features of images', num)",
    "console.progress('class head, features of images', num)",
    f'{_STAGE_HEAD_TEST}::test_nothing_that_is_printed_depends_on_the_images',
  ),
  _one(
    'Class head: shares of a person with many images are cut away',
    _HEAD,
    '    return _cut((p - one_hot) * scale, _UNIT), u\n',
    '    return _cut((p - one_hot) * scale, 64 * _UNIT), u\n',
    f'{_HEAD_TEST}::test_a_person_with_many_images_counts_as_a_record',
  ),
  _one(
    'Class head: the rows of a batch that is not the first are left out',
    _HEAD,
    'range(0, len(self._records.images), _ROWS)',
    'range(0, min(_ROWS, len(self._records.images)), _ROWS)',
    f'{_HEAD_TEST}::test_records_are_added_in_batches',
  ),
  _one(
    'A cache folder that begins at home is made in the working folder',
    'dp_diffusion/data/cache.py',
    '    return pathlib.Path(cache_dir).expanduser()\n',
    '    return pathlib.Path(cache_dir)\n',
    'tests/data/cache_test.py::test_a_folder_may_begin_at_home',
  ),
  _one(
    'A zip of an unknown compression ends in a traceback',
    'dp_diffusion/data/own/trees.py',
    '(zipfile.BadZipFile, zlib.error, NotImplementedError) as',
    '(zipfile.BadZipFile, zlib.error) as',
    'tests/data/folder_test.py'
    '::test_a_zip_with_an_unknown_compression_names_the_file',
  ),
  _one(
    'A survey leaves out the images of rare sizes',
    'dp_diffusion/data/own/image_files.py',
    "({'others': rest} if rest else {})",
    '{}',
    'tests/data/own/labelling_test.py::test_a_survey_adds_up_rare_sizes',
  ),
  _one(
    'Every file of two folders is compared',
    'dp_diffusion/data/same_source.py',
    ' and num_found < _MOST_FILES_COMPARED:',
    ':',
    'tests/data/same_source_test.py'
    '::test_sixteen_files_of_equal_names_and_sizes_are_compared',
  ),
  _one(
    'Class head: images after the first batch in memory are its own again',
    'dp_diffusion/stages/class_head.py',
    'read.of(source.images[rows], advance)',
    'read.of(source.images[:step], advance)',
    f'{_STAGE_HEAD_TEST}::test_every_image_is_read_at_its_place',
  ),
  _one(
    'Class head: a log says that there is no image at all',
    'dp_diffusion/console.py',
    '    for _ in range(shown, 100):  # There was nothing to do.\n'
    '      show()\n',
    '',
    f'{_STAGE_HEAD_TEST}::test_nothing_that_is_printed_depends_on_the_images',
  ),
  _one(
    'Class head: a sample that is not finite ends the run when all is paid',
    _HEAD,
    '  x = x[np.isfinite(x).all(axis=1)]\n',
    '',
    f'{_HEAD_TEST}::test_images_that_are_not_finite_scale_nothing',
  ),
  _one(
    'Class head: what goes on in the next rows is cut twice',
    _HEAD,
    '        if end <= start + _ROWS:  # Else the record goes on in the next'
    ' rows.\n',
    '        if True:\n',
    f'{_HEAD_TEST}::test_records_are_added_in_batches',
  ),
  _one(
    'Features of a class head: the first batch again and again',
    _HEAD_FEATURES,
    'np.arange(start, start + _BATCH_SIZE)',
    'np.arange(_BATCH_SIZE)',
    f'{_HEAD_FEATURES_TEST}::test_every_batch_is_read_and_counted',
  ),
  _one(
    'Features of a class head: scattering coefficients come first',
    _HEAD_FEATURES,
    'found.append(scattering.features(pixels))',
    'found.insert(0, scattering.features(pixels))',
    f'{_HEAD_FEATURES_TEST}'
    '::test_activations_come_first_and_then_scattering_coefficients',
  ),
  _one(
    'Features of a class head: coefficients of colours are not counted',
    _HEAD_FEATURES,
    'num_features(image_size, network.image_channels)',
    'num_features(image_size, 1)',
    f'{_HEAD_FEATURES_TEST}'
    '::test_activations_come_first_and_then_scattering_coefficients',
  ),
  _one(
    'Scattering: cells are half a pixel off',
    _SCATTERING,
    '_MARGIN - 0.5 + cell',
    '_MARGIN + cell',
    f'{_SCATTERING_TEST}::test_a_mirrored_image_has_mirrored_coefficients',
  ),
  _one(
    'Scattering: windows are twice as wide',
    _SCATTERING,
    '_WINDOW = 0.4 ',
    '_WINDOW = 0.8 ',
    f'{_SCATTERING_TEST}::test_windows_are_around_the_cells',
  ),
  _one(
    'Scattering: edges are repeated',
    _SCATTERING,
    "mode='reflect'",
    "mode='edge'",
    f'{_SCATTERING_TEST}::test_edges_are_mirrored',
  ),
  _one(
    'Class head: features are kept in too few bits',
    _HEAD,
    '.astype(np.int16)',
    '.astype(np.int8)',
    f'{_HEAD_TEST}::test_sum_is_that_of_a_loop',
  ),
  _one(
    'Class head: all kinds of features are scaled as one',
    'dp_diffusion/stages/class_head.py',
    'fit_scaling(read.of(samples), widths)',
    'fit_scaling(read.of(samples))',
    f'{_STAGE_HEAD_TEST}::test_scaling_is_by_sampled_images',
  ),
  _one(
    'A head without scattering coefficients is trained and read with them',
    'dp_diffusion/evaluation/classifiers/head_classifier.py',
    'has_scattering=head.scattering_kernel is not None',
    'has_scattering=True',
    f'{_STAGE_HEAD_TEST}'
    '::test_the_head_labels_the_images_of_the_stage_and_of_a_release',
  ),
  _one(
    'A class head that nothing paid for is sampled with',
    'dp_diffusion/release.py',
    'if name != _MODEL and digest is None and not path.exists():',
    'if name != _MODEL and digest is None:',
    'tests/release_test.py::test_a_class_head_that_nothing_paid_for_is_not_used',
  ),
  _one(
    'A file that cannot be read hides that two folders share the others',
    'dp_diffusion/data/same_source.py',
    '    except OSError:\n      continue\n',
    '    except OSError:\n      return False\n',
    'tests/data/same_source_test.py::test_a_file_that_cannot_be_read_hides_no_other',
  ),
  _one(
    'A kernel distance reads the first images of the larger set alone',
    'dp_diffusion/evaluation/metrics/kid.py',
    'rng.permutation(len(x))[: num_subsets * size].reshape(num_subsets, size)',
    'rng.permutation(num_subsets * size).reshape(num_subsets, size)',
    'tests/evaluation/metrics/kid_test.py::test_subsets_are_of_all_images',
  ),
  _one(
    'A plan takes given weights, and those it trains, for none',
    'dp_diffusion/stages/planning/sufficiency.py',
    'is_pretrained=config.reads_public_images or bool(',
    'is_pretrained=config.reads_public_images and bool(',
    'tests/stages/planning/sufficiency_test.py::test_weights_that_are_given_are_pre_trained',
  ),
  _one(
    'The release of images behind a link is not looked for',
    'dp_diffusion/release_marks.py',
    'for start in (path.absolute(), path.resolve()):',
    'for start in (path.absolute(),):',
    'tests/release_marks_test.py::test_unmarked_images_below_a_release',
  ),
  _one(
    'Class head: the log says how long its steps took',
    'dp_diffusion/stages/class_head.py',
    "'class head, step', used.num_steps, is_private=True",
    "'class head, step', used.num_steps",
    'tests/stages/class_head_test.py::test_no_time_of_the_sensitive_images_is_printed',
  ),
  _one(
    'Groups of banded noise repeat after the first block of records',
    'dp_diffusion/privacy/batch_selection.py',
    'self._words(0, start, _GROUP_DOMAIN)',
    'self._words(0, 0, _GROUP_DOMAIN)',
    'tests/privacy/batch_selection_test.py::test_groups_of_two_blocks_are_independent',
  ),
  _one(
    'Memorization: real images are judged by all held-out persons',
    'dp_diffusion/evaluation/metrics/memorization.py',
    '    persons=persons and (persons[0], persons[1][rest]),\n',
    '    persons=persons,\n',
    'tests/evaluation/metrics/memorization_test.py::test_real_images_are_judged_by_the_persons_that_stay_held_out',
  ),
  _one(
    'A share of a confusion is of the wrong class',
    'dp_diffusion/evaluation/report/accuracy_section.py',
    'formats.percent(wrong[i, j] / totals[i])',
    'formats.percent(wrong[i, j] / totals[j])',
    'tests/evaluation/report/accuracy_section_test.py::test_confusions_are_a_square_or_the_worst_of_many',
  ),
  _one(
    'The card names the first public images alone',
    'dp_diffusion/release_card.py',
    "    for entry in statement['public_data']\n  ] or",
    "    for entry in statement['public_data'][:1]\n  ] or",
    'tests/release_card_test.py::test_the_card_says_what_a_reader_must_know',
  ),
  _one(
    'The sampling command does not say the seed that it drew',
    'dp_diffusion/sample.py',
    'seed {samples.seed}, under the',
    'seed {arguments.seed}, under the',
    'tests/released_model_test.py::test_the_command_says_the_seed_that_it_drew',
  ),
  _one(
    'verify takes any RDP bound of an earlier version',
    'dp_diffusion/privacy/verify.py',
    "'private', 'epsilon', 'epsilon_pld', 'epsilon_rdp']",
    "'private', 'epsilon', 'epsilon_pld']",
    'tests/privacy/verify_test.py::test_older_words_are_not_compared',
  ),
  _one(
    'Soft labels are those of other images',
    'dp_diffusion/evaluation/classifiers/diffusion_classifier.py',
    'np.exp(self.log_probs)',
    'np.exp(self.log_probs[::-1])',
    f'{_STAGE_HEAD_TEST}::test_the_head_labels_the_images_of_the_stage_and_of_a_release',
  ),
  _one(
    'A subset of the images has the soft labels of the first images',
    'dp_diffusion/evaluation/classifiers/trained_classifiers.py',
    'soft[subset_rows(len(soft), number)]',
    'soft[:number]',
    'tests/evaluation/classifiers/trained_classifiers_test.py::test_a_subset_has_the_soft_labels_of_its_images',
  ),
  _one(
    'A classifier of other soft labels is used again',
    'dp_diffusion/evaluation/classifiers/trained_classifiers.py',
    'labelled += fingerprint(soft)',
    'fingerprint(soft)',
    'tests/evaluation/classifiers/trained_classifiers_test.py::test_other_soft_labels_are_trained_on_anew',
  ),
  _one(
    'A classifier learns the labels, and the report says soft labels',
    'dp_diffusion/evaluation/classifiers/downstream.py',
    '    targets = probabilities\n',
    '',
    'tests/evaluation/classifiers/downstream_test.py::test_a_network_learns_the_soft_labels_and_is_validated_by_the_labels',
  ),
  _one(
    'Soft labels are learned although labels were asked for',
    'dp_diffusion/stages/evaluation/measurements.py',
    "if 'synthetic' in by_source and config.evaluate.soft_labels:",
    "if 'synthetic' in by_source:",
    'tests/stages/evaluate_test.py::test_networks_learn_the_soft_labels_of_synthetic_images_if_asked',
  ),
  _one(
    'Soft labels of some shards are taken for all',
    'dp_diffusion/release.py',
    'if there and len(there) < len(found):',
    'if not found:',
    'tests/release_test.py::test_soft_labels_of_some_shards_are_refused',
  ),
  _one(
    'The parquet files of a release lack the soft labels',
    'dp_diffusion/release.py',
    '      found.class_probabilities,\n',
    '      None,\n',
    'tests/release_test.py::test_soft_labels_stand_beside_each_image_in_every_form',
  ),
  _one(
    'The TFDS form of a release lacks the soft labels',
    'dp_diffusion/release.py',
    "      has_class_probabilities=info.get('has_class_probabilities'",
    "      has_class_probabilities=info.get('none'",
    'tests/release_test.py::test_tfds_is_read_without_this_project',
  ),
  _one(
    'The metadata of a release lack the soft labels',
    'dp_diffusion/release.py',
    "contents.info.get('has_class_probabilities', False)",
    'False',
    'tests/release_test.py::test_soft_labels_stand_beside_each_image_in_every_form',
  ),
  _one(
    'The report is silent on soft labels',
    'dp_diffusion/stages/evaluate.py',
    '    has_soft_labels=measured.accuracies.has_soft_labels,\n',
    '',
    'tests/stages/evaluate_test.py::test_networks_learn_the_soft_labels_of_synthetic_images_if_asked',
  ),
  _one(
    'Soft labels are said of classifiers that learned labels',
    'dp_diffusion/stages/evaluation/measurements.py',
    'member.source in soft and member.config.name != classifier_plan.REFERENCE',
    'soft',
    'tests/stages/evaluate_test.py::test_no_soft_labels_are_claimed_where_none_are_learned',
  ),
  _one(
    'An audit that guesses no canary to be included guesses so of all',
    'dp_diffusion/privacy/audit.py',
    'highest = order[len(order) - num_guesses_in :]',
    'highest = order[-num_guesses_in:]',
    'tests/privacy/audit_test.py::test_guesses_of_one_kind_alone_are_right_or_wrong_alone',
  ),
  _one(
    'Released images in a folder below ~ bring no ledger',
    'dp_diffusion/data/same_source.py',
    'return (pathlib.Path(config.path).expanduser(),) if config.path else ()',
    'return (pathlib.Path(config.path),) if config.path else ()',
    'tests/data/same_source_test.py::test_the_place_of_images_is_where_they_are_read',
  ),
  _one(
    'Drawing again asks for a class at twice the noise levels',
    'dp_diffusion/sampling.py',
    'num_levels=sampler_steps.OWN_CLASS_LEVELS,',
    'num_levels=diffusion_classifier.NUM_LEVELS,',
    'tests/sampling_test.py::test_a_class_is_asked_for_at_as_many_noise_levels_as_are_counted',
  ),
  _one(
    'The threshold of votes is in votes, not in stds of noise',
    'dp_diffusion/baselines/private_evolution.py',
    'shares = to_shares(votes, config.threshold * noise_std)',
    'shares = to_shares(votes, config.threshold)',
    'tests/baselines/private_evolution_test.py::test_the_threshold_is_in_units_of_the_noise',
  ),
  _one(
    'Maps of DP-MEPF of an odd side stay larger than allowed',
    'dp_diffusion/baselines/dp_mepf.py',
    'factor = -(-max(maps.shape[1:3]) // max_side)',
    'factor = max(1, max(maps.shape[1:3]) // max_side)',
    'tests/baselines/dp_mepf_test.py::test_no_side_is_longer_than_the_largest_one',
  ),
  _one(
    'Private steps start from the last weights of a warm-up',
    'dp_diffusion/stages/warm_up.py',
    'return jax.device_get(state.ema_params)',
    'return jax.device_get(state.params)',
    'tests/stages/warm_up_test.py::test_private_steps_start_from_averaged_weights',
  ),
  _one(
    'A column of persons that divides images is dropped unsaid',
    'dp_diffusion/data/own/labelling.py',
    'tables.check_unread(table, columns, is_divided, config)',
    'tables.check_unread(table, columns, True, config)',
    'tests/data/own/labelling_test.py::test_a_division_in_a_table_of_any_kind_is_refused',
  ),
  _one(
    'A changed image that a link leads to is not seen',
    'dp_diffusion/data/own/trees.py',
    'return file.stat()',
    'return file.lstat()',
    'tests/data/folder_test.py::test_a_file_behind_a_link_is_decoded_again_when_it_changes',
  ),
  _one(
    'A download that was cut short is kept as whole',
    'dp_diffusion/data/camelyon17_release.py',
    'if total and done != total:',
    'if total and done > total:',
    'tests/data/camelyon17_test.py::test_a_download_cut_short_leaves_nothing',
  ),
  _one(
    'Planes of colour of a deep TIFF are cut up as pixels',
    'dp_diffusion/data/image_formats.py',
    'if page.planarconfig == 2 and samples > 1:',
    'if page.planarconfig == 2 and samples > 9:',
    'tests/data/image_formats_test.py::test_planes_apart_are_one_image',
  ),
  _one(
    'A few floating images among deep ones need no range',
    'dp_diffusion/data/value_range.py',
    'if not all(depth.is_declared for depth in depths):',
    'if not any(depth.is_declared for depth in depths):',
    'tests/data/image_formats_test.py::test_one_image_of_no_fixed_range_makes_a_set_need_one',
  ),
  _one(
    'FID is extrapolated from samples smaller than the features',
    'dp_diffusion/evaluation/metrics/fid.py',
    'first = max(2, num // 10, min(synthetic.shape[1] + 1, num // 2))',
    'first = max(2, num // 10)',
    'tests/evaluation/metrics/fid_test.py::test_the_smallest_sample_has_more_images_than_features',
  ),
  _one(
    'As many images as features end an evaluation',
    'dp_diffusion/evaluation/metrics/quality.py',
    'has_frechet = allow_few or fewest > extractor.num_features',
    'has_frechet = allow_few or fewest >= extractor.num_features',
    'tests/evaluation/metrics/quality_test.py::test_too_few_images_for_a_covariance_leave_out_that_distance_alone',
  ),
  _one(
    'Distances of copies are per pixel, not per pixel value',
    'dp_diffusion/evaluation/report/memorization_section.py',
    'scale = math.sqrt(math.prod(image_shape))',
    'scale = math.sqrt(math.prod(image_shape[:2]))',
    'tests/evaluation/report/memorization_section_test.py::test_distances_are_root_mean_squares_over_pixel_values',
  ),
  _one(
    'Gaussians are chosen as if a class had all records',
    'configs/recipes/machines.py',
    'max(1, privacy.num_examples) / num_classes,',
    'max(1, privacy.num_examples),',
    'tests/configs/machines_test.py::test_many_classes_of_many_records_start_from_gaussians',
  ),
  _one(
    'Half of an odd side is rounded down in weights of others',
    'dp_diffusion/models/formats/network.py',
    'sides = [-(-side >> level) for level in range(levels)]',
    'sides = [side >> level for level in range(levels)]',
    'tests/models/formats/foreign_test.py::test_published_networks_fit',
  ),
  _one(
    'A released parquet file in capitals brings no ledger',
    'dp_diffusion/release_marks.py',
    'if name.lower().endswith(_PARQUET):',
    'if name.endswith(_PARQUET):',
    'tests/release_marks_test.py::test_the_mark_of_a_parquet_file_leads_to_its_own_statement',
  ),
  _one(
    'A release of 1,000 images is tagged as one of fewer',
    'dp_diffusion/release_card.py',
    'if num_images < most]',
    'if num_images <= most]',
    'tests/release_card_test.py::test_sizes_are_those_of_hugging_face',
  ),
  _one(
    'A TFDS dataset at another size is another part of it',
    'dp_diffusion/data/same_source.py',
    "re.sub(_SIZE, '', _split_name(c)[1]) if c.name.count('/') else ''",
    '_split_name(c)[1]',
    'tests/data/same_source_test.py::test_configs_of_tfds_datasets',
  ),
  _one(
    'A copy of a training image that occurs twice is authentic',
    'dp_diffusion/evaluation/metrics/memorization.py',
    'return float((to_train > radius[place]).mean())',
    'return float((to_train >= radius[place]).mean())',
    'tests/evaluation/metrics/memorization_test.py::test_a_copy_of_an_image_that_occurs_twice_is_not_authentic',
  ),
  _one(
    'Of equally good settings the first gives the regret',
    'dp_diffusion/evaluation/classifiers/model_selection.py',
    'top1_regret=float(real.max() - real[chosen].mean()),',
    'top1_regret=float(real.max() - real[np.argmax(synthetic)]),',
    'tests/evaluation/classifiers/model_selection_test.py::test_regret_is_the_mean_over_equal_choices',
  ),
  _one(
    'Without noise the bias-corrected Adam divides by nothing',
    'dp_diffusion/training/optimizers.py',
    'floor = config.noise_floor * phi + config.eps**2',
    'floor = config.noise_floor * phi',
    'tests/training/optimizers_test.py::test_adam_bc_is_that_of_the_paper',
  ),
)
