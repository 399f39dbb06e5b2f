"""The hyperparameters of a run: each a command-line option and a field of RUN/config.json."""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from facepcl.data.label_files import CLS_LABELS
from facepcl.errors import OptionError, check_known, shortened
from facepcl.pretrain.label_views import VIEWS
from facepcl.utils.device import DTYPES

# The tasks of an iteration (sub-steps in METHOD 4, 10, 12), in order, each with its own optimiser step.
METHODS = {
    "pcl": ("disentangle", "face", "pose"),
    "labels": ("labels",),
    "pcl-no-orthogonal": ("disentangle", "face", "pose"),
    "pcl-no-pose": ("disentangle", "face"),
    "simclr": ("shared",),
    "pcl-relative": ("relative",),
}
ORTHOGONALITY = 1.0  # METHOD 4.1
CONTRASTS = ("face", "pose", "shared")  # tasks whose losses are weighted dynamically


MAXIMUM = 1e18  # of any number: seeds and counts fit into 64 bits


def option(default: Any, help: str, choices: tuple[str, ...] | None = None, minimum: int = 0) -> Any:
    """A field with a command-line option."""
    return field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})


def _plain(value: Any, kind: type) -> Any:
    """Paths, devices and numpy's numbers as what JSON holds."""
    value = value.item() if hasattr(value, "item") else value
    if kind is str:
        return value if value is None else str(value)
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Config:
    """The hyperparameters of a run; recorded in `RUN/config.json`.

    `facepcl pretrain --help` describes each. `data` is a path or several; `out` is the folder of the run.
    """

    data: tuple[str, ...]
    out: str
    # networks and method
    model: str = option("pcl_facecycle", "encoder: one of facepcl's, or any model of timm with a feature map")
    method: str = option(
        "pcl",
        "pcl: PCL as published; pcl-relative: ours without labels, contrasts and the relative pose of turned "
        "heads in one step, for aligned crops; labels: supervised by the labels of the data, for example "
        "rendered faces; ablations: pcl-no-orthogonal is --orthogonality 0, pcl-no-pose has no pose task, "
        "simclr contrasts the shared code and trains no branches",
        tuple(METHODS),
    )
    init: str = option(
        "",
        "initial weights of the encoder, and of its decoder and heads if there are any: NAME.TAG, "
        "local-dir:FOLDER, hf-hub:ORG/NAME or a .safetensors file",
    )
    size: int = option(0, "side of the views in pixels (0: the model's default)")
    resolution_schedule: str = option(
        "",
        "sides of the views instead of --size, each with the fraction of the run at which it ends: "
        "48:0.6,64; 48+48+64 alternates between steps",
    )
    source_size: int = option(112, "side in pixels to which images are resized when read", minimum=32)
    seed: int = option(0, "random seed")
    # length
    epochs: float = option(0.0, "passes over the images (0: --steps)")
    steps: int = option(0, "iterations (0: --epochs)")
    minutes: float = option(
        0.0,
        "training time, instead of --steps and --epochs; the learning rate follows the clock, so runs are "
        "not bit-reproducible",
    )
    # batches (METHOD 4.1 to 4.3); batch norm and contrast need two samples
    batch: int = option(256, "batch size", minimum=2)
    pose_batch: int = option(10, "batch size of the pose task", minimum=2)
    pose_negatives: int = option(100, "mirrored negatives per image of the pose task", minimum=1)
    negatives: str = option("blocks", "blocks: from all images; own: the image's own", ("blocks", "own"))
    face_crops: str = option(
        "quadrants",
        "views of the face task and simclr: two quadrants, as published; whole: two squares of 25 to 100 "
        "%% of the face, mirrored or not; aligned: the views of pcl-relative",
        ("quadrants", "whole", "aligned"),
    )
    turn: float = option(20.0, "degrees: largest yaw by which aligned views turn the head")
    edges: float = option(0.6, "probability that a view of a contrast is replaced by its edges")
    # data
    stream: int = option(
        0,
        "number of .tar shards open at a time during training, over all processes (0: read all images into "
        "memory first)",
    )
    workers: int = option(
        -1, "with --stream, decoding processes per training process (-1: from its cores; 0: none)", minimum=-1
    )
    # optimiser (METHOD 4.6)
    lr: float = option(1e-4, "Adam's learning rate")
    weight_decay: float = option(1e-3, "L2 term in the gradient")
    warmup: float = option(0.0, "fraction of the run with linear learning rate warm-up")
    gradients: str = option(
        "zeros", "reset gradients between tasks to zeros, as in the original, or to None", ("zeros", "none")
    )
    ema: float = option(
        0.0,
        "save an exponential moving average of the weights with this decay, such as 0.999 (0: off)",
    )
    # weights and noise of the PCL losses
    noise: float = option(0.4, "standard deviation of the input noise of the disentangling task")
    orthogonality: float = option(ORTHOGONALITY, "weight of the orthogonality loss")
    # pcl-relative (METHOD 14)
    weight_face: float = option(0.25, "weight of the contrast of face codes; that of shared codes is 1")
    weight_relative: float = option(40.0, "weight of the relative pose loss")
    # labels (METHOD 10)
    cls: str = option(CLS_LABELS[0], "the label in NAME.cls files", CLS_LABELS)
    freeze: bool = option(
        False, "leave the encoder of --init as it is, and train the heads of --method labels alone"
    )
    views: str = option(
        "ramp",
        "augmentation of --method labels: mild, strong, or ramp, from mild to 70 %% strong views; with "
        "--init 70 %% from the start",
        VIEWS,
    )
    weight_au: float = option(30.0, "weight of the action unit loss")
    weight_expression: float = option(0.5, "weight of the expression loss")
    weight_identity: float = option(
        0.1, "weight of the identity loss, reached after a third of the run, with --init at once"
    )
    weight_pose: float = option(3.0, "weight of the head pose loss")
    max_yaw: float = option(45.0, "degrees: exclude faces with a larger yaw")
    max_pitch: float = option(27.0, "degrees: exclude faces with a larger pitch")
    # machine and log
    device: str = option("auto", "cpu, cuda, mps, or auto")
    dtype: str = option(
        "auto",
        "autocast dtype; auto times bfloat16, and matrix products for convolutions on tiny maps, and uses "
        "the faster",
        ("auto", *DTYPES),
    )
    compile: bool = option(
        False,
        "compile the encoder, once per input shape; takes minutes, and was slower on the processor it was "
        "tried on",
    )
    tensorboard: bool = option(False, "write RUN/tensorboard besides log.jsonl")
    log_steps: int = option(20, "iterations between lines of log.jsonl", minimum=1)
    probe_data: str = option(
        "",
        "folder or .tar shard of labelled faces: every --probe-steps, log linear probes of each code for "
        "head pose, expression and identity",
    )
    probe_steps: int = option(200, "iterations between the probes of --probe-data", minimum=1)
    sample_steps: int = option(500, "iterations between images in samples/", minimum=1)
    checkpoint_minutes: float = option(3.0, "minutes between checkpoints")

    def __post_init__(self) -> None:
        paths = (self.data,) if isinstance(self.data, (str, Path)) else self.data
        object.__setattr__(self, "data", tuple(map(str, paths)))
        object.__setattr__(self, "out", str(self.out))
        for option_ in option_fields():
            value = _plain(getattr(self, option_.name), type(option_.default))
            object.__setattr__(self, option_.name, value)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the method."""
        return METHODS[self.method]

    @property
    def orthogonality_weight(self) -> float:
        """The weight of the orthogonality loss: 0 for the ablation without it."""
        return 0.0 if self.method == "pcl-no-orthogonal" else self.orthogonality

    def size_at(self, done: float, step: int) -> int:
        """The side of the views in iteration `step`, at the fraction `done` of the run; 0: the model's
        default."""
        schedule = read_schedule(self.resolution_schedule) or [((self.size,), 1.0)]
        sizes = next((sizes for sizes, until in schedule if done < until), schedule[-1][0])
        return sizes[step % len(sizes)]

    @property
    def sizes(self) -> set[int]:
        """The sides of the views; empty: the model's default."""
        schedule = read_schedule(self.resolution_schedule)
        return {size for sizes, _ in schedule for size in sizes} or {self.size} - {0}

    @property
    def final_size(self) -> int:
        """The input size of the released encoder; 0: the model's default."""
        schedule = read_schedule(self.resolution_schedule)
        return max(schedule[-1][0]) if schedule else self.size

    @property
    def batches(self) -> dict[str, int]:
        """The batch sizes in use, by option."""
        pose = self.pose_batch * ("pose" in self.tasks)
        batches = {"--batch": self.batch, "--pose-batch": pose, "--stream": self.stream}
        return {name: batch for name, batch in batches.items() if batch}

    @property
    def views_per_step(self) -> int:
        """Views that go through the encoder in one iteration."""
        views = {"pose": self.pose_batch * (2 + self.pose_negatives), "labels": self.batch}
        return sum(views.get(task, 2 * self.batch) for task in self.tasks)

    def check(self) -> None:
        """Raise OptionError for an invalid value, naming the option and its range."""
        for field_ in option_fields():
            value, choices = getattr(self, field_.name), field_.metadata["choices"]
            name, minimum = "--" + field_.name.replace("_", "-"), field_.metadata["minimum"]
            kind = type(field_.default)
            if not isinstance(value, (int, float) if kind is float else kind):
                raise OptionError(f"{name} must be {kind.__name__}, not {shortened(repr(value))}")
            if choices:
                check_known(name, value, choices)
            if isinstance(value, (int, float)) and not minimum <= value <= MAXIMUM:
                raise OptionError(f"{name} must be between {minimum} and {MAXIMUM:g}, not {value}")
        if 0 < self.size < 32:
            raise OptionError(f"--size must be at least 32, or 0 for the model's default, not {self.size}")
        if read_schedule(self.resolution_schedule) and self.size:
            raise OptionError(f"--resolution-schedule sets the sizes; leave out --size {self.size}")
        if self.warmup >= 1:
            raise OptionError(f"--warmup must be a fraction of the run below 1, not {self.warmup}")
        if self.edges > 1:
            raise OptionError(f"--edges must be a probability of at most 1, not {self.edges}")
        if self.turn >= 90:
            raise OptionError(f"--turn must be below 90 degrees, not {self.turn:g}")
        if self.ema >= 1:
            raise OptionError(f"--ema must be below 1, not {self.ema}")
        if self.method == "pcl-no-orthogonal" and self.orthogonality not in (0, ORTHOGONALITY):
            raise OptionError(
                f"--method pcl-no-orthogonal sets the weight to 0; leave out --orthogonality "
                f"{self.orthogonality:g}"
            )
        if not (self.epochs or self.steps or self.minutes):
            raise OptionError("how long to train is not set: give --steps, --epochs or --minutes")
        if self.batch % 2 and "labels" in self.tasks:
            raise OptionError(f"--batch must be even (two images of each person), not {self.batch}")
        if self.freeze and not (self.init and "labels" in self.tasks):
            raise OptionError("--freeze trains the heads for an encoder: add --method labels and --init")
        if self.stream:
            self._check_stream()

    def _check_stream(self) -> None:
        if "labels" in self.tasks:
            raise OptionError(
                f"--method {self.method} needs the labels of all images in memory; leave out --stream "
                f"{self.stream}"
            )
        if self.batch % self.stream:
            raise OptionError(
                f"--batch must be a multiple of --stream {self.stream}, because each open shard contributes "
                f"equally many images, not {self.batch}"
            )
        if self.batches.get("--pose-batch", 0) > self.batch:
            raise OptionError(
                f"with --stream, --pose-batch must be at most --batch {self.batch}, not {self.pose_batch}"
            )


