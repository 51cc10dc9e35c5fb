"""The scripts of launch/: the demo from end to end, how an environment is found or made, and jobs under SLURM."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from support.places import REPOSITORY
from support.runs import digests, distilling

from overhaul import hub

FILES = sorted((REPOSITORY / "launch").glob("*.yaml"))
WHERE = {
    *("compute_environment", "distributed_type", "num_machines", "num_processes", "gpu_ids", "use_cpu"),
    *("rdzv_backend", "same_network"),
}


def bash(*arguments, cwd=REPOSITORY, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(["bash", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def this_environment():
    """The environment the tests run in, as an activated one would look."""
    return {"VIRTUAL_ENV": sys.prefix}


def demo(folder: Path, epochs: int, environment: dict) -> dict[str, float]:
    """Top-1 accuracies by name, from the table that ends it; the folder named there must hold the student."""
    result = bash("launch/demo.sh", "--output_dir", folder, "--epochs", epochs, **environment)
    assert result.returncode == 0, result.stderr
    table = result.stdout.strip().splitlines()[-7:]
    assert re.match(r"network +parameters +test top-1 % +training time", table[0])
    rows = {line.rsplit(maxsplit=4)[0].strip(): line.split()[-4:] for line in table[2:5]}
    assert list(rows) == ["teacher", "student, original", "student, overhaul"]
    assert [row[0] for row in rows.values()] == ["691,674", "77,850", "77,850"]
    student = Path(table[-1].split("the distilled student: ")[1])
    assert sum(p.numel() for p in hub.load(str(student)).parameters()) == 77_850
    return {name: float(row[1]) for name, row in rows.items()}


def test_the_demo_ends_with_a_table_and_the_folder_of_the_student(tmp_path, this_environment):
    accuracy = demo(tmp_path, 1, this_environment)
    assert accuracy["teacher"] > 15, "a tenth is chance"


@pytest.mark.slow
def test_the_demo_trains_a_teacher_and_a_student_that_know_the_digits(tmp_path, this_environment):
    accuracy = demo(tmp_path, 3, this_environment)
    assert accuracy["teacher"] > 70 and accuracy["student, overhaul"] > 20


def test_arguments_go_through_to_pytest(this_environment):
    """And what is left out by default can be asked for."""

    def collected(*arguments) -> list[str]:
        result = bash("launch/test.sh", "--collect-only", "-n", 0, *arguments, **this_environment)
        assert result.returncode == 0, result.stdout + result.stderr
        return [line for line in result.stdout.splitlines() if "::" in line]

    some = ["-k", "two_ranks_do", "tests/processes/test_processes.py"]
    ordinary, every = collected(*some), collected("--all", *some)
    assert ordinary and set(ordinary) < set(every) and all("two_ranks_do" in line for line in every)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the scripts look at, without an environment, on a path with a space."""
    copy = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "launch", copy / "launch")
    shutil.copy(REPOSITORY / "setup.cfg", copy / "setup.cfg")
    return copy


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_for_accelerate_says_where_and_never_what(file):
    config = load_config_from_file(str(file))
    assert config.num_processes % config.num_machines == 0
    text = file.read_text()
    entries = {line.split(":")[0] for line in text.splitlines() if not line.startswith("#")}
    assert text.startswith("# ") and entries <= WHERE


def test_there_is_a_file_for_each_kind_of_machine():
    assert [file.stem for file in FILES] == ["cpus", "eight_gpus", "one_gpu", "several_nodes"]


def test_an_old_python_is_refused_in_one_line(checkout):
    for version in ("python3", *(f"python3.{minor}" for minor in range(10, 15))):
        tool(checkout / "bin", version, "exit 1")
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    result = bash("launch/demo.sh", cwd=checkout, PATH=path, VIRTUAL_ENV="")
    assert result.returncode == 2 and result.stderr == "Python 3.10 or newer is needed and was not found\n"


def test_an_environment_without_pip_is_made_whole(checkout):
    """As Debian leaves one where python3-venv is missing, once it has been installed."""
    tool(checkout / ".venv" / "bin", "python", "exit 1")
    tool(checkout / "bin", "python3", f'if [ "$1" != -c ]; then cp "{checkout}/bin/fake" .venv/bin/python; fi')
    tool(checkout / "bin", "fake", 'if [ "$1" = - ]; then exit 1; fi; echo "$@" >> asked')
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    result = bash("launch/test.sh", cwd=checkout, PATH=path, VIRTUAL_ENV="")
    assert result.returncode == 0, result.stderr
    assert (checkout / "asked").read_text().splitlines()[-1] == "-m pytest"


