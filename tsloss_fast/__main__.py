"""`python -m tsloss_fast` is the command `tsloss`."""

from tsloss_fast.cli import main

raise SystemExit(main())
