"""The jobs that benchmarks/peers.py measures facepcl against, each as its users write it: images to a .npz.

python benchmarks/peer_jobs.py timm FOLDER OUT.npz --model pcl_facecycle --amp --channels-last
python benchmarks/peer_jobs.py facenet FOLDER OUT.npz
python benchmarks/peer_jobs.py iresnet50 FOLDER OUT.npz --onnx iresnet50.onnx
"""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

FACENET_SIDE, IRESNET_SIDE = 160, 112  # pixels that the weights of these two are made for
IRESNET50 = (3, 4, 14, 3)


def embed_by_timm(args: argparse.Namespace) -> None:
    """timm's inference.py (1.0.31) with its loader; vectors instead of classes, numpy instead of pandas."""
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config

    import facepcl  # noqa: F401  its models are timm's from here on

    device = torch.device("cpu")
    model = timm.create_model(args.model, pretrained=True, num_classes=0)
    data_config = resolve_data_config({}, model=model)
    model = model.to(device).eval()
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    loader = create_loader(
        create_dataset("", root=args.source),
        batch_size=args.batch_size,
        use_prefetcher=True,
        num_workers=args.workers,
        device=device,
        img_dtype=torch.float32,
        **data_config,
    )
    vectors = []
    with torch.inference_mode():
        for images, _ in loader:
            with torch.autocast("cpu", torch.bfloat16) if args.amp else nullcontext():
                output = model(images)
            vectors.append(output.float().cpu().numpy())
    np.savez(args.out, vectors=np.concatenate(vectors), paths=loader.dataset.filenames())


class Photographs(Dataset):
    """The images below a folder, resized to squares; pixels as `convert` gives them, float32 `[3, H, W]`."""

    def __init__(self, folder: str, side: int, convert: Callable[[Image.Image], torch.Tensor]):
        self.paths = sorted(Path(folder).rglob("*.jpg"))
        self.side, self.convert = side, convert

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        image = Image.open(self.paths[place]).convert("RGB")
        return self.convert(image.resize((self.side, self.side), Image.Resampling.BILINEAR))


def embed_by_facenet(args: argparse.Namespace) -> None:
    """facenet-pytorch's own loop (examples/lfw_evaluate.ipynb), with random weights."""
    from facenet_pytorch import InceptionResnetV1, fixed_image_standardization
    from torchvision import transforms

    steps = [np.float32, transforms.ToTensor(), fixed_image_standardization]
    faces = Photographs(args.source, FACENET_SIDE, transforms.Compose(steps))
    loader = DataLoader(faces, num_workers=args.workers, batch_size=args.batch_size)
    resnet = InceptionResnetV1(classify=False).eval()
    vectors = []
    with torch.no_grad():
        for images in loader:
            vectors.extend(resnet(images).to("cpu").numpy())
    np.savez(args.out, vectors=vectors, paths=list(map(str, faces.paths)))


def embed_by_iresnet50(args: argparse.Namespace) -> None:
    """ArcFace's network as onnxruntime runs it, behind a DataLoader."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))  # it would count those of the machine
    session = onnxruntime.InferenceSession(args.onnx, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    faces = Photographs(args.source, IRESNET_SIDE, _to_arcface)
    loader = DataLoader(faces, num_workers=args.workers, batch_size=args.batch_size)
    vectors = [session.run(None, {name: images.numpy()})[0] for images in loader]
    np.savez(args.out, vectors=np.concatenate(vectors), paths=list(map(str, faces.paths)))


def _to_arcface(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy((np.float32(image).transpose(2, 0, 1) - 127.5) / 127.5)


class IBlock(nn.Module):
    """The residual block of ArcFace's networks: batch norms around both convolutions, no ReLU behind."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inner),
            nn.Conv2d(inner, outer, 3, padding=1, bias=False),
            nn.BatchNorm2d(outer),
            nn.PReLU(outer),
            nn.Conv2d(outer, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            shrink = nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shrink, nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(x) + self.shortcut(x)


def iresnet(depths: Sequence[int] = IRESNET50) -> nn.Module:
    """ArcFace's IResNet with random weights: `[B, 3, 112, 112]` to `[B, 512]`."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    inner = 64
    for width, depth in zip((64, 128, 256, 512), depths, strict=True):
        for number in range(depth):
            layers.append(IBlock(inner, width, 1 if number else 2))
            inner = width
    cells = (IRESNET_SIDE // 16) ** 2
    head = [nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * cells, 512), nn.BatchNorm1d(512)]
    return nn.Sequential(*layers, *head).eval()


def export_iresnet(path: Path, depths: Sequence[int] = IRESNET50) -> None:
    """The file that users of onnxruntime begin with, any number of images at once."""
    from facepcl.models.onnx import to_onnx

    sample = torch.zeros(2, 3, IRESNET_SIDE, IRESNET_SIDE)
    path.write_bytes(to_onnx(iresnet(depths), sample).SerializeToString())


JOBS = {"timm": embed_by_timm, "facenet": embed_by_facenet, "iresnet50": embed_by_iresnet50}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("source", help="folder; for timm also a .tar")
    parser.add_argument("out", metavar="OUT.npz")
    parser.add_argument("--model", default="pcl_facecycle", help="for timm")
    parser.add_argument("--amp", action="store_true", help="for timm: bfloat16 (--amp-dtype bfloat16 there)")
    parser.add_argument("--channels-last", action="store_true", help="for timm")
    parser.add_argument("--onnx", metavar="FILE", help="for iresnet50")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(arguments)
    JOBS[args.job](args)


if __name__ == "__main__":
    main()
