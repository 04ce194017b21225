"""Where images come from: sources by name, augmentation, batches."""
