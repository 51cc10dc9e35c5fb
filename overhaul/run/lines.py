"""The lines of a metrics.jsonl, as they are found in a file."""


def are_metrics(lines: object) -> bool:
    """Whether they are of epochs one after the other, each with its accuracies."""
    return isinstance(lines, list) and all(
        isinstance(line, dict)
        and line.get("epoch") == number
        and all(type(line.get(name)) in (int, float) for name in ("test_top1", "test_top5"))
        for number, line in enumerate(lines, 1)
    )
