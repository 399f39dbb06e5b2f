"""`python -m facepcl`, for torchrun and for machines where the script is not on PATH."""

import os
import sys

try:  # Python puts the working folder first, where a data set's json.py would be imported as the real one
    if os.path.samefile(sys.path[0] or ".", "."):
        del sys.path[0]
except OSError:  # the working folder was deleted, or the first place is none
    pass

from facepcl.cli import main

sys.exit(main())
