"""The optimiser: which parameters it moves, how fast, and with what momentum."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from overhaul import models, schedule
from overhaul.recipe import Setup
from overhaul.system.messages import UserError


def make_optimizer(model: nn.Module, setup: Setup) -> torch.optim.Optimizer:
    """The recipe's optimiser over student and connectors; SGD has a momentum of zero. UserError without timm's.

    model: see distill.make.
    """
    groups, how = parameter_groups(model, setup), {"lr": setup.lr, "weight_decay": setup.weight_decay}
    if setup.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=setup.momentum, nesterov=setup.nesterov, fused=True, **how)
    elif setup.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, fused=True, **how)
    else:
        optimizer = lamb()(groups, **how)
    optimizer.register_state_dict_post_hook(with_numbers)
    zero_momentum(optimizer)
    return optimizer


def lamb() -> type:
    """timm's LAMB."""
    try:
        from timm.optim import Lamb
    except ImportError:
        raise UserError("--optimizer lamb is timm's, which is not there: pip install timm, or take adamw") from None
    return Lamb


def parameter_groups(model: nn.Module, setup: Setup) -> list[dict]:
    """The parameters by what of weight decay and learning rate is theirs (lr_scale); one group where all are alike."""
    groups, head = defaultdict(list), head_of(model, setup) if setup.head_lr_scale != 1 else ()
    for parameter in model.parameters():
        scale = setup.head_lr_scale if any(parameter is each for each in head) else 1
        groups[setup.no_decay_norms and parameter.ndim <= 1, scale].append(parameter)
    if [*groups] == [(False, 1)]:
        return [{"params": groups[False, 1]}]
    return [
        {"params": parameters, "lr_scale": scale} | ({"weight_decay": 0.0} if spared else {})
        for (spared, scale), parameters in groups.items()
    ]


def head_of(model: nn.Module, setup: Setup) -> list[nn.Parameter]:
    """The parameters of the student's last layer, and of its auxiliary heads."""
    student = model.student
    network = getattr(student, "bare", student)
    return [each for name in models.class_layers(setup.student) for each in network.get_submodule(name).parameters()]


def with_numbers(_, state: dict) -> dict:
    """What an optimiser writes down, its learning rate as a number."""
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def zero_momentum(optimizer: torch.optim.Optimizer, restart: bool = False) -> None:
    """Give SGD's parameters a momentum of zero: one that has none, as in an old checkpoint, or all at a restart."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                # fused SGD would make it in its first step and, where GradScaler skips that, leave it uninitialised
                state["momentum_buffer"] = torch.zeros_like(parameter)
            elif restart:
                state["momentum_buffer"].zero_()


def begin_epoch(optimizer: torch.optim.Optimizer, setup: Setup, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Set the learning rate after `epoch` finished epochs and `step` steps; that of the epoch's first step.

    steps: of an epoch. Where the rate drops and the setup says so, momentum restarts from zero, unless the epoch goes
    on after some of its steps.
    """
    set_rate(optimizer, schedule.rate(setup, epoch * steps + step, steps))
    before, now = (schedule.drops_before(setup, each) for each in (epoch - 1, epoch))
    drops = setup.lr_schedule == "step" and epoch > 0 and now > before
    zero_momentum(optimizer, setup.restart_momentum and drops and not step)
    return schedule.rate(setup, epoch * steps, steps)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; on a CUDA GPU it lies there in a tensor, which a captured step reads."""
    for group in optimizer.param_groups:
        device, scaled = group["params"][0].device, lr * group.get("lr_scale", 1)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = torch.tensor(scaled, device=device) if in_tensor(device, group) else scaled


def in_tensor(device: torch.device, group: dict) -> bool:
    """Whether a learning rate is a tensor there, in every run, as one in fp32 gives other bits than a number."""
    return device.type == "cuda" and bool(group.get("fused"))
