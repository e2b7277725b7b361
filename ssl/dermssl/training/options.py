"""All options of `dermssl pretrain`: one dataclass for command line, YAML and help. Imports no torch."""

from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)

from dermssl.errors import did_you_mean
from dermssl.methods.registry import METHODS, MethodOptions
from dermssl.parser import positional
from dermssl.views.recipe import ViewOptions

LOCAL_KEYS = ("out", "overwrite", "data.folders", "model.init")
"""Settings that hold paths of this machine; they are not handed on."""
NEED_START = ("distillation", "frozen_batch_norm", "frozen_layers", "adapter_rank")
"""Settings of the section ``keep`` that mean nothing in a run from random weights."""


@dataclass
class DataOptions:
    """Which images, and how sets are mixed."""

    folders: list[str]
    """Dataset folders made by `dermssl prepare`; several are pooled."""
    weights: list[float | str] = field(default_factory=lambda: ["size"])
    """`size`: every set gives what it has, each image once an epoch; `equal`: every set gives as many images; or one
    number per set (0: the set is only scored, where it has labels). What does not fill a batch is left out."""
    splits: Literal["train", "all"] = "train"
    """`train`: rows whose split is train or null; `all` reads test rows too, which every later report states."""
    workers: int = -1
    """Processes per rank that decode and crop (-1: the cores but one, shared by the ranks; 0: none)."""

    def __post_init__(self) -> None:
        """Numbers as text, as runs have always recorded them: 3, 3.0 and "3" are the same weight."""
        self.weights = [weight if isinstance(weight, str) else f"{weight:.15g}" for weight in self.weights]


@dataclass
class ModelOptions:
    """The backbone."""

    backbone: str = "vit_small_patch16_224"
    """A timm model name."""
    patch_size: PositiveInt | None = None
    """Side of a vision transformer's patches, pixels (default: as its name says); 8 leaves enough of them at 64 px."""
    init: str | None = None
    """Start from these weights: a run folder, an exported encoder, a file (`.safetensors`, or a `.pth` of others), or
    `timm` (also `timm:NAME`) for timm's pretrained weights."""
    init_part: Literal["encoder", "student", "teacher", "all"] = "encoder"
    """What `init` gives: the exported encoder; the student's or teacher's backbone of a run's newest state; or `all` of
    that state, heads and centre too. Heads start anew except with `all`."""
    drop_path: ClosedUnitInterval = 0.1
    """Stochastic depth of the student."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


@dataclass
class OptimOptions:
    """Optimizer and its schedules."""

    name: Literal["adamw", "lars"] = "adamw"
    """AdamW (DINO), or LARS (SimCLR with large batches). LARS adapts only weights whose decay is above 0."""
    lr: PositiveFloat = 0.0005
    """Peak learning rate for a global batch of 256; scaled linearly with the batch."""
    lr_end: NonNegativeFloat = 1e-6
    """Learning rate at the end of the cosine, not scaled."""
    warmup_epochs: NonNegativeFloat = 10.0
    """Epochs of linear learning-rate warm-up."""
    weight_decay: NonNegativeFloat = 0.04
    """Weight decay at the start (never on biases and norms)."""
    weight_decay_end: NonNegativeFloat = 0.4
    """Weight decay at the end of its cosine."""
    clip: NonNegativeFloat = 3.0
    """Largest gradient norm of each parameter (0: no clipping)."""
    backbone_lr: ClosedUnitInterval = 1.0
    """Share of the learning rate that the backbone gets; 0.1 protects good features in continued pretraining."""
    freeze_backbone_epochs: NonNegativeFloat = 0.0
    """Epochs in which only the heads move, so that an untrained head cannot spoil a good backbone."""


@dataclass
class KeepOptions:
    """What a run keeps of the weights that it starts from (continued pretraining)."""

    distillation: NonNegativeFloat = 0.0
    """Weight of a further loss: 1 - cosine between the global crops' features now and at the start."""
    layer_decay: ClosedUnitInterval = 1.0
    """Learning rate of each layer of the backbone as a share of the next layer's; 0.65 to 0.9 moves the first layers
    less."""
    frozen_batch_norm: bool = False
    """BatchNorm uses the start's running statistics and never changes them."""
    frozen_layers: NonNegativeInt = 0
    """First layers that never move: 1 the stem, 2 the stem and the first stage or block, and so on."""
    adapter_rank: NonNegativeInt = 0
    """Only the heads and low-rank adapters (LoRA) of this rank learn; the exported encoder contains the adapters."""


