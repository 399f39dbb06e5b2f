"""Draw faces under each other's pose, with the decoder that comes with the weights, or that of a run.

    python examples/swap_pose.py pcl_facecycle examples/faces/person1*.jpg -o swap.png

A row has one face, a column one pose: what the decoder makes of the face code of the picture on the left and
the pose code of the picture on top (docs/METHOD.md, section 4.1). Where these are the same picture, it is
drawn from its own two codes. Give crops like those in examples/faces; what is drawn has 64 x 64 pixels.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import facepcl
from facepcl.errors import ImageError
from facepcl.images.decode import open_image
from facepcl.models.pose_swap import draw_swaps, swap_sheet


def swap(encoder: str, photos: list[str]) -> Image.Image:
    """The grid of N photos, as an image of 64 (N + 1) + 8 pixels a side."""
    name = f"local-dir:{encoder}" if Path(encoder).is_dir() else encoder
    decoder = facepcl.create_decoder(name)
    embedder = facepcl.FaceEmbedder(name, dtype="float32")
    pixels = np.stack([embedder.transform(read(photo)) for photo in photos])
    maps = embedder.maps(pixels, all_branches=True)
    face, pose = (embedder.vectors(maps, branch) for branch in ("face", "pose"))
    return swap_sheet(pixels, draw_swaps(decoder, face, pose))


def read(photo: str) -> Image.Image:
    try:
        return open_image(photo)
    except ImageError as error:
        sys.exit(f"{photo}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "encoder", help="pcl_facecycle, or a folder with a decoder: RUN/encoder of `facepcl pretrain`"
    )
    parser.add_argument("photos", nargs="+", help="face crops, two or more")
    parser.add_argument("-o", "--out", default="swap.png", help="the PNG to write (default: swap.png)")
    args = parser.parse_args()
    if len(args.photos) < 2:
        sys.exit("one photo has nobody to swap with; give two or more")
    try:
        swap(args.encoder, args.photos).save(args.out, "PNG")
    except (facepcl.FacepclError, OSError) as error:  # such as: comes without a decoder
        sys.exit(str(error))
    print(f"wrote {args.out}: rows have a face, columns a pose")


if __name__ == "__main__":
    main()
