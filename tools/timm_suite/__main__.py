"""`python tools/timm_suite`: see --help."""

import sys
from pathlib import Path

if not __package__:  # run as a folder: the package is found from the one above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from timm_suite.command import main

    sys.exit(main())
