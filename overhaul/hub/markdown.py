"""What a card says of networks, of the maps that were compared and of licences, with nothing in it that is Markdown."""

from pathlib import Path

from overhaul.hub.entries import library_of
from overhaul.hub.students import UNKNOWN
from overhaul.recipe import FUNCTION, Net
from overhaul.report.tables import filled
from overhaul.system.markdown import escaped

LICENCES = (  # by the names that the Hub gives them; any other is "other" there
    *("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "openrail"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "unlicense"),
    *("apple-ascl", "apple-amlr", "gemma", "unknown", "other"),
)


def net_named(network: dict) -> Net:
    return Net(family=network["family"], kwargs=network["kwargs"])


def name_of(network: dict) -> str:
    net = net_named(network)
    said = library_of(net.family)
    if not said:
        return escaped(net.title)
    name = net.family.partition(":")[2]
    if said == "file":
        file, name = FUNCTION.fullmatch(net.family).groups()
        said = Path(file).name
    arguments = "".join(f" {key} {value}" for key, value in net.arguments.items())
    return escaped(f"{name}{arguments} ({said})")


def licence_line(licence: str, started_from: dict | None) -> str:
    if not started_from:
        return (
            "The weights are under the MIT licence." if licence == "mit" else f"The licence of the weights: {licence}."
        )
    source = escaped(str(started_from["source"]))
    if licence == UNKNOWN:
        return f"The weights started from those of {source}: see the weights it started from for their licence."
    return f"The weights started from those of {source}, whose licence they have: {escaped(licence)}."


def positions(record: dict) -> list[tuple[str, ...]]:
    """A table of the maps that were compared, under its head; none of a record of an earlier release."""
    rows = [
        (
            pair.get("method", ""),
            f"{pair['weight']:.4g}",
            place(pair["student"]) + (", resized" if pair["student"].get("resized") else ""),
            place(pair["teacher"]),
            escaped(str(pair["teacher"].get("margin") or "")),
        )
        for pair in record.get("positions") or []
    ]
    return filled([("method", "weight", "student", "teacher", "margin"), *rows]) if rows else []


def place(of: dict) -> str:
    shape = f"{of['channels']} x {of['height']} x {of['width']}"
    module = str(of["module"]).replace("`", "").replace("|", " ")
    return f"`{module}`, /{of['stride']}, {shape}, {escaped(str(of['activation']))}"
