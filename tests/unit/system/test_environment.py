"""No variable of the environment that Accelerate reads reaches the recipe: it is passed explicitly, or refused."""

import re
from datetime import timedelta
from pathlib import Path
from typing import get_args

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from overhaul.options import Precision
from overhaul.setups import SETUPS
from overhaul.system import accelerator
from overhaul.system.accelerator import start
from overhaul.system.environment import PRECISIONS, REFUSED
from overhaul.system.messages import UserError
from overhaul.training.optimisation import training_step
from overhaul.training.optimizer import make_optimizer

ELSEWHERE = ("commands", "test_utils", "launchers.py", "utils/launch.py")  # what a process that trains does not run
PASSED = {  # to Accelerator, whatever these say
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_MODE": "max-autotune",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "junk",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "junk",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "junk",
}
UNREAD = {  # without what is refused: DeepSpeed and the like, fp8, a TPU, a model in parts; or only beside its trackers
    *("ACCELERATE_ALLOW_CP_STANDALONE", "ACCELERATE_BYPASS_DEVICE_MAP", "ACCELERATE_CONFIG_DS_FIELDS"),
    *(
        "ACCELERATE_ENABLE_RICH",
        "ACCELERATE_GRADIENT_CLIPPING",
        "ACCELERATE_INIT_INCLUDE_BUFFERS",
        "PT_HPU_LAZY_MODE",
        "XLA_USE_BF16",
    ),
    *("XLA_DOWNCAST_BF16", "DEEPSPEED_USE_HPU", "CLEARML_PROJECT", "CLEARML_TASK", "MLFLOW_EXPERIMENT_NAME"),
    *("MLFLOW_NESTED_RUN", "MLFLOW_RUN_ID", "MLFLOW_TAGS"),
}
UNREAD_FAMILIES = ("ACCELERATE_FP8_", "ACCELERATE_DEEPSPEED_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
PLACE = {  # where the process is, and what it says of itself
    *(
        "ACCELERATE_CPU_AFFINITY",
        "ACCELERATE_DEBUG_MODE",
        "ACCELERATE_LOG_LEVEL",
        "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE",
    ),
    *("ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_SAGEMAKER", "FORK_LAUNCHED", "LOCAL_RANK"),
    *(
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "MPI_LOCALNRANKS",
        "MPI_LOCALRANKID",
        "MV2_COMM_WORLD_LOCAL_RANK",
    ),
    *("MV2_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE"),
    *("OMP_NUM_THREADS", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_RANK"),
    *("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "PYTORCH_ENABLE_MPS_FALLBACK", "RANK", "USE_TORCH_XLA"),
    *("WORLD_SIZE", "systemdrive"),
}


def read_by_accelerate() -> set[str]:
    """The variables that the installed release reads or writes, by its source; whole families as PREFIX_."""
    folder, found = Path(accelerate.__file__).parent, set()
    for file in folder.rglob("*.py"):
        if file.relative_to(folder).as_posix().startswith(ELSEWHERE):
            continue
        source = file.read_text()
        for read in re.findall(r"""(?:environ(?:\.\w+)?[\[(]|_from_env\()\s*(\[[^]]*]|f?['"][^'"]*['"])""", source):
            found |= {*re.findall(r"['\"](\w+)", read)}
        found |= {*re.findall(r"""['"](\w+)['"] (?:not )?in os\.environ""", source)}
        found |= {*re.findall(r"""prefix\s*=\s*['"](\w+_)['"]""", source)}
        found |= {f"ACCELERATE_DYNAMO_{name}" for name in re.findall(r"prefix \+ \"(\w+)\"", dynamo_of(source))}
    return found - {"ACCELERATE_DYNAMO_", "ACCELERATE_", "FOO"}  # two prefixes, and an example of a docstring


def dynamo_of(source: str) -> str:
    """What follows upon a prefix of Dynamo's, up to the next function."""
    return "".join(re.findall(r'prefix = "ACCELERATE_DYNAMO_"(.*?)\n    def ', source, re.DOTALL))


def test_every_variable_that_accelerate_reads_is_known():
    """A canary: a new release may read another, which is to be passed, refused or left to say where a run is."""
    found = {name for name in read_by_accelerate() if not name.startswith(UNREAD_FAMILIES)}
    assert {*PASSED, *REFUSED, "ACCELERATE_MIXED_PRECISION", "PMI_SIZE", "LOCAL_RANK"} <= {
        *found,
        "ACCELERATE_FP8_BACKEND",
    }
    assert found <= {*PASSED, *REFUSED, *UNREAD, *PLACE, "ACCELERATE_MIXED_PRECISION"}


class Linear(nn.Module):
    """A network that training_step can train, small enough that a step costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, images: Tensor, stages: None, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(images), torch.zeros(())


def moved(mixed_precision: str | None = "no") -> list[Tensor]:
    """The weights after two steps."""
    AcceleratorState._reset_state(reset_partial_state=True)  # which would keep the device of the first one
    accelerator, network = start(mixed_precision), Linear()
    model, optimizer = accelerator.prepare(network, make_optimizer(network, SETUPS["digits"]))
    for images in torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)):
        training_step(accelerator, model, None, optimizer, images, torch.arange(6) % 3, 0.0)
    return [parameter.detach() for parameter in network.parameters()]


@pytest.fixture
def expected(monkeypatch) -> list[Tensor]:
    for name in {*PASSED, *REFUSED, *UNREAD, "ACCELERATE_MIXED_PRECISION"}:
        monkeypatch.delenv(name, raising=False)
    return moved()


def test_what_is_passed_explicitly_changes_no_bit(monkeypatch, expected):
    """One by one, and all of them at once, with whatever else is only read together with what is refused."""
    others = dict.fromkeys((*UNREAD, *(f"{family}NEW" for family in UNREAD_FAMILIES)), "junk")
    for values in (*({name: value} for name, value in (PASSED | others).items()), PASSED | others):
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            assert all(map(torch.equal, moved(), expected)), values


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_train_in_another_way_is_refused(monkeypatch, expected, name):
    for value in ("true", "True", "1", "AO", "junk\x1b[2J"):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=rf"^{name}=[\w \[]+ in the environment is of no use here: .*unset it$"):
            moved()
    for value in ("", "false", "NO", "0"):
        monkeypatch.setenv(name, value)
        assert all(map(torch.equal, moved(), expected))


def test_the_precision_of_the_environment_is_that_of_the_flag(monkeypatch, expected):
    assert get_args(Precision) == PRECISIONS
    for value, words in {"junk": "'junk' is not known", "fp8": "did you mean", "BF16": "one of no, bf16, fp16"}.items():
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
        with pytest.raises(UserError, match=f"^ACCELERATE_MIXED_PRECISION in the environment: .*{words}"):
            moved(None)
        assert all(map(torch.equal, moved("no"), expected))
    for value in ("", "no"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
        assert all(map(torch.equal, moved(None), expected))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert start().mixed_precision == "bf16" and start("no").mixed_precision == "no"
    with pytest.raises(UserError, match="'fp8' is not known"):
        moved("fp8")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ACCELERATE_USE_CPU", "junk", "ACCELERATE_USE_CPU in the environment is true or false, not 'junk'"),
        ("ACCELERATE_DEBUG_MODE", "", "ACCELERATE_DEBUG_MODE in the environment is true or false, not ''"),
        ("ACCELERATE_TORCH_DEVICE", "junk", "ACCELERATE_TORCH_DEVICE=junk in the environment cannot be had"),
        ("ACCELERATE_TORCH_DEVICE", "meta", "ACCELERATE_TORCH_DEVICE=meta in the environment cannot be had"),
        ("LOCAL_RANK", "first", "LOCAL_RANK in the environment is a launcher.s number, not .first."),
    ],
)
def test_a_place_that_cannot_be_is_one_line(monkeypatch, expected, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{words}"):
        moved()


def test_processes_that_do_not_meet_are_one_line(monkeypatch, expected):
    monkeypatch.setattr(accelerator, "MEETING", timedelta(seconds=1))
    numbers = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    for name, value in {**numbers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^the 2 processes do not find one another at 127\.0\.0\.1:9 "):
        moved()


def test_where_a_run_is_may_be_said(monkeypatch, expected):
    values = {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_DEBUG_MODE": "true", "ACCELERATE_CPU_AFFINITY": "1"}
    for name, value in (values | {"ACCELERATE_USE_CPU": "YES", "FORK_LAUNCHED": "1"}).items():
        monkeypatch.setenv(name, value)
        assert all(map(torch.equal, moved(), expected)), name
