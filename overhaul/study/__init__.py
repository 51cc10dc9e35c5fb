"""A study: the product of setups, methods, seeds and other settings as runs of one folder, side by side, resumable."""
