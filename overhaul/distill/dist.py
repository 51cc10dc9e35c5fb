"""DIST: correlations of the class probabilities (Huang et al., NeurIPS 2022)."""

from typing import ClassVar

from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper


class DIST(Distiller):
    """DIST (distillation from a stronger teacher) asks that the class probabilities of teacher and student correlate,
    not that they are equal. What their correlation lacks to 1 is added to the cross-entropy: over the classes of each
    image, and over the images of a batch for each class.

    Args:
        beta: weight of the correlation over the classes of each image, 0 or more
        gamma: weight of the correlation over the images for each class, 0 or more
        temperature: what the logits are divided by, above 0
    """

    paper = Paper(
        title="Knowledge Distillation from A Stronger Teacher",
        authors="Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang",
        venue="Advances in Neural Information Processing Systems (NeurIPS)",
        year=2022,
        key="huang2022knowledge",
    )
    compares = "correlations of class probabilities"
    needs = "logits"
    least_images = 2
    defaults: ClassVar = {"cifar": {"distill_weight": 2.0}, "imagenet": {"temperature": 1.0}}

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student, teacher)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """T^2 times what the mean correlations, each with its weight, lack to 1."""
        mine, theirs = ((each.logits / self.temperature).softmax(1) for each in (student, teacher))
        between, within = 1 - correlation(mine, theirs), 1 - correlation(mine.T, theirs.T)
        return self.temperature**2 * (self.beta * between + self.gamma * within)


def correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson's, of each row with its partner, averaged over the rows; 0 for a row that is constant."""
    mine, theirs = (each - each.mean(1, keepdim=True) for each in (student, teacher))
    return ((mine * theirs).sum(1) / (mine.norm(dim=1) * theirs.norm(dim=1) + 1e-8)).mean()


Method = DIST
