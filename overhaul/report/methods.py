"""The methods told: what they are, what each learns, and its settings and weights."""

from overhaul.report.tables import plain
from overhaul.system.messages import text_table


def methods_text(found: list[dict], called: dict) -> str:
    """What api.methods returns: what the methods are, and what each has in the setup."""
    are = [("method", "paper", "year", "compares")]
    have = [("method", "labels", "learned", "teacher", "label_weight", "distill_weight", "ramp_epochs", "settings")]
    for each in found:
        paper = each["paper"] or {"title": "-", "year": "-"}
        are.append((each["method"], short(paper["title"]), str(paper["year"]), each["compares"]))
        learned = "-" if each["learned_parameters"] is None else f"{each['learned_parameters']:,}"
        weight = "none known" if each["needs"] and each["distill_weight"] is None else plain(each["distill_weight"])
        recipe = plain(each["label_weight"]), weight, plain(each["ramp_epochs"])
        how = each["labels"], learned, plain(each["teacher_norm"])
        have.append((each["method"], *how, *recipe, plain(each["settings"])))
    return "\n".join([text_table(are), "", text_table(have), "", *method_notes(found, called)])


def short(title: str, most: int = 60) -> str:
    return title if len(title) <= most else title.partition(":")[0]


def method_notes(found: list[dict], called: dict) -> list[str]:
    reasons = {}
    for each in found:
        if each["without"]:
            reasons.setdefault(each["without"], []).append(each["method"])
    switched = [
        f"with --method.{name} {each['method']} has {plain(values)}"
        for each in found
        for name, values in each["switched"].items()
    ]
    return [
        *(f"learned -: {reason} ({', '.join(names)})" for reason, names in reasons.items()),
        *switched,
        f"of --setup {called.get('setup', 'cifar_c')}; learned: parameters beside the student, thrown away afterwards; "
        f"teacher: the statistics of its BatchNorms",
        "loss: label_weight x cross-entropy + distill_weight x the method's, which grows over ramp_epochs",
        "--method kd --method.temperature 2 sets one; --method overhaul+kd sums several up, each with its weight",
    ]
