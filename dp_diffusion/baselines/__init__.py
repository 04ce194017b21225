"""What others do under the same promise.

DP-MERF and DP-MEPF fit a generator to a noised mean, Private Evolution lets the
sensitive images vote for public ones, and a classifier is trained by DP-SGD.

Class means, DP-MERF and votes for public classes also warm up our own training
(`warm_up`), and its samples may start from the Gaussians of classes.
"""
