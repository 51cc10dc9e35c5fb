"""From the name or the path of an image set to batches."""
