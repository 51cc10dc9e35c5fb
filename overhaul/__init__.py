"""Feature distillation for convolutional networks: "A Comprehensive Overhaul of Feature Distillation" on Accelerate."""


def load(source: str, revision: str | None = None):
    """A trained network in eval mode, from a run's folder, a checkpoint file or the Hub; see overhaul.hub.load."""
    from overhaul.hub import weights as hub

    return hub.load(f"{source}@{revision}" if revision else source)