def test_without_an_environment_one_is_made_and_the_extra_installed(checkout):
    """With a pip that only writes down what it was asked for."""
    script = f'if [ "$1" = -c ]; then exit 0; fi; mkdir -p .venv/bin; cp "{checkout}/bin/fake" .venv/bin/python'
    tool(checkout / "bin", "python3", script)
    tool(checkout / "bin", "fake", 'if [ "$1" = - ]; then exit 1; fi; echo "$@" >> asked')
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    result = bash("launch/test.sh", "-k", "x", cwd=checkout, PATH=path, VIRTUAL_ENV="")
    assert result.returncode == 0, result.stderr
    asked = (checkout / "asked").read_text().splitlines()
    assert asked == ["-m pip install --quiet --disable-pip-version-check -e .[test]", "-m pytest -k x"]


@pytest.fixture
def slurm(checkout):
    """slurm(*arguments, node=SCRIPT, chdir=FOLDER, **environment): launch/slurm.sh as SLURM starts a copy.

    Of a job with 2 nodes (host1 and host2) of 8 GPUs. srun runs its command for every node at once, after SCRIPT, where
    $1 is the batch script's process and $2 a node's; it ends with the highest status. What scontrol was asked to do
    besides naming hosts is in the checkout's file `asked`.
    """
    hosts = 'if [ "$1 $2" = "show hostnames" ]; then printf "host1\\nhost2\\n"; else echo "$@" >> asked; fi'
    tool(checkout / "bin", "scontrol", hosts)
    shutil.copy(checkout / "launch" / "slurm.sh", checkout.parent / "slurm_script")

    def slurm(*arguments, node=":", chdir=checkout, **environment) -> subprocess.CompletedProcess:
        tool(checkout / "bin", "signal", node)
        script = (
            'echo "$@" > srun; while [ "$1" != bash ]; do shift; done\n'
            'for ((i = 0; i < SLURM_NNODES; i++)); do SLURM_NODEID=$i "$@" & nodes+=($!); signal $PPID $! $i & done\n'
            "status=0; for node in ${nodes[@]}; do wait $node || { s=$?; ((s > status)) && status=$s; }; done\n"
            "exit $status"
        )
        tool(checkout / "bin", "srun", script)
        job = {"SLURM_JOB_ID": "123456", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "64"}
        where = {"SLURM_SUBMIT_DIR": "/", "SLURM_JOB_NODELIST": "host[1-2]", "VIRTUAL_ENV": ""}
        path = f"{checkout / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = {**job, **where, **environment}
        return bash(checkout.parent / "slurm_script", *arguments, cwd=chdir, PATH=path, **environment)

    return slurm


def fake_accelerate(checkout: Path, script: str = ":") -> None:
    """An environment in .venv whose accelerate writes down its arguments, one a line, and then runs the script."""
    tool(checkout / ".venv" / "bin", "accelerate", f'printf "%s\\n" "$@" > "node$SLURM_NODEID"\n{script}')


def asked(checkout: Path) -> str:
    """What scontrol was asked to do."""
    return (checkout / "asked").read_text() if (checkout / "asked").exists() else ""


