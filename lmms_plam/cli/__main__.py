"""`python -m lmms_plam.cli`, where the command `plam` needn't be found."""

import sys

from lmms_plam.cli import main

sys.exit(main())
