"""Mechanisms, accounting, ledger and statement; selection, clipping and noise.

`mechanism`, `accounting`, `ledger`, `statement` and `verify` are numbers only
and import no jax; the others run in a private step.
"""
