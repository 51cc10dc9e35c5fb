"""Two processes on one GPU, over gloo; and a run on the CPU of a machine that has a GPU."""

import os
import signal
import subprocess

from support.gloo import PLACE
from support.gpu import BOTH, ON_A_GPU, environment, finish, start, trained_on, wait_for_a_checkpoint
from support.one_step import one_step
from support.places import TESTS
from support.ranks import Ranks, free_port
from support.runs import distilling


@BOTH
def test_loss_and_gradient_are_those_of_one_process(device, digits_teacher, tmp_path):
    """In fp32 with BatchNorm in eval mode; a GPU takes other kernels for half a batch."""
    alone, bound = one_step(str(digits_teacher), 1), 1e-4 if device == "cuda" else 1e-5
    trained_on(device)
    ranks = Ranks(tmp_path, **environment(device), **PLACE)
    try:
        both = ranks("support.gloo:step_on", device, str(digits_teacher), 1)
    finally:
        ranks.close()
    for theirs in both:
        assert theirs.keys() == alone.keys()
        for name, value in alone.items():
            error = (theirs[name] - value).norm() / value.norm()
            assert value.norm() > 0 and error < bound, (name, error)


def process(device: str, rank: int, port: int, *arguments) -> subprocess.Popen:
    where = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **PLACE}
    return start(device, TESTS / "support" / "gloo.py", *arguments, **where)


@BOTH
def test_the_end_of_one_process_ends_the_other_with_a_line(device, digits_teacher, tmp_path):
    flags = distilling(digits_teacher, "--output_dir", tmp_path / "run", "--checkpoint_steps", 5, epochs=50)
    port = free_port()
    main, other = (process(device, rank, port, "train", *flags) for rank in range(2))
    try:
        wait_for_a_checkpoint(main, tmp_path / "run")
        os.kill(other.pid, signal.SIGKILL)
        said = finish(main, status=2)
    finally:
        for each in (main, other):
            each.kill()
            each.communicate()
    assert f"2 x {'cpu' if device == 'cpu' else ''}" in said
    lines = [line for line in said.splitlines() if line.startswith("overhaul: ")]
    assert len(lines) == 1 and "another process of this run has ended; look for its own message" in lines[0], said
    assert "Traceback" not in said, said


ON_THE_CPU = """
import sys
import torch
from overhaul.cli.main import main
assert torch.cuda.is_available()
assert main(sys.argv[1:]) == 0
assert not torch.cuda.is_initialized()
"""


@ON_A_GPU
def test_a_run_on_the_cpu_makes_no_context_of_the_gpu(device, digits_teacher, few_digits, tmp_path):
    """With a test and a checkpoint, from which it goes on."""
    flags = ["--batch_size", 16, "--data_path", few_digits, "--output_dir", tmp_path / "run"]
    for more in ([], ["--resume_with", "epochs=2"]):
        said = finish(start("cpu", "-c", ON_THE_CPU, "train", *distilling(digits_teacher, *flags, *more, epochs=1)))
        assert "1 x cpu" in said
