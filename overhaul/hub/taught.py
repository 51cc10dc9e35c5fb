"""What a card says of the methods that taught a student: what they do, their settings, and what to cite."""

from overhaul import catalogue
from overhaul.methods import flat, parts
from overhaul.system.markdown import escaped

FIELDS = {"title": "title", "author": "authors", "booktitle": "venue", "year": "year"}  # of BibTeX and of a Paper


def known(record: dict) -> dict[str, catalogue.Method | None]:
    """The methods of a record by their names; None for one that this release does not have."""
    names = catalogue.methods()
    return {name: catalogue.method(name) if name in names else None for name in parts(record["method"])}


def by_features(record: dict) -> bool:
    return any(each and each.needs == "features" for each in known(record).values())


def about(record: dict) -> str:
    """What the methods do; of one that is not known its name alone."""
    found = {escaped(name): each and each.about for name, each in known(record).items()}
    if len(found) == 1:
        ((name, text),) = found.items()
        return text or f"The method is {name}."
    summed = f"The losses of {len(found)} methods are added to the cross-entropy, each with a weight of its own."
    return "\n\n".join([summed, *(f"**{name}**" + f": {text}" * bool(text) for name, text in found.items())])


def settings(record: dict) -> dict:
    """The settings of the methods, as their flags are called; none of a record of an earlier release."""
    found = record.get("method_settings") or {}
    found = found if len(found) > 1 else found.get(record["method"], {})
    return {f"method.{name}": each for name, each in flat(found).items()}


def citations(record: dict) -> list[str]:
    """The methods' papers in BibTeX."""
    return [bibtex(each.paper) for each in known(record).values() if each and each.paper]


def bibtex(paper: dict) -> str:
    lines = [f"  {field} = {{{paper[ours]}}}" for field, ours in FIELDS.items()]
    return f"@inproceedings{{{paper['key']},\n" + ",\n".join(lines) + "\n}"
