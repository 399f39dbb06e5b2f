"""`facepcl demo` as a Space of the Hugging Face Hub, or behind any address: python app.py."""

import os
from pathlib import Path

from facepcl import demo

FACES = Path(__file__).resolve().parents[1] / "faces"  # there in a checkout

if __name__ == "__main__":
    demo.run(
        os.environ.get("FACEPCL_MODEL", demo.MODEL),
        host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", demo.PORT)),
        detector=os.environ.get("FACEPCL_DETECTOR"),
        folder=FACES if FACES.is_dir() else None,
        progress=True,
    )
