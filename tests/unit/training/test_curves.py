"""The picture that a run leaves of itself."""

import shutil

from overhaul.report import plots
from overhaul.run import replaced
from overhaul.run.folder import OURS, RunFolder
from overhaul.training.curves import leave_curves


def test_a_picture_that_cannot_be_drawn_is_a_warning_and_goes_with_the_run_that_is_replaced(
    finished, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    (run / "curves.png").unlink()
    leave_curves(RunFolder(run))
    assert (run / "curves.png").read_bytes() == (finished.folder / "curves.png").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(plots, "draw", lambda *_: 1 / 0)
        leave_curves(RunFolder(run))
    assert "curves.png could not be drawn (division by zero); the run is whole without it" in capsys.readouterr().err
    replaced.set_aside(run, OURS)
    assert {path.name for path in run.iterdir()} - {".lock"} == {replaced.ASIDE}
