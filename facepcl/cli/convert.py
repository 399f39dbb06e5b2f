"""`facepcl convert`: options, then one call of `facepcl.hub.convert`."""

import argparse

DESCRIPTION = "Convert a third-party checkpoint to a folder for local-dir: names."
EXAMPLE = """example: facepcl convert 500.pth converted/
         facepcl convert resnet50.pth trunk/ --arch resnet50

CHECKPOINT: of the original PCL (training, encoder alone or with a linear probe; .pth or .safetensors), or
with --arch a ResNet with the parameter names of torchvision or timm, as plain PyTorch, timm, Lightning, MoCo,
DINO, DDP or torch.compile save it. Code in the file is never run."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file to read")
    parser.add_argument("out", metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--arch", metavar="NAME", help="resnet18 or resnet50, for a ResNet")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            nargs=3,
            type=float,
            metavar=("R", "G", "B"),
            help="normalisation of the ResNet's input (default: ImageNet's)",
        )
    parser.add_argument("--size", type=int, metavar="PIXELS", help="input size of the ResNet (default: 224)")
    parser.add_argument(
        "--license", metavar="NAME", help="licence of the weights, for the card (default: none)"
    )


def run(args: argparse.Namespace) -> int:
    from facepcl import hub

    folder = hub.convert(**vars(args))
    print(f'wrote {folder}; load it with facepcl.create_model("local-dir:{folder}", pretrained=True)')
    return 0
