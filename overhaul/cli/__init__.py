"""The command `overhaul`."""
