"""One iteration of pretraining by parts, in CPU seconds: ours beside the same written as the original is.

OMP_NUM_THREADS=1 python benchmarks/pretrain.py
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from losses import naive_face_contrast, naive_orthogonality, naive_pose_contrast
from machine import describe
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf

from facepcl import losses, views
from facepcl.pretrain.augment import CROP, quadrant_centres
from facepcl.pretrain.networks import Networks, to_code
from facepcl.utils.device import training_dtype

FACES = sorted((Path(__file__).resolve().parents[1] / "examples/faces").glob("*.jpg"))
PARTS = ("views", "networks", "losses", "optimiser")
SIZE, ORIGINAL_SIDE, OUR_SIDE = 64, 224, 112  # pixels of a view, and of the images that it is made of
SIZES = {"32, 32, 4 x 16 (`--preset small`)": (32, 4, 16), "64, 64, 4 x 32": (64, 4, 32)}
NOISE = 0.4


class Clock:
    """CPU seconds of each part."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[part] += time.process_time() - start


class OriginalChain:
    """METHOD 5 as the original runs it: image by image, a PIL image between any two steps."""

    def __init__(self) -> None:
        self.jitter = tv.RandomApply([tv.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=views.P_JITTER)
        self.grey = tv.RandomGrayscale(views.P_GREY)
        self.blur = tv.RandomApply([self._blur], p=views.P_BLUR)
        self.sobel = tv.RandomApply([self._sobel], p=views.P_SOBEL)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return tvf.to_tensor(self.sobel(self.blur(self.grey(self.jitter(smaller(image))))))

    @staticmethod
    def _blur(image: Image.Image) -> Image.Image:
        sigma = torch.empty(()).uniform_(*views.BLUR_SIGMA)
        radius = views.BLUR_TAPS // 2
        taps = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
        taps = (taps / taps.sum()).repeat(3, 1)
        pixels = F.pad(tvf.to_tensor(image)[None], (radius,) * 4, mode="reflect")
        pixels = F.conv2d(F.conv2d(pixels, taps[:, None, :, None], groups=3), taps[:, None, None], groups=3)
        return tvf.to_pil_image(pixels[0])

    @staticmethod
    def _sobel(image: Image.Image) -> Image.Image:
        pixels = tvf.to_tensor(image)
        y = (torch.tensor([65.738, 129.057, 25.064]).view(3, 1, 1) * pixels).sum(0) / 256
        down = torch.tensor([[0.0, -1, 0], [0, 0, 0], [0, 1, 0]])
        slopes = F.conv2d(y[None, None], torch.stack([down, down.T])[:, None], padding=1)
        edge = (slopes.square().sum(1) + 1e-6).sqrt().expand(3, -1, -1)
        return Image.fromarray((edge * 255).int().remainder(256).to(torch.uint8).permute(1, 2, 0).numpy())


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def original_crops(image: Image.Image) -> list[Image.Image]:
    """Two crops of different quadrants."""
    centres = quadrant_centres(1, image.height, image.width, torch.default_generator)[:, 0]
    half = int(CROP * image.width)
    return [image.crop((x - half, y - half, x + half, y + half)) for x, y in centres.tolist()]


class Step:
    """An iteration of three sub-steps, each part timed; a loss is differentiated before the networks are, so
    that the two can be told apart."""

    def __init__(self, batch: int, pose_batch: int, negatives: int):
        self.batch, self.pose_batch, self.negatives = batch, pose_batch, negatives
        torch.manual_seed(0)
        self.nets = Networks("pcl_facecycle", {}).train()
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=1e-4, weight_decay=1e-3)
        self.clock = Clock()
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> dict[str, float]:
        """CPU seconds of the parts of one iteration."""
        self.clock = Clock()
        for sub_step in (self.disentangle, self.contrast_faces, self.contrast_poses):
            sub_step()
        return self.clock.seconds

    def move(self, forward: Callable[[], Sequence[torch.Tensor]], loss: Callable[..., torch.Tensor]) -> None:
        with self.clock("networks"):
            outputs = forward()
        leaves = [output.detach().requires_grad_() for output in outputs]
        with self.clock("losses"):
            loss(*leaves).backward()
        with self.clock("networks"):
            torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])
        with self.clock("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def decode(self, codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        face, face_mirror, pose, pose_mirror = codes
        pairs = ((face, pose_mirror), (face_mirror, pose), (face, pose), (face_mirror, pose_mirror))
        return [self.nets.decoder(F.normalize(a + b)) for a, b in pairs]


class Ours(Step):
    """Batched views of uint8 tensors, one pass a sub-step, closed losses, channels_last, the chosen dtype."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        pictures = [Image.open(face).convert("RGB").resize((OUR_SIDE, OUR_SIDE)) for face in FACES]
        images = torch.stack([tvf.pil_to_tensor(picture) for picture in pictures])
        self.images = images[torch.arange(self.batch) % len(images)]
        self.nets.to(memory_format=torch.channels_last)
        self.dtype = training_dtype("auto", self.nets.encoder, torch.rand(8, 3, SIZE, SIZE))

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)

    def disentangle(self) -> None:
        with self.clock("views"):
            image = views.to_float(views.resize(self.images, SIZE))
            clean = torch.cat([image, image.flip(3)])
            noisy = clean + NOISE * torch.randn(clean.shape, generator=self.generator)
        image, mirror = clean.chunk(2)

        def forward() -> list[torch.Tensor]:
            with self.autocast():
                maps = self.nets.encoder.forward_branches(noisy)
                codes = [*to_code(maps.face).chunk(2), *to_code(maps.pose).chunk(2)]
                return [*self.decode(codes), *codes]

        def loss(*made: torch.Tensor) -> torch.Tensor:
            face, face_mirror, pose, pose_mirror = made[4:]
            apart = losses.orthogonality(face, pose) + losses.orthogonality(face_mirror, pose_mirror)
            return losses.reconstruction(made[:4], (mirror, image, image, mirror)) + apart

        self.move(forward, loss)

    def contrast_faces(self) -> None:
        with self.clock("views"):
            crops = views.face_views(self.images, SIZE, self.generator)

        def forward() -> list[torch.Tensor]:
            with self.autocast():
                return [self.nets.face_head(self.nets.code("face", crops))]

        mixed = losses.mixing(len(crops) // 2, len(crops) - 2, self.generator)
        self.move(forward, lambda features: losses.face_contrast(features, *mixed))

    def contrast_poses(self) -> None:
        images = self.images[: self.pose_batch]
        with self.clock("views"):
            positives, negatives = views.pose_views(images, SIZE, self.negatives, self.generator)

        def forward() -> list[torch.Tensor]:
            with self.autocast():
                codes = self.nets.code("pose", torch.cat([positives, negatives]))
                return [self.nets.pose_head(part) for part in codes.split([len(positives), len(negatives)])]

        mixed = losses.mixing(len(images), self.negatives, self.generator, views=1)
        self.move(forward, lambda a, b: losses.pose_contrast(a, b.view(len(images), -1, 512), *mixed))


class Original(Step):
    """Every view resized from 224 px and augmented by itself, a pass for each input with both branches,
    losses that make every mixed negative, contiguous tensors, float32."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        side = (ORIGINAL_SIDE, ORIGINAL_SIDE)
        pictures = [Image.open(face).convert("RGB").resize(side) for face in FACES]
        self.images = [pictures[i % len(pictures)] for i in range(self.batch)]
        self.chain = OriginalChain()

    def codes(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.nets.encoder.forward_branches(images)
        return [maps.face.flatten(1), maps.pose.flatten(1)]

    def disentangle(self) -> None:
        with self.clock("views"):
            mirrors = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in self.images]
            image, mirror = (
                torch.stack(
                    [tvf.to_tensor(i.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for i in images]
                )
                for images in (self.images, mirrors)
            )
            noisy = [clean + NOISE * torch.randn(clean.shape) for clean in (image, mirror)]

        def forward() -> list[torch.Tensor]:
            (face, pose), (face_mirror, pose_mirror) = map(self.codes, noisy)
            codes = [face, face_mirror, pose, pose_mirror]
            return [*self.decode(codes), *codes]

        def loss(*made: torch.Tensor) -> torch.Tensor:
            drawn = zip(made[:4], (mirror, image, image, mirror), strict=True)
            face, face_mirror, pose, pose_mirror = made[4:]
            apart = naive_orthogonality(face, pose) + naive_orthogonality(face_mirror, pose_mirror)
            return sum(F.l1_loss(found, wanted) for found, wanted in drawn) + apart

        self.move(forward, loss)

    def contrast_faces(self) -> None:
        with self.clock("views"):
            pairs = [[self.chain(crop) for crop in original_crops(image)] for image in self.images]
            crops = torch.stack([pair[number] for number in range(2) for pair in pairs])
        mixed = losses.mixing(len(crops) // 2, len(crops) - 2, self.generator)
        self.move(
            lambda: [self.nets.face_head(self.codes(crops)[0])],
            lambda features: naive_face_contrast(features, *mixed),
        )

    def contrast_poses(self) -> None:
        images = self.images[: self.pose_batch]
        with self.clock("views"):
            positives = torch.stack([self.chain(image) for _ in range(2) for image in images])
            mirrors = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
            negatives = torch.stack([self.chain(image) for _ in range(self.negatives) for image in mirrors])
        mixed = losses.mixing(len(images), self.negatives, self.generator, views=1)
        self.move(
            lambda: [self.nets.pose_head(self.codes(part)[1]) for part in (positives, negatives)],
            lambda a, b: naive_pose_contrast(a, b.view(len(images), -1, 512), *mixed),
        )


def compare(name: str, sizes: tuple[int, int, int], runs: int) -> None:
    """Two rows of seconds and one of their ratios; the two ways take turns."""
    ways = {"as the original": Original(*sizes), "ours": Ours(*sizes)}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(runs + 1):
        for way, step in ways.items():
            found[way].append(step())
    rows = {
        way: [median(run[part] for run in seconds[1:]) for part in PARTS] for way, seconds in found.items()
    }
    for values in rows.values():
        values.append(sum(values))
    for way, values in rows.items():
        print(f"| {name} | {way} | {' | '.join(f'{value:.3f}' for value in values)} |")
    ratios = (a / b for a, b in zip(*rows.values(), strict=True))
    print(f"| | times faster | {' | '.join(f'{ratio:.1f}' for ratio in ratios)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="iterations of each way after the first")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe(), "\n")
    print(f"| batches: disentangle, face, pose | way | {' | '.join(PARTS)} | whole |")
    print("|---|---|" + "---|" * (len(PARTS) + 1))
    for name, sizes in SIZES.items():
        compare(name, sizes, args.runs)


if __name__ == "__main__":
    main()