def read_schedule(text: str) -> list[tuple[tuple[int, ...], float]]:
    """Parse `48:0.6,48+64` as alternating sides of the views and the fraction of the run at which they end.

    Raises OptionError.
    """
    if not text:
        return []
    *earlier, last = text.split(",")
    try:
        parts = [(sizes, float(until)) for sizes, until in (word.split(":") for word in earlier)]
        schedule = [(tuple(map(int, sizes.split("+"))), until) for sizes, until in (*parts, (last, 1.0))]
    except ValueError:
        schedule = [((0,), 1.0)]
    ends = [0.0, *(until for _, until in schedule)]
    if min(min(sizes) for sizes, _ in schedule) < 32 or not all(a < b for a, b in pairwise(ends)):
        raise OptionError(
            f"--resolution-schedule takes sizes of at least 32 and increasing fractions below 1, as in "
            f"48:0.6,64, not {text}"
        )
    return schedule


# Options that not every run reads: the tasks, and other options, of which one makes a run read them.
READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("pose_batch", "pose_negatives", "negatives"), ("pose",)),
    **dict.fromkeys(("noise", "orthogonality", "sample_steps"), ("disentangle",)),
    **dict.fromkeys(("weight_face", "weight_relative"), ("relative",)),
    **dict.fromkeys(("views", "max_yaw", "max_pitch"), ("labels",)),
    **dict.fromkeys(("weight_au", "weight_expression", "weight_identity", "weight_pose"), ("labels",)),
    "face_crops": ("face", "shared"),
    "turn": ("face", "shared", "relative"),
    "edges": ("face", "shared", "pose"),
    "cls": ("labels", "probe_data"),
    "workers": ("stream",),
    "probe_steps": ("probe_data",),
}


def unread(config: Config, given: Iterable[str]) -> list[str]:
    """Of the options `given`, by the names of their fields, those that the run does not read."""
    in_use = {*config.tasks, *(f.name for f in fields(config) if getattr(config, f.name))}
    of_crops = {"edges": ("pose",)} if config.face_crops == "aligned" else {"turn": ("relative",)}
    read_by = READ_BY | of_crops
    return [name for name in given if name in read_by and in_use.isdisjoint(read_by[name])]


def option_fields() -> list[Field]:
    """The fields of `Config` that are options of `facepcl pretrain`."""
    return [field_ for field_ in fields(Config) if field_.metadata]


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

# What may differ when a run resumes, since it does not affect the result.
MAY_CHANGE = frozenset(
    {
        *("data", "out", "workers", "device", "tensorboard", "log_steps", "sample_steps"),
        *("checkpoint_minutes", "probe_data", "probe_steps"),
    }
)

# The values of a run whose config.json predates an option.
DEFAULTS = {option_.name: option_.default for option_ in option_fields()}
