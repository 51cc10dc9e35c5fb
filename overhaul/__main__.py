"""`python -m overhaul` is the command `overhaul`."""

import sys

from overhaul.cli.main import main

sys.exit(main())
