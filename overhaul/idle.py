"""Settings that would change nothing, and are refused; imports without torch."""

from overhaul import methods, schedule
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.system.messages import UserError
from overhaul.usual import OF_METHOD


def refuse_idle(row: Setup, setup: Setup, run: Run) -> None:
    """UserError for a setting that is not the row's, or not the usual one, and would change nothing."""
    idle = {}
    if setup.method == "original":
        alone = ("teacher", *OF_METHOD, "beside")
        idle |= dict.fromkeys(alone, "--method original trains the student alone")
    idle |= schedule.idle(setup)
    if setup.crop_area:
        idle["pad"] = "with --crop_area there is no border"
    if not run.streaming:
        idle |= dict.fromkeys(("shuffle_buffer", "stream_images"), "it goes with --streaming")
    if setup.data == "digits" and not run.data_path:
        columns = ("image_column", "label_column", "class_names", "test_resize", "num_classes")
        broken = ("skip_broken", "max_pixels")
        idle |= dict.fromkeys((*columns, *broken), "the digits come from scikit-learn, as they are")
    for role in ("student", "teacher") if "features" not in methods.needs(setup.method) else ():
        if (net := getattr(setup, role)) and net.positions:
            why = "trains the student alone" if setup.method == "original" else "compares no maps"
            raise UserError(f"--{role}.positions would change nothing: --method {setup.method} {why}")
    for name, reason in idle.items():
        asked, usual = (setup, row) if hasattr(setup, name) else (run, Run())
        if getattr(asked, name) and getattr(asked, name) != getattr(usual, name):
            raise UserError(f"--{name} would change nothing: {reason}; leave it out")
