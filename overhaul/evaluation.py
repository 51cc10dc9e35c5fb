"""Exact top-1 and top-5 accuracy over a whole test set, for any number of processes."""

import torch
from torch import nn


@torch.inference_mode()
def evaluate(net: nn.Module, loader, normalize, accelerator) -> dict[str, float | int]:
    """Accuracies in percent and the number of images: {"top1", "top5", "images"}.

    net: unwrapped, put into eval mode and left there. loader: this process's share of the test images. Each image
    counts once: the counts are summed over the processes and must make up the whole set.
    """
    net.eval()
    counts = torch.zeros(3, dtype=torch.int64, device=accelerator.device)
    for images, labels in loader:
        with accelerator.autocast():
            logits = net(normalize(images))
        labels = labels.to(logits.device)
        best = logits.float().topk(min(5, logits.shape[1])).indices == labels[:, None]
        counts += torch.stack([best[:, 0].sum(), best.sum(), torch.tensor(len(labels), device=logits.device)])
    top1, top5, images = accelerator.reduce(counts, "sum").tolist()
    assert images == len(loader.images), f"{images} of {len(loader.images)} test images were counted"
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "images": images}
