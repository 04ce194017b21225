"""Classifiers trained on one set of images and tested on another."""
