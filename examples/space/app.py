"""`facepcl demo` as a Space of the Hugging Face Hub, or at all addresses of a machine: python app.py."""

import os
import sys
from pathlib import Path

from facepcl.cli import main

FACES = Path(__file__).resolve().parents[1] / "faces"  # there in a checkout
OPTIONS = {
    "--host": os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
    "--port": os.environ.get("GRADIO_SERVER_PORT", "7860"),
    "--model": os.environ.get("FACEPCL_MODEL"),
    "--detector": os.environ.get("FACEPCL_DETECTOR"),
    "--folder": str(FACES) if FACES.is_dir() else None,
}

if __name__ == "__main__":
    given = [word for option in OPTIONS.items() if option[1] for word in option]
    sys.exit(main(["demo", *given]))
