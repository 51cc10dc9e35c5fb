"""What a command shows a person, which is not worth its work: a stream that goes away ends nothing."""

import errno
import os
import sys
from typing import TextIO

GONE = (errno.EPIPE, errno.EIO)  # a reader that has left, a terminal that was closed: nobody comes back


class Lenient:
    """A text stream whose failures are kept in `lost`, not raised.

    Where its reader is gone the rest goes to os.devnull; where its disk is full it goes on once there is room.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lost = stream, None

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except (OSError, ValueError) as error:  # the latter: of a stream that is closed
            self.lose(error)
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self.lose(error)

    def lose(self, error: Exception) -> None:
        self.lost = self.lost or error
        if getattr(error, "errno", None) in GONE:
            self.silence()

    def silence(self) -> None:
        """Let what comes, and what could not be written, go nowhere: also what Python itself writes as it ends."""
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, self.stream.fileno())
        os.close(descriptor)

    def end(self) -> None:
        """The last words; what still cannot be written is let go."""
        self.flush()
        if self.lost:
            self.silence()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def make_lenient() -> None:
    """Let stdout and stderr of this process, which is a command's, fail without harm.

    One that was closed is os.devnull, as a file that is opened later would get its number; letters that its encoding
    lacks are escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if number and not isinstance(getattr(sys, name), Lenient):
            stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Lenient(stream))


def lost(stream: TextIO) -> Exception | None:
    """Why something that was written to a lenient stream has not arrived."""
    stream.flush()
    return getattr(stream, "lost", None)


def end_streams() -> None:
    """Flush both as the process ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Lenient):
            stream.end()
