"""`facepcl export`: options, then one call of `facepcl.export.run`."""

import argparse
from typing import Any

EXAMPLE = """example: facepcl export pcl_facecycle pcl_facecycle.onnx --with-preprocessing

The outputs are the codes of the branches, [B, D]: what FaceEmbedder gives. .onnx needs facepcl[onnx]. How
a program without facepcl uses the file: docs/export.md."""


def add(subparsers: Any) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "export",
        description="Write an encoder as .onnx, or as .pt2 of torch.export, checked against torch.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", metavar="NAME", help="a model with weights, hf-hub:ORG/NAME or local-dir:FOLDER"
    )
    parser.add_argument("out", metavar="OUT", help="file: .onnx or .pt2")
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="take uint8 images [B, H, W, 3]; without it float32 [B, 3, H, W], scaled and normalised by you",
    )
    parser.add_argument(
        "--size", type=int, default=0, metavar="PIXELS", help="side of the input (default: the model's own)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    from facepcl.hub import export

    made = export.run(args.name, args.out, with_preprocessing=args.with_preprocessing, size=args.size)
    outputs = ", ".join(f"{name} [B, {width}]" for name, width in made.meta["outputs"].items())
    print(f"wrote {made.path}: {made.meta['input']} -> {outputs}; equal to torch within {made.deviation:.0e}")
    return 0
