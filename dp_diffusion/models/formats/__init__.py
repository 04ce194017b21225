"""Weights that other projects have published, in their own files.

`foreign` is where to start: it reads a file of any known format.
"""
