"""launch/slurm.sh under a real SLURM on this machine, where its daemons and root are there."""

import contextlib
import shutil
import sys
from pathlib import Path

import pytest
from support.places import REPOSITORY
from support.runs import teaching
from support.slurm_cluster import THERE, Slurm, started

pytestmark = [
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(not THERE, reason="needs slurmctld, slurmd, munged (apt-get install slurm-wlm munge) and root"),
]
SMALL = ("--gres=gpu:2", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with started(folder) as slurm:
        yield slurm
    slurm.wait_for(lambda: not processes_of(folder), 10)


def processes_of(folder: Path) -> list[Path]:
    """The daemons and whatever they started, by the environment that they hand on."""
    mark, found = str(folder).encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes():
                found.append(environment)
    return found


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose accelerate is tests/support/slurm/accelerate."""
    copy = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "launch", copy / "launch")
    (copy / "overhaul").symlink_to(REPOSITORY / "overhaul")
    script = (REPOSITORY / "tests" / "support" / "slurm" / "accelerate").read_text()
    (copy / ".venv" / "bin").mkdir(parents=True)
    accelerate = copy / ".venv" / "bin" / "accelerate"
    accelerate.write_text(script.replace("/usr/bin/env python3", sys.executable, 1))
    accelerate.chmod(0o755)
    return copy


def submit(slurm: Slurm, checkout: Path, role: str, *arguments) -> str:
    """A small job of launch/slurm.sh on the stand-in for Accelerate's launcher."""
    environment = {"ROLE": role, "PYTHONPATH": str(REPOSITORY), "VIRTUAL_ENV": ""}
    return slurm.submit(checkout, *arguments, "launch/slurm.sh", "--setup", "digits", **environment)


def log(checkout: Path, job: str) -> str:
    file = checkout / f"slurm-{job}.out"
    return file.read_text() if file.exists() else ""


def wait_until(slurm: Slurm, checkout: Path, job: str, words: str) -> None:
    slurm.wait_for(lambda: words in log(checkout, job))


def test_a_task_of_an_array_is_requeued_alone_and_has_its_own_seed(slurm, checkout):
    """The last one, whose SLURM_JOB_ID is the array's."""
    job = submit(slurm, checkout, "trains", *SMALL, "--array=5-7")
    wait_until(slurm, checkout, f"{job}_7", "trains")
    slurm.wait(f"{job}_5", f"{job}_6")
    slurm("scancel", "--signal=USR1", f"{job}_7")
    slurm.wait(job)
    for seed, starts in ((5, 1), (6, 1), (7, 2)):
        said = log(checkout, f"{job}_{seed}")
        assert said.count(f"job {job}_{seed}, start ") == starts, said
        assert said.count(f"start {starts}, seed {seed}: 2 processes on each of 127.0.0.") == 1
        assert said.count(f" --setup digits --seed {seed}\n") == starts


def test_the_jobs_of_a_cluster_take_its_options(slurm, checkout, tmp_path):
    """Fewer GPUs, none, another folder, and what SLURM begins without a word from us."""
    fewer = submit(slurm, checkout, "finishes", *SMALL, "--nodes=2")
    none = submit(slurm, checkout, "finishes", "--gpus-per-node=0", "--cpus-per-task=1")
    whole = submit(slurm, checkout, "finishes", "--gpus-per-node=0", "--cpus-per-task=1", "--exclusive")
    elsewhere = slurm.submit(
        tmp_path, *SMALL, "--chdir", checkout, checkout / "launch" / "slurm.sh", ROLE="finishes", PYTHONPATH=REPOSITORY
    )
    wrong = submit(slurm, checkout, "finishes", *SMALL, f"--chdir={tmp_path}")
    slurm.wait(fewer, none, whole, elsewhere, wrong)
    assert "2 processes on each of 127.0.0.1 127.0.0.2\n" in log(checkout, fewer)
    assert log(checkout, fewer).count("finishes, CPU None") == 2 and "--num_processes 4 " in log(checkout, fewer)
    for job in (none, whole):
        assert f"job {job}, start 1: no GPUs, 1 process of 1 threads on each of 127.0.0." in log(checkout, job)
        assert "finishes, CPU true:" in log(checkout, job) and "--num_processes 1 " in log(checkout, job)
        assert "--num_cpu_threads_per_process 1 overhaul/train.py" in log(checkout, job)
    assert "finishes" in log(checkout, elsewhere)
    assert log(tmp_path, wrong).startswith(f"launch/several_nodes.yaml is not in {tmp_path}: submit in the repository")


def test_a_signal_to_the_script_alone_is_passed_on(slurm, checkout):
    """As --signal=B:USR1 gives."""
    job = submit(slurm, checkout, "trains", *SMALL, "--nodes=2")
    slurm.wait_for(lambda: log(checkout, job).count("trains") == 2)
    slurm("scancel", "--batch", "--signal=USR1", job)
    slurm.wait(job)
    said = log(checkout, job)
    assert f"job {job}, start 2: 2 processes" in said and said.count("finishes") == 2, said


def test_a_start_that_saved_nothing_is_requeued_only_if_slurm_preempted_it(slurm, checkout):
    """Else it would be told at the same place again; the line names a longer time limit."""
    job = submit(slurm, checkout, "starts", *SMALL, "--time=4")
    wait_until(slurm, checkout, job, "starts")
    slurm("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    wait_until(slurm, checkout, job, f"job {job}, start 2")
    slurm.wait(job)
    assert "saved nothing new" not in log(checkout, job)

    job = submit(slurm, checkout, "starts", *SMALL, "--time=4")
    wait_until(slurm, checkout, job, "starts")
    slurm("scancel", "--signal=USR1", job)
    slurm.wait(job)
    said = log(checkout, job).splitlines()
    assert "start 2" not in log(checkout, job)
    assert said[-1].startswith(f"job {job} was told to stop ") and said[-1].endswith("--time 15 (minutes) or more")
    assert "ExitCode=84:0" in slurm("scontrol", "show", "job", job)


def test_a_real_run_without_a_gpu_goes_on_after_a_preemption_without_a_traceback(slurm, checkout):
    (checkout / ".venv").rename(checkout / "none")
    where = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"}
    flags = teaching("--checkpoint_steps", 5, "--output_dir", "run", epochs=2)
    flags = ("--gpus-per-node=0", "--cpus-per-task=1", "launch/slurm.sh", *flags)
    job = slurm.submit(checkout, *flags, **where)
    slurm.wait_for(lambda: list(checkout.glob("run/checkpoints/epoch-*")), 200)
    slurm("scancel", "--signal=TERM", job)
    slurm.wait(job, seconds=200)
    said = log(checkout, job)
    assert "told to stop by SIGUSR1, and saved after step" in said and f"job {job}, start 2" in said, said
    assert "resumed after" in said and (checkout / "run" / "final" / "model.safetensors").exists(), said
    assert "Traceback" not in said and "torch" not in said, said
