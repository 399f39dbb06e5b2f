"""Training runs of a few steps: their configuration, what they write, and how they are stopped."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image, ImageDraw

from facepcl.models.io import load_tensors
from facepcl.pretrain import Config, run, substeps
from helpers.scripts import free_port

SMALL = {
    "batch": 4,
    "pose_batch": 2,
    "pose_negatives": 2,
    "source_size": 64,
    "size": 32,
    "max_yaw": 90.0,
    "dtype": "float32",  # so that two runs are equal to the bit on any machine
    "device": "cpu",
    "steps": 2,
    "log_steps": 1,
}
# of a face of 112 x 112 pixels
LANDMARKS = torch.tensor([[40.0, 44.0], [72.0, 44.0], [56.0, 60.0], [46.0, 76.0], [66.0, 76.0]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def label_faces(root):
    """Twelve smooth pictures of three people with a white disc, whose place is in the JSON of labels
    beside."""
    rng = np.random.default_rng(0)
    for person in range(3):
        folder = root / f"person{person}"
        folder.mkdir(parents=True)
        base = rng.uniform(0, 255, (5, 5, 3))
        for number in range(4):
            levels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(levels).resize((72, 72), Image.Resampling.BICUBIC)
            yaw, unit = 10.0 * number - 15, number / 4
            x, y = 36 + yaw, 28 + 24 * unit
            ImageDraw.Draw(image).ellipse(
                (x - 9, y - 9, x + 9, y + 9), "white"
            )  # where it is tells the labels
            image.save(folder / f"{number}.jpg")
            labels = {
                "yaw": yaw,
                "pitch": 5.0,
                "roll": 0.0,
                "au": {"AU12": unit, "AU4": 0.2},
                "expression": ("happy", "sad")[number % 2],
                "landmarks": {
                    "right_eye": [26, 30],
                    "left_eye": [46, 30],
                    "nose": [36, 40],
                    "mouth_right": [28, 52],
                    "mouth_left": [44, 52],
                },
            }
            (folder / f"{number}.json").write_text(json.dumps(labels))
    return root


def small_config(data, out, **changes):
    return Config(data=(str(data),), out=str(out), **{**SMALL, **changes})


def as_options(values):
    """The numbers of a configuration as options of `facepcl pretrain`."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def log_of(config):
    """The lines of a run's log."""
    return [json.loads(line) for line in Path(config.out, "log.jsonl").read_text().splitlines()]


def recorded(config):
    """What a run says of itself in its folder."""
    return json.loads(Path(config.out, "config.json").read_text())


def end_of(config):
    """All tensors of the last checkpoint of a run."""
    return load_tensors(Path(config.out, f"checkpoint-{config.steps:08d}.safetensors"))


def assert_same(found, wanted):
    """Tensors of the same names, equal to the bit."""
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def stop_in_step(number, config, monkeypatch, contrast="contrast_faces", sent=signal.SIGINT):
    """Run until a signal in step `number`, which comes where that step calls `contrast`."""
    with monkeypatch.context() as patch:
        real, calls = getattr(substeps, contrast), []

        def press(*arguments):
            calls.append(1)
            if len(calls) == number:
                signal.raise_signal(sent)
            return real(*arguments)

        patch.setattr(substeps, contrast, press)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert Path(config.out, f"checkpoint-{number:08d}.safetensors").is_file()
    assert not Path(config.out, "encoder").exists()


def in_processes(function, *arguments, processes=2):
    """Call `function(rank, *arguments)` in several processes that train together, as torchrun has them."""
    mp.spawn(_as_rank, (processes, free_port(), function, *arguments), nprocs=processes)


def _as_rank(rank, processes, port, function, *arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(rank, *arguments)
