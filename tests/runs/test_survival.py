"""What happens to a run between its files, to its data workers, and to its flags and threads between two starts."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from support.jpegs import write_jpegs
from support.runs import DIGITS, digests, flags, outcome, quick, refused, stop

from overhaul.data.loaders import CentredBatches
from overhaul.options import Run
from overhaul.run import checkpoints
from overhaul.system.messages import UserError
from overhaul.system.preemption import Preempted, installed, stop_at_once
from overhaul.training.trainer import Trainer, train


def test_told_to_stop_while_a_checkpoint_is_written(digits_teacher, finished, monkeypatch, tmp_path):
    """Each time that files lie there without their checksums: at the end of the first epoch, and of the last."""
    setup, run, complete = quick(digits_teacher), Run(output_dir=str(tmp_path / "run")), checkpoints.complete

    def told(*arguments) -> None:
        assert list(checkpoints.unfinished(tmp_path / "run").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        complete(*arguments)

    for where in ("step 1 of epoch 2", "epoch 2"):
        with (
            monkeypatch.context() as patch,
            installed(stop_at_once),
            pytest.raises(Preempted, match=f"by SIGTERM, and saved after {where}; the same command goes on from epoch"),
        ):
            patch.setattr(checkpoints, "complete", told)
            train(setup, run)
        assert not (tmp_path / "run" / "final").exists()
    assert outcome(train(setup, run)) == outcome(finished)


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """A run whose images workers decode: the setup, where and how, and what comes of it."""
    folder = tmp_path_factory.mktemp("jpegs")
    setup = replace(DIGITS, method="original", batch_size=2, image_size=32, crop_area=(0.2, 1.0), num_classes=22)
    setup, run = replace(setup, epochs=2), Run(data_path=write_jpegs(folder), workers=2, skip_broken=1)
    return setup, run, outcome(train(setup, replace(run, output_dir=str(folder / "whole"))))


def kill_a_worker(patch) -> None:
    """While the third step is taken."""
    after = Trainer.after_step

    def after_step(self) -> None:
        if self.state.step == 3 and self.state.epoch == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        after(self)

    patch.setattr(Trainer, "after_step", after_step)


def kill_the_test_s_worker(patch) -> None:
    patch.setattr(CentredBatches, "__getitem__", lambda self, rows: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("kill", [kill_a_worker, kill_the_test_s_worker])
def test_a_killed_data_worker_is_one_line_and_the_run_goes_on(cropped, monkeypatch, tmp_path, kill):
    setup, run, whole = cropped
    run = replace(run, output_dir=str(tmp_path / "run"))
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"^a worker that decodes images died, .*: the same command goes on, .*\)$"),
    ):
        kill(patch)
        train(setup, run)
    assert not multiprocessing.active_children()
    assert outcome(train(setup, run)) == whole


def test_what_would_change_the_bits_is_refused(digits_teacher, finished, tmp_path, overhaul):
    shutil.copytree(finished.folder, tmp_path / "run")
    before = digests(tmp_path / "run")
    result = overhaul(*flags(digits_teacher, tmp_path / "run", "--compile", "default"))
    refused(result, "belongs to another configuration (compile: no there, default here); name another folder")
    assert digests(tmp_path / "run") == before


def test_another_number_of_threads_is_said(digits_teacher, finished, tmp_path, overhaul):
    """It goes on, though sums in another order may end in other bits."""
    shutil.copytree(finished.folder, tmp_path / "run")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        result = overhaul(*flags(digits_teacher, tmp_path / "run"))
    finally:
        torch.set_num_threads(threads)
    words = f"resumed after epoch 2; it ran on {threads} thread{'s' * (threads > 1)} before and on {threads + 1} now"
    assert result.status == 0 and words in result.out, result
    assert "before and on" not in overhaul(*flags(digits_teacher, tmp_path / "run")).out


@pytest.mark.slow
def test_compiled_networks_that_were_stopped_end_the_same(digits_teacher, few_digits, monkeypatch, tmp_path):
    setup, run = quick(digits_teacher, batch_size=16), Run(data_path=few_digits, compile="default")
    whole = train(setup, replace(run, output_dir=str(tmp_path / "whole")))
    run = replace(run, output_dir=str(tmp_path / "run"))
    stop(monkeypatch, setup, run, 4)
    assert outcome(train(setup, run)) == outcome(whole)
