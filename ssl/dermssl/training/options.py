"""The options of `dermssl pretrain`, `recipe` and `export`, for command line, YAML and help. Must not import torch."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dermssl.errors import did_you_mean
from dermssl.methods.registry import METHODS, DinoOptions, Dinov2Options, LejepaOptions, MethodOptions, SimclrOptions
from dermssl.parser import positional
from dermssl.views.recipe import ViewOptions

LOCAL_KEYS = ("out", "overwrite", "data.folders", "model.init")
"""Settings that hold paths of this machine. Model card and trackers do not get them."""
NEED_START = ("distillation", "frozen_batch_norm", "frozen_layers", "adapter_rank")
"""Settings of the section ``keep`` that need weights to start from."""


@dataclass
class DataOptions:
    """Images, and the mixture of data sets."""

    folders: list[str]
    """Dataset folders made by `dermssl prepare`; several are pooled."""
    weights: list[float | str] = field(default_factory=lambda: ["size"])
    """`size`: an epoch draws each image once. `equal`: it draws the same number of images from each set. Or one number
    per set: its weight (0: the set is only scored, if it has labels). Images that do not fill a batch are left out."""
    splits: Literal["train", "all"] = "train"
    """`train`: rows whose split is train or null. `all`: also those of val and test, but none that the online
    evaluation scores; every later report states this."""
    workers: int = -1
    """Processes per rank that make the views (-1: the rank's share of the cores, less one; 0: none)."""

    def __post_init__(self) -> None:
        """Store weights as text, as all run folders do: 3, 3.0 and "3" are the same weight."""
        self.weights = [weight if isinstance(weight, str) else f"{weight:.15g}" for weight in self.weights]


@dataclass
class ModelOptions:
    """The backbone."""

    backbone: str = "vit_small_patch16_224"
    """A timm model name."""
    patch_size: PositiveInt | None = None
    """Side of the patches of a vision transformer, pixels (default: by its name). Give 8 for crops of 64 px."""
    init: str | None = None
    """Weights to start from: a run folder, an exported encoder, a file (`.safetensors`, or `.pth` of another project),
    or `timm` (also `timm:NAME`) for timm's pretrained weights."""
    init_part: Literal["encoder", "student", "teacher", "all"] = "encoder"
    """Part of `init` to read: the exported encoder; the student's or teacher's backbone in the newest state of a run;
    or `all` of this state, with heads and centre. Heads start from random weights except with `all`."""
    drop_path: ClosedUnitInterval = 0.1
    """Stochastic depth of the student."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass. This takes less memory and about a third more time."""


@dataclass
class OptimOptions:
    """Optimizer and its schedules."""

    name: Literal["adamw", "lars"] = "adamw"
    """AdamW (DINO), or LARS (SimCLR with large batches). LARS adapts only weights that decay."""
    lr: PositiveFloat = 0.0005
    """Peak learning rate for a global batch of 256. It is scaled linearly with the batch."""
    lr_end: NonNegativeFloat = 1e-6
    """Learning rate at the end of the cosine, not scaled."""
    warmup_epochs: NonNegativeFloat = 10.0
    """Epochs of linear learning-rate warm-up."""
    weight_decay: NonNegativeFloat = 0.04
    """Weight decay at the start; it moves to `optim.weight_decay_end`. Biases and norms do not decay."""
    weight_decay_end: NonNegativeFloat = 0.4
    """Weight decay at the end of its cosine."""
    clip: NonNegativeFloat = 3.0
    """Largest gradient norm of each parameter (0: no clipping)."""
    backbone_lr: ClosedUnitInterval = 1.0
    """Learning rate of the backbone as a share of that of the heads. 0.1 protects good features in continued
    pretraining."""
    freeze_backbone_epochs: NonNegativeFloat = 0.0
    """Epochs at the start in which only the heads learn, so that untrained heads do not spoil a good backbone."""


@dataclass
class KeepOptions:
    """Continued pretraining: how the weights that a run starts from are protected."""

    distillation: NonNegativeFloat = 0.0
    """Weight of a further loss: 1 - cosine between the features of a global crop now and at the start."""
    layer_decay: ClosedUnitInterval = 1.0
    """Learning rate of each layer of the backbone as a share of that of the next layer, above 0. With 0.65 to 0.9 the
    first layers change less."""
    frozen_batch_norm: bool = False
    """BatchNorm of the backbone uses the running statistics of the start and never changes them."""
    frozen_layers: NonNegativeInt = 0
    """Number of first layers that do not learn: 1 is the stem, 2 the stem and the first stage or block, and so on."""
    adapter_rank: NonNegativeInt = 0
    """Only the heads and low-rank adapters (LoRA) of this rank learn. The exported encoder contains the adapters."""


@dataclass
class TrainingOptions:
    """Length, batch, precision, states."""

    epochs: PositiveInt = 100
    """Passes over the pooled data."""
    batch: PositiveInt = 256
    """Images per optimizer step over all ranks and accumulation steps."""
    accumulation: PositiveInt = 1
    """Micro-batches per step. SimCLR compares only the images of a micro-batch."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 if the device computes in it, else fp32. Losses are always float32."""
    compile: bool = False
    """Fuse the operations of the backbone by torch.compile. Each start takes a minute and needs a C++ compiler. On an
    H200 a step of DINO, ViT-S/16, is 1.6 times as fast; on a CPU a transformer gains 5%, a ResNet nothing."""
    seed: NonNegativeInt = 0
    """Seed of weights, order and views."""
    state_every_epochs: PositiveFloat = 1.0
    """Epochs between resumable states. Every evaluation after a step and a pre-emption save one too."""
    keep_states: PositiveInt = 2
    """Number of newest states to keep."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    sync_batch_norm: bool = True
    """BatchNorm takes its statistics over all GPUs. CPU ranks cannot: their statistics are local."""


@dataclass
class OnlineOptions:
    """Evaluation during training, on labelled patients that are kept out of pretraining."""

    every_epochs: PositiveInt = 10
    """Epochs between evaluations. The first one is before training."""
    target: str | None = None
    """Target of the kNN. Data sets without it are not scored (default: the first target of each labelled set)."""
    fraction: ClosedUnitInterval = 0.1
    """Share of the train patients, below 1, that is kept out if the data set has no split `val`. 0: none is kept out,
    and such a data set is not scored."""
    k: PositiveInt = 20
    """Number of neighbours."""
    max_images: PositiveInt = 4000
    """Largest number of images per data set that vote, and that are scored. Train patients that were kept out but
    have no scored image are trained on."""

    def __post_init__(self) -> None:
        """Raise ValueError if nothing would be left to train on."""
        if self.fraction >= 1:
            raise ValueError("online.fraction 1 leaves no patients to train on: give less")


@dataclass
class TrackingOptions:
    """Trackers of curves and pictures. The run folder always has metrics.jsonl and TensorBoard's files."""

    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """`wandb` and `mlflow` get all curves, and pictures if the licences of all data sets allow it (PASSION and SCIN do
    not); they never get image ids or paths. Another tracker of Accelerate may send more by itself, so it is refused if
    a licence keeps the images here."""
    project: str = "dermssl"
    """Name of the project in wandb and mlflow."""
    projector_images: NonNegativeInt = 1000
    """Largest number of images in TensorBoard's projector at the end (0: none). They stay in the run folder."""


@dataclass
class HealthOptions:
    """Health check: collapse, divergence, no learning."""

    on_collapse: Literal["stop", "warn"] = "stop"
    """Stop the run or only warn. Features or three steps in a row that are not finite always stop it."""
    patience: PositiveInt = 5
    """Number of bad log lines in a row before the health check acts. A rank collapse takes two evaluations."""


@dataclass
class PretrainOptions:
    """Train an encoder without labels. The same command resumes an interrupted run."""

    ALIASES = MappingProxyType({"data": "data.folders", "tracking.with": "tracking.trackers"})
    COMMON = (
        *("out", "data.folders", "method", "model.backbone", "model.init"),
        *("training.epochs", "training.batch", "optim.lr"),
    )
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
    ONE_SECTION_OF = ("method", tuple(METHODS))

    out: str
    """Run folder, under checkpoints/."""
    data: DataOptions
    method: str = "dino"
    """Name of the method. Its own options are in the section of the same name."""
    model: ModelOptions = field(default_factory=ModelOptions)
    views: ViewOptions = field(default_factory=ViewOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    keep: KeepOptions = field(default_factory=KeepOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    online: OnlineOptions = field(default_factory=OnlineOptions)
    health: HealthOptions = field(default_factory=HealthOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    overwrite: bool = False
    """Delete an existing run in this folder and start anew."""
    dino: DinoOptions = field(default_factory=DinoOptions)
    dinov2: Dinov2Options = field(default_factory=Dinov2Options)
    simclr: SimclrOptions = field(default_factory=SimclrOptions)
    lejepa: LejepaOptions = field(default_factory=LejepaOptions)

    @property
    def of_method(self) -> MethodOptions:
        """The options of the chosen method."""
        return getattr(self, self.method)

    @property
    def micro_batch(self) -> int:
        """Images of one forward pass over all ranks."""
        return self.training.batch // self.training.accumulation

    def __post_init__(self) -> None:
        """Raise ValueError naming the keys that cannot be combined."""
        if self.method not in METHODS:
            raise ValueError(f"--method {self.method}: no such method; {did_you_mean(self.method, METHODS)}")
        self.of_method.check(self.views)
        for name, kind in METHODS.items():
            if name != self.method and getattr(self, name) != kind():
                unused = f"the options of {name} count only with method {name}, but the method is {self.method}"
                raise ValueError(f"{unused}: leave {name}.* out, or give method {name}")
        if self.model.init_part != "encoder" and not self.model.init:
            raise ValueError("model.init_part counts only with model.init: leave it out, or give model.init")
        kept = [name for name in NEED_START if getattr(self.keep, name)]
        if kept and not self.model.init:
            raise ValueError(f"keep.{kept[0]} needs weights to start from: give model.init, or leave it out")
        if not self.keep.layer_decay:
            least = "keep.layer_decay 0 would freeze all layers of the backbone but the last"
            raise ValueError(f"{least}: give a number above 0, or freeze first layers by keep.frozen_layers")
        peak, end = self.optim.lr * self.training.batch / 256, self.optim.lr_end
        if end > peak:
            above = f"optim.lr_end {end:g} is above the peak of the schedule, {peak:g} (optim.lr x batch / 256)"
            raise ValueError(f"{above}: lower it, or raise optim.lr")
        batch, parts = self.training.batch, self.training.accumulation
        if batch % parts:
            asked = f"training.accumulation {parts} equal micro-batches"
            raise ValueError(f"training.batch {batch} cannot be cut into {asked}: use a multiple of {parts}")


@dataclass
class RecipeOptions:
    """Print a config for your data and method, with the reason for each setting, to read and change."""

    data: list[str]
    """Dataset folders made by `dermssl prepare`; several are pooled."""
    method: str = "dino"
    """Name of the method, as for `dermssl pretrain`."""
    backbone: str = "vit_tiny_patch16_224"
    """A timm model name."""
    epochs: PositiveInt | None = None
    """Epochs (default: by the number of training images)."""
    batch: PositiveInt | None = None
    """Images per step (default: by the number of training images)."""
    out: str | None = None
    """YAML file to write (default: only print)."""


@dataclass
class ExportOptions:
    """Copy an encoder of a run into a folder for timm, with its licence notice."""

    out: str
    """Folder to write."""
    run: str = positional()
    """Run folder made by `dermssl pretrain`."""
    which: Literal["last", "best", "student", "teacher"] = "last"
    """The last encoder, the one with the best online evaluation, or a backbone of the newest state."""
    heads: bool = False
    """Also write the projection heads of the newest state, as `heads.safetensors`."""
    overwrite: bool = False
    """Replace an existing folder."""
