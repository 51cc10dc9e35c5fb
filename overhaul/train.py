"""The script that `accelerate launch` starts: `overhaul train` by another name."""

import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    if Path(sys.path[0]).resolve() == folder:
        sys.path[0] = str(folder.parent)  # else its folders would pass for modules of their names
    from overhaul.cli.main import command

    command(["train", *sys.argv[1:]])
