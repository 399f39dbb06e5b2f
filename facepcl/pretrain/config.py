"""The numbers of a training run: every one an option of the command line and a line of RUN/config.json."""

from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from facepcl.errors import OptionError
from facepcl.pretrain.label_views import VIEWS
from facepcl.utils.device import DTYPES

# The sub-steps of an iteration, in order, each with an Adam step of its own (METHOD 4, 10, 12).
METHODS = {
    "pcl": ("disentangle", "face", "pose"),
    "labels": ("labels",),
    "pcl-no-orthogonal": ("disentangle", "face", "pose"),
    "pcl-no-pose": ("disentangle", "face"),
    "simclr": ("shared",),
}
ORTHOGONALITY = 1.0  # METHOD 4.1
CONTRASTS = ("face", "pose", "shared")  # the sub-steps whose losses are weighed against each other


def option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field that the command line offers, with its help."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Config:
    """The hyperparameters of a run; recorded in `RUN/config.json`.

    `facepcl pretrain --help` describes each. `data` is a path or several; `out` is the folder of the run.
    """

    data: tuple[str, ...]
    out: str
    # what is trained
    model: str = option("pcl_facecycle", "encoder to train")
    method: str = option(
        "pcl",
        "pcl: PCL as published; labels: supervised by the labels of the data, for example rendered faces; "
        "ablations: pcl-no-orthogonal is --orthogonality 0, pcl-no-pose has no pose sub-step, simclr "
        "contrasts the shared code alone and trains no branches",
        tuple(METHODS),
    )
    init: str = option(
        "",
        "weights to start the encoder from, and its decoder where there is one: NAME.TAG, local-dir:FOLDER, "
        "hf-hub:ORG/NAME or a .safetensors file",
    )
    size: int = option(0, "side of the views in pixels (0: the model's own)")
    resolution_schedule: str = option(
        "",
        "sides of the views in place of --size, each with the part of the steps until which it is used: "
        "48:0.6,64; 48+48+64 takes turns, step by step",
    )
    source_size: int = option(112, "side in pixels that every image is brought to once")
    seed: int = option(0, "seed of everything random")
    # how long
    epochs: float = option(0.0, "passes over the images (0: --steps)")
    steps: int = option(0, "iterations (0: --epochs)")
    minutes: float = option(
        0.0,
        "train for this long, in place of --steps and --epochs; the learning rate follows the clock, so two "
        "runs are not equal to the bit",
    )
    # batches (METHOD 4.1 to 4.3)
    batch: int = option(256, "images of a step, and of pcl's disentangling and face sub-steps")
    pose_batch: int = option(10, "images of the pose sub-step")
    pose_negatives: int = option(100, "mirrored negatives for each image of the pose sub-step")
    negatives: str = option("blocks", "negatives of all images mixed, or each image's own", ("blocks", "own"))
    face_crops: str = option(
        "quadrants",
        "what the face sub-step and simclr contrast: crops of two quadrants, as published, or two squares of "
        "25 to 100 %% of the whole face, mirrored or not",
        ("quadrants", "whole"),
    )
    edges: float = option(0.6, "part of the views of a contrast that show edges in place of the picture")
    # data
    stream: int = option(
        0,
        "read .tar shards while training, so many at a time over all processes (0: all images into memory, "
        "before the first step)",
    )
    workers: int = option(0, "with --stream, processes that decode images for each one (0: by its cores)")
    # optimiser (METHOD 4.6)
    lr: float = option(1e-4, "Adam's learning rate")
    weight_decay: float = option(1e-3, "L2 term in the gradient")
    warmup: float = option(0.0, "part of the run in which the learning rate rises to its value")
    gradients: str = option(
        "zeros", "reset between sub-steps: zeros as in the original, or none", ("zeros", "none")
    )
    ema: float = option(
        0.0, "release the average of the weights, of which each step keeps this part, such as 0.999 (0: off)"
    )
    # weights and noise of the PCL losses
    noise: float = option(0.4, "standard deviation of the noise on the disentangling sub-step's input")
    orthogonality: float = option(ORTHOGONALITY, "weight of the orthogonality loss")
    # labels (METHOD 10)
    views: str = option(
        "ramp",
        "augmentation of --method labels: mild, strong, or ramp, which is mild at first and ends with 70 %% "
        "of the views strong; with --init they are from the start",
        VIEWS,
    )
    weight_au: float = option(30.0, "weight of the action units' loss")
    weight_expression: float = option(0.5, "weight of the expression loss")
    weight_identity: float = option(
        0.1, "weight of the identity loss, reached after a third of the run, with --init at once"
    )
    weight_pose: float = option(3.0, "weight of the head pose loss")
    max_yaw: float = option(45.0, "degrees: faces turned further are left out")
    max_pitch: float = option(27.0, "degrees: faces nodding further are left out")
    # machine and record
    device: str = option("auto", "cpu, cuda, mps, or auto")
    dtype: str = option(
        "auto",
        "autocast; auto takes bfloat16, and matrix products for convolutions on tiny maps, where a timing "
        "finds them faster",
        ("auto", *DTYPES),
    )
    compile: bool = option(
        False,
        "compile the encoder, anew for each shape of its input: minutes, and slower afterwards on the "
        "processor it was tried on",
    )
    tensorboard: bool = option(False, "write RUN/tensorboard besides log.jsonl")
    log_steps: int = option(20, "iterations between lines of log.jsonl")
    sample_steps: int = option(500, "iterations between pictures in samples/")
    checkpoint_minutes: float = option(3.0, "minutes between checkpoints")

    def __post_init__(self) -> None:
        paths = (self.data,) if isinstance(self.data, (str, Path)) else self.data
        object.__setattr__(self, "data", tuple(map(str, paths)))
        object.__setattr__(self, "out", str(self.out))

    @property
    def sub_steps(self) -> tuple[str, ...]:
        """The names of the sub-steps that an iteration of the method consists of."""
        return METHODS[self.method]

    @property
    def orthogonality_weight(self) -> float:
        """The weight of the orthogonality loss: 0 for the ablation without it."""
        return 0.0 if self.method == "pcl-no-orthogonal" else self.orthogonality

    def size_at(self, done: float, step: int) -> int:
        """The side of the views in iteration `step`, after the part `done` of the run; 0: the model's own."""
        schedule = read_schedule(self.resolution_schedule) or [((self.size,), 1.0)]
        sizes = next((sizes for sizes, until in schedule if done < until), schedule[-1][0])
        return sizes[step % len(sizes)]

    @property
    def final_size(self) -> int:
        """The side of the images that the finished encoder is for; 0: the model's own."""
        schedule = read_schedule(self.resolution_schedule)
        return max(schedule[-1][0]) if schedule else self.size

    @property
    def batches(self) -> dict[str, int]:
        """The batches of the method, by their options."""
        batches = {
            "--batch": self.batch,
            "--pose-batch": self.pose_batch * ("pose" in self.sub_steps),
        }
        batches["--stream"] = self.stream
        return {option_name: batch for option_name, batch in batches.items() if batch}

    @property
    def views_per_step(self) -> int:
        """Views that go through the encoder in one iteration."""
        views = {
            "disentangle": 2 * self.batch,
            "face": 2 * self.batch,
            "pose": self.pose_batch * (2 + self.pose_negatives),
            "shared": 2 * self.batch,
            "labels": self.batch,
        }
        return sum(views[name] for name in self.sub_steps)

    def check(self) -> None:
        """Raise OptionError for a number or word that cannot work, naming the option and its range."""
        for field_ in fields(self):
            value, choices = getattr(self, field_.name), field_.metadata.get("choices")
            option_name = "--" + field_.name.replace("_", "-")
            if choices and value not in choices:
                raise OptionError(f"{option_name} {value}: choose {', '.join(choices)}")
            least = LEAST.get(field_.name, 0)
            if isinstance(value, (int, float)) and not least <= value <= MOST:
                raise OptionError(f"{option_name} {value}: at least {least}, at most {MOST:g}")
        if 0 < self.size < 32:
            raise OptionError(f"--size {self.size}: at least 32, or 0 for the model's own")
        if read_schedule(self.resolution_schedule) and self.size:
            raise OptionError(f"--resolution-schedule says the sizes; leave out --size {self.size}")
        if self.warmup >= 1:
            raise OptionError(f"--warmup {self.warmup}: a part of the run, below 1")
        if self.edges > 1:
            raise OptionError(f"--edges {self.edges}: a part of the views, at most 1")
        if self.ema >= 1:
            raise OptionError(f"--ema {self.ema}: below 1")
        if self.method == "pcl-no-orthogonal" and self.orthogonality not in (0, ORTHOGONALITY):
            raise OptionError(
                f"--method pcl-no-orthogonal gives the orthogonality loss no weight; leave out "
                f"--orthogonality {self.orthogonality:g}"
            )
        if not (self.epochs or self.steps or self.minutes):
            raise OptionError("say how long to train: --steps, --epochs or --minutes")
        if self.batch % 2 and "labels" in self.sub_steps:
            raise OptionError(f"--batch {self.batch}: an even number, two images of each person")
        if self.stream:
            self._check_stream()

    def _check_stream(self) -> None:
        if "labels" in self.sub_steps:
            raise OptionError(
                f"--method {self.method} needs the labels of all images in memory; leave out "
                f"--stream {self.stream}"
            )
        if self.batch % self.stream:
            raise OptionError(
                f"--batch {self.batch}: a multiple of --stream {self.stream}, since each shard that is open "
                "gives as many images"
            )
        if self.batches.get("--pose-batch", 0) > self.batch:
            raise OptionError(
                f"--pose-batch {self.pose_batch}: with --stream a part of --batch {self.batch}, at most that"
            )


