"""`python -m overhaul` is the command `overhaul`."""

import sys

from overhaul.cli import main

sys.exit(main())
