"""What is told of any Backbone without computing anything: its stages, and what nothing depends on."""

from dataclasses import replace

from torch import Tensor, nn

from overhaul.discovery import Feature, described, on_a_copy
from overhaul.models.backbone import Backbone
from overhaul.models.hooked import Hooked

PASSES = 8  # in training mode, before a parameter that only the others reach counts as one that nothing depends on


def stages(network: Backbone, image_size: int) -> list[Feature]:
    """The features of a network for images of image_size x image_size, shallow to deep.

    Those of a Hooked are for the size that it was made with.
    """
    if isinstance(network, Hooked):
        return network.features
    names = {module: name for name, module in network.named_modules()}
    found = described(network, image_size)
    return [as_told(each, norm, names) for each, norm in zip(found, network.norms, strict=True)]


def as_told(feature: Feature, norm: nn.Module | list[nn.Module] | None, names: dict[nn.Module, str]) -> Feature:
    """A feature with the margin that its network tells by Backbone.norms."""
    if norm is None:
        return replace(feature, closed=False)
    norms = tuple(names[each] for each in (norm if isinstance(norm, list) else [norm]))
    return replace(feature, norms=norms, closed=True, behind="direct" if feature.behind == "direct" else "sum")


def unreached(network: Backbone, image_size: int, with_features: bool = True) -> list[str]:
    """The parameters on which neither the logits nor the features depend in training mode, such as auxiliary heads'.

    By the plain network's names. with_features: whether there are any. A pass that skips layers at random is repeated.
    """

    def ignored(twin: nn.Module, images: Tensor) -> list[str]:
        left = without_gradient(twin.train(), images, with_features)
        doubtful = left - without_gradient(twin.eval(), images, with_features) if left else set()
        for _ in range(PASSES if doubtful else 0):
            left &= without_gradient(twin.train(), images, with_features)
        return [name for name, _ in twin.bare.named_parameters() if name in left]

    if isinstance(network, Hooked) and with_features:
        _ = network.features  # which are found once, before the copies
    return on_a_copy(network, image_size, ignored)


def without_gradient(twin: Backbone, images: Tensor, with_features: bool) -> set[str]:
    twin.zero_grad(set_to_none=True)
    logits, features = twin.forward_stages(images) if with_features else (twin(images), ())
    total = sum(each.float().sum() for each in (logits, *features) if each.requires_grad)
    if isinstance(total, Tensor):
        total.backward()
    return {name for name, each in twin.bare.named_parameters() if each.requires_grad and each.grad is None}


def sync_bn(network: nn.Module) -> nn.Module:
    """The network with BatchNorms that share their statistics between processes; features are found anew afterwards.

    timm's converter keeps the activations that timm's norms hold, which torch's would drop.
    """
    for each in network.modules():
        if isinstance(each, Hooked):
            each.detach()
    try:
        from timm.layers import convert_sync_batchnorm
    except ImportError:
        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert_sync_batchnorm(network)
