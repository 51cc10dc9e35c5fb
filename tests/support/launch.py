"""Our program under launchers, on this machine."""

import os
import socket
import subprocess
import sys

from support.places import REPOSITORY

CPUS, SEVERAL_NODES = (str(REPOSITORY / "launch" / f"{name}.yaml") for name in ("cpus", "several_nodes"))


SCRIPT = REPOSITORY / "overhaul" / "train.py"


LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]


# of a machine without GPUs, which nobody has told to leave them alone
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "false", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def launch(processes: int, *arguments, launcher=None, script=(SCRIPT,)) -> subprocess.CompletedProcess:
    launcher = launcher or [*LAUNCH, CPUS, "--num_processes", str(processes), "--main_process_port", "0"]
    command = [*launcher, *map(str, script), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def launch_two_nodes(*arguments) -> tuple[list[int], list[str]]:
    """Two launchers on loopback, a process each; rank, address and port come from the command line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    command = [*LAUNCH, SEVERAL_NODES, *where, "--main_process_port", port]
    options = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    nodes = [
        subprocess.Popen([*command, "--machine_rank", rank, str(SCRIPT), *map(str, arguments)], **options)
        for rank in "01"
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    return [node.returncode for node in nodes], outputs


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
