"""A lock that ends with its process, however that dies."""

import os
import stat
from pathlib import Path

from overhaul.system.messages import UserError, printable, warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def lock(file: Path, what: str) -> int | None:
    """The descriptor of a lock, to be closed; None where there can be none, which is told.

    UserError where another process holds it, or where the file is none of its own: a link, or one of several names.
    what: is locked, for messages.
    """
    if fcntl is None:
        return None
    odd = f"{file}, which is to be a lock, is a link or no plain file; remove it"
    if file.is_symlink():
        raise UserError(odd)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if file.exists() and not file.is_file():
            raise UserError(odd) from None
        return unlocked(what, error)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise UserError(odd)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, never a forked worker's
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())
    except BlockingIOError:
        who = printable(os.read(descriptor, 200).decode(errors="replace"))
        os.close(descriptor)
        raise UserError(f"{what} is in use by another run ({who}): wait for its end, or stop it") from None
    except UserError:
        os.close(descriptor)
        raise
    except OSError as error:
        os.close(descriptor)
        return unlocked(what, error)
    return descriptor


def unlocked(what: str, error: OSError) -> None:
    warn(f"{what} cannot be locked ({error}): start no second run in it")
