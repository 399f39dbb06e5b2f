"""`python -m facepcl`, for torchrun and for machines where the script is not on PATH."""

import sys

from facepcl.cli import main

sys.exit(main())
