"""How a run is found again: its newest checkpoint, whether that is of the same run, and what it holds."""

from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from overhaul.run import checkpoints, restore
from overhaul.run.configuration import ANEW, compare, shown
from overhaul.run.state import State
from overhaul.system.accelerator import of_main
from overhaul.system.messages import UserError, innermost, printable, warn
from overhaul.system.processes import agreed


def resume(accelerator: Accelerator, folder: Path, now: State, before: Callable[[], None]) -> tuple[State, Path | None]:
    """The state after the folder's newest whole checkpoint, with all that it holds loaded, and that checkpoint.

    now: what a run that begins here would be; it is returned where there is no checkpoint. before: what is to be done
    where there is one, before it is loaded. Raises UserError where the run began with another teacher or other data,
    has gone on for longer than it is to be, or has no whole checkpoint.
    """
    found = agreed(accelerator, lambda: checkpoints.newest_whole(folder))
    if not found:
        return now, None
    state = load(accelerator, folder, found, now, before)
    done = state.epoch + (state.step > 0)
    if done > now.epochs:
        raise UserError(f"{folder} is in epoch {done} already; --resume_with epochs={done} is the least")
    if state.epochs != now.epochs:
        where = {"after_epoch": state.epoch, "and_steps": state.step}
        state.lengths.append({**where, "epochs_before": state.epochs, "epochs": now.epochs})
    for name in ("epochs", "positions", "code", "config"):
        setattr(state, name, getattr(now, name))
    return state, found


def load(accelerator: Accelerator, folder: Path, found: Path, now: State, before: Callable[[], None]) -> State:
    """Load a checkpoint of the same data and networks; of a user's file that has changed if its tensors still fit."""
    try:
        kept = restore.state(found)
    except Exception as error:  # of another version, perhaps, or of nobody's run
        raise UserError(f"{found} is whole but cannot be loaded ({said(error)})") from None
    check_same_run(folder, found, kept, now)
    changed = [role for role in kept.code.keys() & now.code.keys() if kept.code[role] != now.code[role]]
    note = f"the file that makes the {' and the '.join(sorted(changed))} has changed since {found.name}"
    before()
    try:
        restore.everything(accelerator, found, kept.processes)
    except Exception as error:
        why, how = (f"{note}: {said(error)}", f"; put it back, or {ANEW}") if changed else (said(error), "")
        raise UserError(f"{found} is whole but cannot be loaded ({why}){how}") from None
    if changed:
        of_main(accelerator, lambda: warn)(f"{note}; its tensors fit, and the run goes on")
    return kept


def said(error: Exception) -> str:
    return printable(innermost(error))[:300]


def check_same_run(folder: Path, found: Path, kept: State, now: State) -> None:
    """UserError where a checkpoint is of another run, or bears another's name."""
    if kept.name != found.name:
        raise UserError(f"{found} is the checkpoint {kept.name} under another name; give it its own back")
    if kept.config is not None:
        compare(now.config, kept.config, found, ("epochs",))
    check_same(folder, "on other data", kept.data, now.data)
    check_same(folder, "under another teacher, told in overhaul.json", kept.teacher, now.teacher)
    check_same(folder, "from other weights of the student, told in overhaul.json", kept.student, now.student)
    for role in kept.positions.keys() & now.positions.keys():
        lists = (", ".join(each.positions[role]) for each in (kept, now))
        check_same(folder, f"with the {role}'s features taken elsewhere", *lists)


def check_same(folder: Path, what: str, before: str | None, now: str | None) -> None:
    if before != now:
        raise UserError(f"{folder} was trained {what} ({shown(before)} there, {shown(now)} here); {ANEW}")
