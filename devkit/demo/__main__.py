"""``python -m devkit.demo``."""

import sys

from devkit.demo import main

sys.exit(main())
