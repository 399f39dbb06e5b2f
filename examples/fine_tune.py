"""Fine-tune the bundled weights on a folder with a folder for each class: expressions, people, anything.

    python examples/fine_tune.py FACES/ --epochs 5 --out expression.safetensors

FACES/happy/1.jpg, FACES/sad/2.jpg, ... Plain timm and torchvision; facepcl only brings the model.
"""

import argparse
import sys

import timm
import torch
from torchvision.datasets import ImageFolder

import facepcl
from facepcl.models.io import save_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faces", help="a folder with a folder of face crops for each class")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", default="fine_tuned.safetensors")
    args = parser.parse_args()

    folder = ImageFolder(args.faces)
    classes = folder.classes
    print("classes:", ", ".join(classes))
    if splits := {"train", "val", "test"} & set(classes):
        sys.exit(f"{args.faces} has a folder {min(splits)}, which is no class; give that folder")
    if min(len(folder), len(classes)) < 2:
        sys.exit(f"{args.faces}: {len(folder)} faces of {len(classes)} classes; two of each are the least")
    model = facepcl.create_model(
        "pcl_facecycle", pretrained=True, branches=False, num_classes=len(classes), drop_rate=0.1
    )
    config = timm.data.resolve_model_data_config(model)
    train_set = ImageFolder(
        args.faces, timm.data.create_transform(**config, is_training=True, scale=(0.7, 1.0))
    )
    test_set = ImageFolder(args.faces, timm.data.create_transform(**config))
    order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = max(1, len(order) // 5)
    batches = torch.utils.data.DataLoader(
        torch.utils.data.Subset(train_set, order[held_out:]), 32, shuffle=True
    )
    held_out_batches = torch.utils.data.DataLoader(torch.utils.data.Subset(test_set, order[:held_out]), 32)

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            right = sum((model(x).argmax(1) == y).sum().item() for x, y in held_out_batches)
        print(f"epoch {epoch + 1}: {right} of {held_out} held-out faces right ({len(classes)} classes)")
    save_tensors(model.state_dict(), args.out)
    print(
        f"wrote {args.out}; load it with facepcl.create_model('pcl_facecycle', pretrained={args.out!r}, "
        f"branches=False, num_classes={len(classes)})"
    )


if __name__ == "__main__":
    try:
        main()
    except (facepcl.FacepclError, OSError) as error:
        sys.exit(str(error))