def test_a_slurm_job_starts_one_launcher_a_node(checkout, slurm):
    fake_accelerate(checkout)
    arguments = ["--setup", "imagenet_a", "--output_dir", "two  words; $HOME", "--tracker", 'it\'s "quoted"', ""]
    result = slurm(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "job 123456, start 1: 8 processes on each of host1 host2\n"
    for node in "01":
        where = ["--machine_rank", node, "--config_file", "launch/several_nodes.yaml", "--num_machines", "2"]
        main = ["--num_processes", "16", "--main_process_ip", "host1", "--main_process_port", "13456"]
        expected = ["launch", *where, *main, "overhaul/train.py", *arguments]
        assert (checkout / f"node{node}").read_text().split("\n")[:-1] == expected
    srun = (checkout / "srun").read_text()
    assert "--ntasks=2 --ntasks-per-node=1" in srun and "--cpus-per-task=64" in srun
    assert asked(checkout) == ""


def test_a_slurm_job_of_one_node_counts_its_gpus_by_either_variable(checkout, slurm):
    fake_accelerate(checkout)
    result = slurm(SLURM_NNODES="1", SLURM_GPUS_ON_NODE="", SLURM_GPUS_PER_NODE="h100:4")
    assert result.returncode == 0, result.stderr
    assert "--num_machines\n1\n--num_processes\n4\n" in (checkout / "node0").read_text()
    assert not (checkout / "node1").exists()


def test_a_slurm_job_without_gpus_computes_on_the_cpus_of_its_tasks(checkout, slurm):
    fake_accelerate(checkout, 'echo "CPU: $ACCELERATE_USE_CPU"')
    gpus = {"SLURM_GPUS_ON_NODE": "", "SLURM_GPUS_PER_NODE": "0", "SLURM_CPUS_PER_TASK": "1"}
    result = slurm(**gpus, ACCELERATE_USE_CPU="")
    assert result.returncode == 0, result.stderr
    said = "job 123456, start 1: no GPUs, 1 process of 1 threads on each of host1 host2\n"
    assert result.stdout == said + "CPU: true\n" * 2
    assert "--num_processes\n2\n" in (checkout / "node0").read_text()
    assert "--num_cpu_threads_per_process\n1\noverhaul/train.py\n" in (checkout / "node0").read_text()


@pytest.mark.parametrize(
    ("named", "added"),
    [
        (["--setup", "x"], ["--seed", "7"]),
        (["--output_dir", "a", "--output_dir=b b"], ["--seed", "7", "--output_dir", "b b/seed7"]),
        (["--seed", "3", "--output_dir", "a"], []),
        (["--seed=3"], []),
    ],
)
def test_a_task_of_a_slurm_array_has_its_seed_unless_one_is_named(checkout, slurm, named, added):
    fake_accelerate(checkout)
    result = slurm(*named, SLURM_ARRAY_JOB_ID="123450", SLURM_ARRAY_TASK_ID="7")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"job 123450_7, start 1{', seed 7' if added else ''}: 8 processes")
    assert (checkout / "node0").read_text().endswith("\n".join(["overhaul/train.py", *named, *added, ""]))


LATER = 'while [ $# -gt 0 ]; do case $1 in --jobs=*) echo "$1" > squeue; echo "%s";; esac; shift; done'


@pytest.mark.parametrize(
    ("limit", "requeued"),
    [
        ("4:00 N/A", "--time 15 "),
        ("1-01:00:00 N/A", "--time 1511 "),
        ("UNLIMITED N/A", None),
        ("4:00 2026-01-01T00:00:00", None),
        ("", None),
    ],
)
def test_a_slurm_job_that_saved_nothing_before_its_limit_is_not_requeued(checkout, slurm, limit, requeued):
    fake_accelerate(checkout, TOLD)
    tool(checkout / "bin", "squeue", LATER % limit)
    array = {"SLURM_ARRAY_JOB_ID": "123450", "SLURM_ARRAY_TASK_ID": "7"}
    result = slurm(node=TELL % ("USR1", 2), **array)
    assert (checkout / "squeue").read_text() == "--jobs=123450_7\n"
    if requeued:
        assert result.returncode == 84 and asked(checkout) == ""
        assert requeued in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    else:
        assert result.returncode == 85 and asked(checkout) == "requeue 123450_7\n"


def test_a_slurm_job_that_saved_something_is_requeued_though_its_processes_had_to_be_killed(checkout, slurm):
    fake_accelerate(checkout, f'touch "${{OVERHAUL_STATUS_FILE%/*}}/saved"; {TOLD}')
    tool(checkout / "bin", "squeue", LATER % "4:00 N/A")
    assert slurm(node=TELL % ("USR1", 2)).returncode == 85
    assert asked(checkout) == "requeue 123456\n"


def test_a_slurm_job_that_cannot_start_says_why_in_one_line(checkout, slurm, tmp_path):
    without = slurm(chdir=tmp_path)
    assert without.returncode == 2 and without.stderr == (
        f"launch/several_nodes.yaml is not in {tmp_path}: submit in the repository's folder, or with "
        "sbatch --chdir FOLDER\n"
    )
    by_hand = bash("launch/slurm.sh", "--setup", "imagenet_a")
    assert by_hand.returncode == 2
    assert by_hand.stderr == "launch/slurm.sh runs under SLURM: sbatch launch/slurm.sh --setup imagenet_a\n"


