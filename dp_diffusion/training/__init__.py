"""From a sum of clipped gradients to trained weights, on many devices.

`step` holds the pure functions, `parallel` runs them on every device, `state`
and `optimizers` are what they change and how.
"""