@dataclass
class TrainingOptions:
    """Length, batch, precision, states."""

    epochs: PositiveInt = 100
    """Passes over the pooled data."""
    batch: PositiveInt = 256
    """Images per optimizer step over all ranks and accumulation steps."""
    accumulation: PositiveInt = 1
    """Micro-batches per step; SimCLR compares only within a micro-batch."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the device computes in it, else fp32. Losses are always float32."""
    compile: bool = False
    """Fuse the backbone's operations (torch.compile): a minute at every start, needs a C++ compiler. A step of DINO,
    ViT-S/16, is 1.6 times as fast on an H200; on a CPU a transformer gains 5%, a ResNet nothing."""
    seed: NonNegativeInt = 0
    """Seed of weights, order and views."""
    state_every_epochs: PositiveFloat = 1.0
    """How often a resumable state is saved; every evaluation and a pre-emption save one too."""
    keep_states: PositiveInt = 2
    """Newest states kept."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    sync_batch_norm: bool = True
    """Batch statistics over all GPUs (PyTorch has none for CPU ranks: they stay local and the run says so)."""


@dataclass
class OnlineOptions:
    """Evaluation during training, on labelled patients kept out of pretraining."""

    every_epochs: PositiveInt = 10
    """Epochs between evaluations; the first is before training."""
    target: str | None = None
    """Target of the kNN; sets without it are not scored (default: the first declared one of each labelled set)."""
    fraction: OpenUnitInterval = 0.1
    """Share of train patients kept out where the set has no split `val`."""
    k: PositiveInt = 20
    """Neighbours."""
    max_images: PositiveInt = 4000
    """Most images embedded per set to vote, and most to be scored; kept-out patients beyond it are trained on."""


@dataclass
class TrackingOptions:
    """Where curves and pictures go; metrics.jsonl and TensorBoard in the run folder are always written."""

    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """`wandb` and `mlflow` get all curves; pictures only where the licences of all pooled sets let images leave (not
    PASSION, SCIN); image ids and paths never. Any other tracker that Accelerate knows takes what its client takes, so
    it is refused for such sets."""
    project: str = "dermssl"
    """Project under which wandb and mlflow file the run."""
    projector_images: NonNegativeInt = 1000
    """Most images shown at the end in TensorBoard's embedding projector (0: none); they stay in the run folder."""


@dataclass
class HealthOptions:
    """What ends a run that goes wrong."""

    on_collapse: Literal["stop", "warn"] = "stop"
    """What to do on collapse, divergence or no learning. Three steps in a row that are not finite always stop."""
    patience: PositiveInt = 5
    """Consecutive bad readings (one per log line) before it counts."""


