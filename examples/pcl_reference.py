"""PCL in one file: pose-disentangled contrastive learning as published, written to be read.

    python examples/pcl_reference.py FACES/ --out runs/reference

FACES is a folder of face images, with or without subfolders; the encoder is saved to OUT/encoder. Numbers in
parentheses are sections of docs/METHOD.md. Each loss is written as its equation. `facepcl pretrain` computes
the same losses and gradients in closed form, with less time and memory.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import transforms as tv
from torchvision.transforms.functional import hflip, to_pil_image, to_tensor

import facepcl
from facepcl.models.decoder import Decoder, ProjectionHead
from facepcl.models.io import save_encoder

SIZE = 64  # pixels of a view; codes then have 128 x 4 x 4 = 2048 numbers (1)
CROP = 0.2  # half the side of a quadrant crop, as a fraction of the image (5)
NOISE = 0.4  # standard deviation of the noise on the input of the disentangling step (4.1)
POSE_BATCH = 10  # images of the pose step (4.3)
TEMPERATURE = 0.07  # of the contrast losses (4.4)
MIXING = 1.6  # both parameters of the Beta distribution of the mixing masks (4.4)
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-3  # of Adam (4.6)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# ---- Views (5)


def sobel(image):
    """Replace an image by the strength of its edges."""
    red, green, blue = to_tensor(image)
    luma = F.pad((65.738 * red + 129.057 * green + 25.064 * blue) / 256, (1, 1, 1, 1))
    vertical = luma[2:, 1:-1] - luma[:-2, 1:-1]
    horizontal = luma[1:-1, 2:] - luma[1:-1, :-2]
    edges = (vertical**2 + horizontal**2 + 1e-6).sqrt()
    levels = (255 * edges).int() % 256  # as in the original, the strongest edges exceed 255 and become dark
    return to_pil_image(levels.to(torch.uint8).expand(3, -1, -1))


resize = tv.Resize((SIZE, SIZE))
blur = tv.Compose([tv.ToTensor(), tv.GaussianBlur(7, sigma=(0.1, 2.0)), tv.ToPILImage()])
augment = tv.Compose(
    [
        tv.RandomApply([tv.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        tv.RandomGrayscale(p=0.2),
        tv.RandomApply([blur], p=0.8),
        tv.RandomApply([sobel], p=0.6),
    ]
)


def quadrant_crops(image):
    """Crop around a random centre in each of two random quadrants, such that the crops never overlap."""
    width, height = image.size
    w, h = int(CROP * width), int(CROP * height)
    columns = [(w, width // 2 - w), (width // 2 + w, width - w)]
    rows = [(h, height // 2 - h), (height // 2 + h, height - h)]
    crops = []
    for quadrant in random.sample(range(4), 2):
        x, y = random.randint(*columns[quadrant % 2]), random.randint(*rows[quadrant // 2])
        crops.append(image.crop((x - w, y - h, x + w, y + h)))
    return crops


def disentangle_views(image):
    """Return the image and its mirror, not augmented."""
    return [resize(image), resize(hflip(image))]


def face_views(image):
    """Return two augmented quadrant crops."""
    return [augment(resize(crop)) for crop in quadrant_crops(image)]


def pose_views(image, negatives):
    """Return two augmented views of the image, then augmented views of its mirror, the negatives."""
    image, mirror = disentangle_views(image)
    return [augment(image) for _ in range(2)] + [augment(mirror) for _ in range(negatives)]


def get_batch(paths, batch, make_views):
    """Make the views of random images, `[V B, 3, 64, 64]`: B first views, B second views and so on."""
    samples = [make_views(Image.open(path).convert("RGB")) for path in random.sample(paths, batch)]
    views = [to_tensor(view) for nth_views in zip(*samples, strict=True) for view in nth_views]
    return torch.stack(views).to(DEVICE)


# ---- Losses (4.4)


def unit_rows(codes):
    """Centre codes `[N, D]` and scale each to unit length, with no gradient through the length."""
    centred = codes - codes.mean(0)
    return centred / (centred.norm(dim=1, keepdim=True).detach() + 1e-6)


def orthogonality(face, pose):
    """Compute the mean square of the D x D correlations between face and pose codes `[N, D]`."""
    return (unit_rows(face).T @ unit_rows(pose)).square().mean()


def draw_mixing(rows, slots):
    """Draw mixing masks m `[rows, slots]` and a permutation pi `[slots]` that all rows share."""
    mask = torch.distributions.Beta(MIXING, MIXING).sample((rows, slots))
    return mask.to(DEVICE), torch.randperm(slots).to(DEVICE)


def mix(negatives, mask, permutation):
    """Mix negatives n `[K, D]` in pairs: g(p) = m(p) n(p) + (1 - m(p)) n(pi(p))."""
    return mask[:, None] * negatives + (1 - mask[:, None]) * negatives[permutation]


def contrast(features, negatives, mask, permutation):
    """Contrast B first and B second views, `[2B, D]`, each with its own `negatives` `[K, D]`, by InfoNCE."""
    losses = []
    for i, anchor in enumerate(features):
        positive = features[(i + len(features) // 2) % len(features)]
        mixed = mix(negatives[i], mask[i], permutation)
        logits = F.cosine_similarity(anchor[None], torch.cat([positive[None], mixed])) / TEMPERATURE
        losses.append(logits.logsumexp(0) - logits[0])  # -log softmax of the positive
    return torch.stack(losses).mean()


# ---- The model and its three steps (4.1 to 4.3)


class PCL(nn.Module):
    """The encoder with its face and pose branches, the decoder and the projection heads (1 to 3)."""

    def __init__(self):
        super().__init__()
        self.encoder = facepcl.create_model("pcl_facecycle", pretrained=False, num_classes=0)
        self.decoder = Decoder()
        self.face_head = ProjectionHead()
        self.pose_head = ProjectionHead()


def disentangle(model, image, mirror, noise):
    """Draw `image` and `mirror` `[B, 3, 64, 64]` from either face code: only pose can tell them apart."""
    codes = model.encoder.forward_codes(torch.cat([image, mirror]) + NOISE * noise)
    face, face_mirror = codes.face.chunk(2)
    pose, pose_mirror = codes.pose.chunk(2)

    def error(face_code, pose_code, target):
        return F.l1_loss(model.decoder(F.normalize(face_code + pose_code)), target)

    swapped = error(face, pose_mirror, mirror) + error(face_mirror, pose, image)
    own = error(face, pose, image) + error(face_mirror, pose_mirror, mirror)
    return swapped + own + orthogonality(face, pose) + orthogonality(face_mirror, pose_mirror)


def contrast_faces(model, views, mask, permutation):
    """Contrast two crops of each face, `views` `[2B, 3, 64, 64]`, with the crops of the other faces."""
    features = model.face_head(model.encoder.forward_codes(views).face)
    rows, batch = range(len(features)), len(features) // 2
    negatives = [features[[j for j in rows if j % batch != i % batch]] for i in rows]
    return contrast(features, negatives, mask, permutation)


def contrast_poses(model, positives, negatives, mask, permutation):
    """Contrast two views of each face `[2B, 3, 64, 64]` with mirrored faces `[K B, 3, 64, 64]`."""
    features = model.pose_head(model.encoder.forward_codes(positives).pose)
    mirrored = model.pose_head(model.encoder.forward_codes(negatives).pose)
    # Row k B + i is draw k of image i, but image i gets rows i K to i K + K - 1, as in the original (7, Q1).
    blocks = mirrored.unflatten(0, mask.shape)
    return contrast(features, blocks.repeat(2, 1, 1), mask.repeat(2, 1), permutation)


# ---- Training (4.5 and 4.6)


def dynamic_weights(history):
    """Weight the contrast losses by how slowly their means, `[face, pose]` of each epoch, decrease."""
    if len(history) < 2:
        return [1.0, 1.0]
    before, now = torch.tensor(history[-2:], dtype=torch.float64)
    ratios = now / before.clamp_min(1e-12)
    return (2 * torch.softmax(ratios / 2, dim=0)).tolist()


def update(optimizer, loss):
    """Take one step of the optimiser."""
    # Zeros and not None: as in the original, Adam also moves parameters that this loss does not use.
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()


def main():
    """Train on the images of a folder and save the encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", metavar="FACES", help="folder of face images")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=6000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="stop after this many iterations (default: all epochs)")
    parser.add_argument("--batch", type=int, default=256, help="images per step (default: %(default)s)")
    parser.add_argument("--negatives", type=int, default=100, help="per image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()

    paths = sorted(p for p in Path(args.data).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not 2 <= args.batch <= len(paths):
        sys.exit(f"{args.data} has {len(paths)} images; --batch {args.batch} must be from 2 to that number")
    pose_batch = min(POSE_BATCH, args.batch)
    epoch_steps = len(paths) // args.batch
    steps = min(args.steps or args.epochs * epoch_steps, args.epochs * epoch_steps)

    random.seed(args.seed)
    torch.manual_seed(args.seed)
    model = PCL().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    losses, history = [], []
    for step in range(1, steps + 1):
        face_weight, pose_weight = dynamic_weights(history)

        image, mirror = get_batch(paths, args.batch, disentangle_views).chunk(2)
        noise = torch.randn(2 * args.batch, 3, SIZE, SIZE, device=DEVICE)
        disentangle_loss = disentangle(model, image, mirror, noise)
        update(optimizer, disentangle_loss)

        views = get_batch(paths, args.batch, face_views)
        face_loss = contrast_faces(model, views, *draw_mixing(2 * args.batch, 2 * args.batch - 2))
        update(optimizer, face_weight * face_loss)

        views = get_batch(paths, pose_batch, lambda image: pose_views(image, args.negatives))
        positives, negatives = views[: 2 * pose_batch], views[2 * pose_batch :]
        pose_loss = contrast_poses(model, positives, negatives, *draw_mixing(pose_batch, args.negatives))
        update(optimizer, pose_weight * pose_loss)

        print(f"step {step}: disentangle {disentangle_loss:.4f} face {face_loss:.4f} pose {pose_loss:.4f}")
        losses.append([face_loss.item(), pose_loss.item()])
        if step % epoch_steps == 0:
            history.append(torch.tensor(losses[-epoch_steps:]).mean(0).tolist())
            scheduler.step()
        if step % (50 * epoch_steps) == 0 or step == steps:
            save_encoder(model.encoder, Path(args.out, "encoder"), model.decoder)


if __name__ == "__main__":
    main()
