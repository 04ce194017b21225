"""What the synthetic images are worth: classifiers, distances, the report."""
