"""What was promised, what was spent, and the noise that pays for it.

`mechanism`, `accounting`, `ledger`, `statement` and `verify` are numbers only
and import no jax; the others run on the road of a private step.
"""