@dataclass
class _Options:
    """Train an encoder without labels. The same command resumes an interrupted run."""

    out: str
    """Run folder, under checkpoints/."""
    data: DataOptions
    method: str = "dino"
    """Name of the method; its own options stand in the section of that name."""
    model: ModelOptions = field(default_factory=ModelOptions)
    views: ViewOptions = field(default_factory=ViewOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    keep: KeepOptions = field(default_factory=KeepOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    online: OnlineOptions = field(default_factory=OnlineOptions)
    health: HealthOptions = field(default_factory=HealthOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    overwrite: bool = False
    """Throw an existing run of that name away and start anew."""

    @property
    def of_method(self) -> MethodOptions:
        """The section of the chosen method."""
        return getattr(self, self.method)

    @property
    def micro_batch(self) -> int:
        """Images that all ranks together put through one forward pass."""
        return self.training.batch // self.training.accumulation

    def __post_init__(self) -> None:
        """Raise ValueError naming the keys that do not go together."""
        if self.method not in METHODS:
            raise ValueError(f"--method {self.method}: no such method; {did_you_mean(self.method, METHODS)}")
        self.of_method.check(self.views)
        kept = [name for name in NEED_START if getattr(self.keep, name)]
        if kept and not self.model.init:
            raise ValueError(f"keep.{kept[0]} needs weights to start from: give model.init, or leave it out")
        peak, end = self.optim.lr * self.training.batch / 256, self.optim.lr_end
        if end > peak:
            above = f"optim.lr_end {end:g} is above the peak of the schedule, {peak:g} (optim.lr x batch / 256)"
            raise ValueError(f"{above}: lower it, or raise optim.lr")
        batch, parts = self.training.batch, self.training.accumulation
        if batch % parts:
            raise ValueError(
                f"training.batch {batch} cannot be cut into training.accumulation {parts} equal micro-batches"
            )


COMMON = (
    *("out", "data.folders", "method", "model.backbone", "model.init"),
    *("training.epochs", "training.batch", "optim.lr"),
)
"""Options that the help shows first."""
RARE = (
    *("model.patch_size", "model.init_part", "model.gradient_checkpointing"),
    *("views.global_count", "views.jitter", "views.brightness", "views.contrast", "views.saturation", "views.grey"),
    *("views.blur", "views.blur_sigma", "views.solarize"),
    *("keep.frozen_layers", "keep.adapter_rank"),
    *("optim.lr_end", "optim.weight_decay_end", "optim.clip"),
    *("training.compile", "training.keep_states", "training.log_every", "training.sync_batch_norm"),
    *("online.fraction", "online.k", "online.max_images", "health.patience"),
    *("tracking.project", "tracking.projector_images"),
    *(f"{name}.{rare}" for name, options in METHODS.items() for rare in options.RARE),
)
"""Options that only ``--help-all`` explains."""

if TYPE_CHECKING:

    class PretrainOptions(_Options):
        """`_Options` with a section for each registered method."""

        def __init__(self, *arguments: Any, **sections: Any) -> None: ...

else:
    PretrainOptions = make_dataclass(
        "PretrainOptions",
        [(name, options, field(default_factory=options)) for name, options in METHODS.items()],
        bases=(_Options,),
        namespace={
            "__doc__": _Options.__doc__,
            "__module__": __name__,
            "COMMON": COMMON,
            "RARE": RARE,
            "ONE_SECTION_OF": ("method", tuple(METHODS)),
        },
    )


@dataclass
class RecipeOptions:
    """Print a config for this data and method, with the reason for each setting, to read and change."""

    data: list[str]
    """Dataset folders made by `dermssl prepare` that will be pooled."""
    method: str = "dino"
    """Name of the method; its own options stand in the section of that name."""
    backbone: str = "vit_tiny_patch16_224"
    """A timm model name."""
    optimizer: Literal["adamw", "lars"] = "adamw"
    """AdamW, or LARS for SimCLR with large batches."""
    epochs: PositiveInt | None = None
    """Epochs (default: by the number of training images)."""
    batch: PositiveInt | None = None
    """Images per step (default: by the number of training images)."""
    out: str | None = None
    """YAML file to write (default: only print)."""


@dataclass
class ExportOptions:
    """Copy a run's encoder out as a timm folder, with its licence notice."""

    out: str
    """Folder to write."""
    run: str = positional()
    """Run folder made by `dermssl pretrain`."""
    which: Literal["last", "best", "student", "teacher"] = "last"
    """The encoder at the end, or the one with the best online evaluation, or a network of the newest state."""
    heads: bool = False
    """Keep the projection heads of the newest state too, as `heads.safetensors`."""
    overwrite: bool = False
    """Replace an existing folder."""
