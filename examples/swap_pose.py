"""Draw faces under each other's pose, with the decoder of a run of `facepcl pretrain`.

    python examples/swap_pose.py runs/first/encoder examples/faces/person1*.jpg -o swap.png

A row has one face, a column one pose: what the decoder makes of the face code of the picture on the left and
the pose code of the picture on top (docs/METHOD.md, section 4.1). Where these are the same picture, it is
drawn from its own two codes. Give crops like those in examples/faces; what is drawn has 64 x 64 pixels.
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from PIL import Image

import facepcl
from facepcl.errors import ImageError
from facepcl.images import open_image

SIDE, GAP = 64, 8  # pixels of a face, and between the pictures and what is drawn of them


def swap(encoder: str, photos: list[str]) -> Image.Image:
    """The grid of N photos, as an image of 64 (N + 1) + 8 pixels a side."""
    name = f"local-dir:{encoder}" if Path(encoder).is_dir() else encoder
    decoder = facepcl.create_decoder(name)
    model = facepcl.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    faces = torch.stack([transform(read(photo)) for photo in photos])
    with torch.inference_mode():
        _, face, pose = model.forward_codes(faces)
        rows = [decoder(F.normalize(code + pose)) for code in face]  # [N, 3, 64, 64] each
        faces = F.interpolate(faces, (SIDE, SIDE), mode="area")
    start = SIDE + GAP
    sheet = Image.new("RGB", (start + SIDE * len(photos),) * 2, "white")
    for i, (left, row) in enumerate(zip(faces, rows, strict=True)):
        sheet.paste(picture(left), (0, start + SIDE * i))
        sheet.paste(picture(left), (start + SIDE * i, 0))
        for j, drawn in enumerate(row):
            sheet.paste(picture(drawn), (start + SIDE * j, start + SIDE * i))
    return sheet


def read(photo: str) -> Image.Image:
    try:
        return open_image(photo)
    except ImageError as error:
        sys.exit(f"{photo}: {error}")


def picture(tile: torch.Tensor) -> Image.Image:
    """A tensor `[3, H, W]`, in [0, 1] but for what the decoder overshoots, as an image."""
    levels = (tile.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("encoder", help="RUN/encoder of `facepcl pretrain`, which holds a decoder")
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