def read_schedule(text: str) -> list[tuple[tuple[int, ...], float]]:
    """`48:0.6,48+64` as sides of the views, which take turns, each with the part of the run until which they
    are used. Raises OptionError."""
    if not text:
        return []
    *earlier, last = text.split(",")
    try:
        parts = [(sizes, float(until)) for sizes, until in (word.split(":") for word in earlier)]
        found = [(tuple(map(int, sizes.split("+"))), until) for sizes, until in (*parts, (last, 1.0))]
    except ValueError:
        found = [((0,), 1.0)]
    ends = [0.0, *(until for _, until in found)]
    if min(min(sizes) for sizes, _ in found) < 32 or not all(a < b for a, b in pairwise(ends)):
        raise OptionError(
            f"--resolution-schedule {text}: sizes of at least 32 and parts that rise below 1, as in 48:0.6,64"
        )
    return found


MOST = 1e18  # of any number; a seed or a count still fits into 64 bits
# Batch norm and contrast need two of a kind; images below 32 px leave the trunk nothing.
LEAST = {
    "batch": 2,
    "pose_batch": 2,
    "pose_negatives": 1,
    "source_size": 32,
    "log_steps": 1,
    "sample_steps": 1,
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 6000.0},
    "small": {
        "batch": 32,
        "pose_batch": 4,
        "pose_negatives": 16,
        "gradients": "none",
        "warmup": 0.02,
        "epochs": 20.0,
    },
}

# What may differ when a run is continued: it changes no number of the result.
MAY_CHANGE = frozenset(
    {"data", "out", "workers", "device", "tensorboard", "log_steps", "sample_steps", "checkpoint_minutes"}
)

# What a run was begun with whose config.json knows an option not yet.
DEFAULTS = {field_.name: field_.default for field_ in fields(Config) if field_.metadata}
