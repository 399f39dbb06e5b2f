"""`facepcl export`: options, then one call of `facepcl.export.run`."""

import argparse

DESCRIPTION = "Export an encoder to .onnx or .pt2 (torch.export), checked against the model."
EXAMPLE = """example: facepcl export pcl_facecycle pcl_facecycle.onnx --with-preprocessing

The outputs are the codes of the branches, [B, D], as from FaceEmbedder, and the predictions of the
heads: identity, head_pose in degrees, expression and au. .onnx needs facepcl[onnx].
docs/export.md shows how to use the file without facepcl."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="a model with weights, hf-hub:ORG/NAME or local-dir:FOLDER"
    )
    parser.add_argument("out", metavar="OUT", help="file: .onnx or .pt2")
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="take uint8 images [B, H, W, 3]; default: float32 [B, 3, H, W], normalised by the caller",
    )
    parser.add_argument(
        "--size", type=int, default=0, metavar="PIXELS", help="side of the input (default: the model's own)"
    )


def run(args: argparse.Namespace) -> int:
    from facepcl.hub import export

    exported = export.run(**vars(args))
    meta = exported.meta
    outputs = ", ".join(f"{name} [B, {width}]" for name, width in meta["outputs"].items())
    deviation = f"at most {exported.deviation:.0e} from" if exported.deviation else "equal to"
    print(f"wrote {exported.path}: {meta['input']} -> {outputs}; {deviation} torch's output")
    return 0
