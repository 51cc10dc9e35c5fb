"""What a command that was cut short says of its work: where it stands, and how to go on."""

from contextlib import suppress

from overhaul.cli.arguments import parse_training
from overhaul.run import checkpoints
from overhaul.run.folder import RunFolder
from overhaul.setups import settings


def how_to_go_on(argv: list[str]) -> str:
    if not argv:
        return ""
    if argv[0] == "prepare":
        return "; the same command goes on with the files that are not whole"
    if argv[0] == "study":
        return "; its runs have saved, and the same command goes on with them"
    if argv[0] not in ("train", "demo"):
        return ""
    anew = " without --resume never --overwrite" if any(word.startswith("--overwrite") for word in argv) else ""
    return f"; the same command{anew} goes on from the last checkpoint"


def where_it_stands(argv: list[str]) -> str:
    """After a fault: which checkpoint of which folder the same command goes on from."""
    if argv[:1] != ["train"]:
        return how_to_go_on(argv)
    with suppress(Exception, SystemExit):  # the fault may lie in what this asks, too
        values = parse_training(argv[1:])
        folder = RunFolder.of(*settings(values.pop("setup"), values)).path
        if found := checkpoints.found(folder):
            return f"; nothing is lost: {folder} has {found[-1].name}{how_to_go_on(argv)}"
        return f"; {folder} has no checkpoint yet, so the same command begins anew"
    return how_to_go_on(argv)