TOLD = 'trap "echo told >> told; exit 1" TERM; touch "up$SLURM_NODEID"; for i in {1..100}; do sleep 0.05; done'
TELL = 'until [ -e "up$3" ]; do sleep 0.05; done; kill -%s $%d'


@pytest.mark.parametrize("signal", ["TERM", "USR1"])
def test_a_slurm_job_told_of_preemption_or_its_time_limit_is_requeued(checkout, slurm, signal):
    fake_accelerate(checkout, TOLD)
    result = slurm(node=TELL % (signal, 2))
    assert result.returncode == 85, result.stderr
    assert (checkout / "told").read_text() == "told\ntold\n"
    assert asked(checkout) == "requeue 123456\n"


def test_a_slurm_job_that_finishes_all_the_same_is_not_requeued(checkout, slurm):
    fake_accelerate(checkout, TOLD.replace("exit 1", "exit 0"))
    assert slurm(node=TELL % ("TERM", 2)).returncode == 0
    assert asked(checkout) == ""


def test_a_cancelled_slurm_job_is_not_requeued(checkout, slurm):
    """SLURM then signals the batch script as well."""
    fake_accelerate(checkout, TOLD)
    result = slurm(node=TELL % ("TERM", 2) + "; kill -TERM $1")
    assert result.returncode == 143, result.stderr
    assert (checkout / "told").exists() and asked(checkout) == ""


def test_a_slurm_job_that_fails_is_not_requeued(checkout, slurm):
    fake_accelerate(checkout, "exit $((SLURM_NODEID + 2))")
    assert slurm().returncode == 3
    assert asked(checkout) == ""


def test_the_launcher_loses_the_status_of_a_preempted_run_and_slurm_still_requeues_it(checkout, slurm):
    """With Accelerate's own launcher: TERM reaches the process, which is waited for, but its 85 becomes a 1."""
    (checkout / "overhaul").mkdir()
    (checkout / "overhaul" / "train.py").write_text(
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    open('saved', 'w').close()\n"
        "    sys.exit(85)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open('up0', 'w').close()\n"
        "time.sleep(60)\n"
    )
    result = slurm(node=TELL % ("USR1", 2), SLURM_NNODES="1", SLURM_GPUS_ON_NODE="1")
    assert result.returncode == 85 and "SignalException" in result.stderr, result.stderr
    assert (checkout / "saved").exists()
    assert asked(checkout) == "requeue 123456\n"


def test_a_slurm_job_with_a_preempted_process_is_requeued(checkout, slurm):
    """The process was told, not the launcher, which fails because its process ended with 85."""
    fake_accelerate(checkout, 'if [ "$SLURM_NODEID" = 1 ]; then echo 85 > "$OVERHAUL_STATUS_FILE"; fi; exit 1')
    assert slurm().returncode == 85
    assert asked(checkout) == "requeue 123456\n"


def free_port(first: int) -> int:
    """The first port from there on that nobody listens to."""
    for port in range(first, 2**16):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def test_a_slurm_job_of_two_nodes_trains_the_run_that_two_ranks_do(two, digits_teacher, checkout, slurm, tmp_path):
    """Both nodes on loopback, one CPU process each."""
    (checkout / "overhaul").symlink_to(REPOSITORY / "overhaul")
    tool(checkout / "bin", "scontrol", 'echo "127.0.0.1"')
    folder = tmp_path / "runs" / "a run"
    job = {"SLURM_JOB_ID": str(free_port(20_000) - 10_000), "SLURM_GPUS_ON_NODE": "1", "OMP_NUM_THREADS": "1"}
    result = slurm(*distilling(digits_teacher, "--output_dir", folder, epochs=3), **job)
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stdout and result.stdout.count("epoch   1/3") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["a run"]
    assert digests(folder / "final") == digests(two.folder / "final")


PAGE = (REPOSITORY / "launch" / "README.md").read_text()


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_b", "cifar_c", "cifar_d"])
def test_the_table_of_costs_is_what_its_snippet_computes(name):
    functions = re.search(r"```python\n(.*?)\nfor name", PAGE, re.S)[1]
    exec(functions, snippet := {})
    assert snippet["row"](name) in PAGE.splitlines()


def test_the_page_names_every_launcher():
    named = set(re.findall(r"launch/(\w+\.\w+)", PAGE))
    assert named == {file.name for file in FILES} | {"slurm.sh", "gpu_day.sh"}
