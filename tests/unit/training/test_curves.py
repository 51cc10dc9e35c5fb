"""The picture that a run leaves of itself."""

import shutil

import pytest
from support.runs import quick

import overhaul
from overhaul.options import Run
from overhaul.report import plots
from overhaul.run import replaced
from overhaul.run.folder import OURS, RunFolder, is_student
from overhaul.training import trainer
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
    overhaul.report(str(run))
    replaced.set_aside(run, OURS)
    assert {path.name for path in run.iterdir()} - {".lock"} == {replaced.ASIDE}


def test_a_run_that_is_cut_off_before_its_picture_does_not_count_as_finished(
    finished, digits_teacher, tmp_path, monkeypatch
):
    """Who goes on with a study trusts final/, and would leave the run without its curves.png."""
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    for each in (run / "final").iterdir():
        each.unlink()

    def cut_off(_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "leave_curves", cut_off)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(quick(digits_teacher), Run(output_dir=str(run)))
    assert not is_student(run / "final")
    trainer.train(quick(digits_teacher), Run(output_dir=str(run)))
    assert is_student(run / "final")
