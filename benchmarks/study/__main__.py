"""Run `tsloss compare`."""

import sys

from tsloss_fast.cli import main

sys.exit(main(["compare", *sys.argv[1:]]))
