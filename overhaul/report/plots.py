"""A run's curves as a picture."""

import io


def draw(metrics: list[dict], title: str) -> bytes:
    """A PNG of losses and accuracies over the epochs. metrics: the lines of metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in metrics]

    def plot(axes, key: str, label: str) -> None:
        axes.plot(epochs, [line[key] for line in metrics], label=label, marker="." if len(epochs) < 20 else None)

    apart = [key for key in metrics[0] if key.startswith("distill_loss.")]
    is_distilled = any(line["distill_loss"] for line in metrics)
    plot(losses, "cross_entropy", "cross-entropy, unweighted" if is_distilled else "cross-entropy")
    for key in apart or ["distill_loss"] * is_distilled:
        plot(losses, key, f"{key.partition('.')[2] or 'distillation'}, weighted")
    plot(accuracies, "train_top1", "training, top-1")
    plot(accuracies, "test_top1", "test, top-1")
    plot(accuracies, "test_top5", "test, top-5")
    for axes, words in ((losses, "loss"), (accuracies, "accuracy in percent")):
        axes.set(xlabel="epoch", ylabel=words)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title, parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return picture.getvalue()
