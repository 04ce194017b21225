"""Distances between sets of images, and the search for copies."""
