"""`python -m overhaul` is the command `overhaul`."""

from overhaul.cli.main import command

command()
