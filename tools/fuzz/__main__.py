"""`python tools/fuzz --cases 100000 --seed 0`: see --help."""

import sys
from pathlib import Path

if not __package__:  # run as a folder: the package is found from the one above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from fuzz.command import main

    sys.exit(main())
