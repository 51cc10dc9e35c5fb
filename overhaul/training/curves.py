"""The picture that a run leaves of itself."""

from overhaul.hub import card
from overhaul.report import plots
from overhaul.run.folder import RunFolder
from overhaul.system.files import write_bytes
from overhaul.system.messages import first_line, warn


def leave_curves(folder: RunFolder) -> None:
    """Draw the curves.png of a run that has ended; whatever keeps it from being drawn is a warning."""
    file = folder.path / "curves.png"
    try:
        record, metrics = folder.read()
        write_bytes(file, plots.draw(metrics, card.title(record)))
    except Exception as error:  # the run is whole, and no picture is worth its end
        warn(f"{file} could not be drawn ({first_line(error)}); the run is whole without it")
