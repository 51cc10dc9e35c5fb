"""Exact top-1 and top-5 accuracy over a whole test set, for any number of processes."""

import torch
from torch import nn


@torch.inference_mode()
def evaluate(net: nn.Module, loader, normalize, accelerator, rounds=iter) -> dict[str, float | int]:
    """Accuracies in percent and the number of images: {"top1", "top5", "images"}.

    net: unwrapped, put into eval mode and left there. loader: this process's share of the test images; one with the
    label -1 was broken and is left out. Each image counts once: the counts are summed over the processes and, with the
    broken ones, must make up the whole set, loader.expected (None where nobody knows). rounds: gives the loader's
    batches on, and may stop between two of them.
    """
    net.eval()
    counts = torch.zeros(4, dtype=torch.int64, device=accelerator.device)
    for images, labels in rounds(loader):
        with accelerator.autocast():
            logits = net(normalize(images))
        labels = labels.to(logits.device, non_blocking=True)
        best = logits.float().topk(min(5, logits.shape[1])).indices == labels[:, None]
        whole = labels >= 0
        counts += torch.stack([best[:, 0].sum(), best.sum(), whole.sum(), (~whole).sum()])
    top1, top5, images, broken = accelerator.reduce(counts, "sum").tolist()
    expected = loader.expected
    assert expected in (None, images + broken), f"{images + broken} of {expected} test images were counted"
    if not images:
        raise ValueError(f"all {broken} test images are broken")
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "images": images}
