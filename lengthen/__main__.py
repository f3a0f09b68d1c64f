"""`python -m lengthen`, which launchers of many processes need."""

import sys

from lengthen.cli import main

sys.exit(main())
