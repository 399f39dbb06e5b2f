"""`python examples/synthetic_faces OUT`; README.md tells the rest."""

import sys
from pathlib import Path

if not __package__:  # run as a folder: the package is found from the one above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    try:
        from synthetic_faces.command import main
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
