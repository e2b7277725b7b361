"""The methods by name, each with its options, checks and recommended settings.

A new method is one file with its networks and loss, one class of options here, and one field of `PretrainOptions`. This
module must not import torch, because ``dermssl pretrain --help`` reads it.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

from dermssl.errors import InputError
from dermssl.views.recipe import ViewOptions

TIERS = (10_000, 20_000, 100_000)
"""The largest numbers of training images of the first, second and third tier of recommendations."""
PUBLISHED_MOMENTUM, LEAST_MOMENTUM = 0.996, 0.9
LAG_SHARE = 1 / 75
"""Share of the run's steps by which DINO's teacher lags behind the student. Measured on 5,354 images: in 984 steps a
momentum of 0.9 learned twice as fast as 0.98; in 1,476 steps 0.95 was best."""
Choices = dict[str, tuple[Any, str]]
"""Recommended settings by dotted key, each with its reason."""


class Setting(NamedTuple):
    """What a recommendation depends on. ``tier`` (0 to 3) is by `TIERS`; ``convnet`` is False for transformers."""

    images: int
    tier: int
    epochs: int
    batch: int
    convnet: bool


class MethodOptions:
    """A method's section of the config, and everything about the method that needs no torch.

    The method ``dino`` is the class ``Dino`` in ``dino.py``. ``epochs`` and ``batch`` are the recommended values for
    each tier. Only ``--help-all`` explains the options in ``RARE``.
    """

    name: ClassVar[str]
    epochs: ClassVar[tuple[int, int, int, int]]
    batch: ClassVar[tuple[int, int, int, int]]
    RARE: ClassVar[tuple[str, ...]]

    @classmethod
    def load(cls) -> type:
        """The method's class; importing it imports torch."""
        return getattr(importlib.import_module(f"dermssl.methods.{cls.name}"), cls.name.capitalize())

    def check(self, views: ViewOptions) -> None:
        """Raise ValueError where the method cannot work with these views."""
        if views.global_count + views.local_count < 2:
            raise ValueError(f"method {self.name} needs two views: raise views.global_count or views.local_count")

    def _comparisons(self) -> list[str]:
        """The parts of the method that compare the images of a forward pass with each other."""
        return []

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """A warning for each part that compares only the ``micro_batch`` images of a forward pass, not all ``batch``.

        Raises ValueError if one image is left alone.
        """
        parts = self._comparisons()
        if parts and micro_batch < 2:
            needs = f"{parts[0]} needs at least 2 images per micro-batch"
            raise ValueError(f"{needs}: raise training.batch, or lower training.accumulation")
        told = f"compares only the {micro_batch} images of a micro-batch, not the whole batch of {batch}"
        return [f"{part} {told}" for part in parts if micro_batch < batch]

    @classmethod
    def recommend(cls, setting: Setting) -> Choices:
        """Recommended settings, each with its reason."""
        raise NotImplementedError


@dataclass
class DinoOptions(MethodOptions):
    """DINO: a student network learns the output of its own moving average, the teacher (Caron et al. 2021)."""

    name = "dino"
    epochs, batch = (400, 300, 200, 100), (128, 256, 256, 1024)
    RARE: ClassVar[tuple[str, ...]] = ("hidden_dim", "bottleneck_dim", "student_temperature", "center_momentum")

    out_dim: PositiveInt = 65536
    """Number of prototypes of the head; 1024 to 4096 for fewer than 20,000 images."""
    hidden_dim: PositiveInt = 2048
    """Width of the head's two hidden layers."""
    bottleneck_dim: PositiveInt = 256
    """Width of the layer before the weight-normalised last one."""
    batch_norm: bool = False
    """BatchNorm in the head (published: none). In short runs of convnets it keeps the outputs of different images
    apart."""
    norm_last_layer: bool = True
    """Keep the norm of each prototype at 1. This is stable; false can be better for long ViT-S runs."""
    student_temperature: PositiveFloat = 0.1
    """Softmax temperature of the student."""
    warmup_teacher_temperature: PositiveFloat = 0.04
    """Softmax temperature of the teacher at the start of its warm-up. Without a warm-up it has no effect."""
    teacher_temperature: PositiveFloat = 0.04
    """Softmax temperature of the teacher after its warm-up (published: 0.04 to 0.07). Lower both temperatures if the
    loss stays at ln(out_dim)."""
    warmup_teacher_epochs: NonNegativeFloat = 0.0
    """Epochs of linear warm-up of the teacher temperature (0: none)."""
    momentum: ClosedUnitInterval = 0.996
    """Momentum of the teacher (EMA) at the start; a cosine raises it to 1. Small data sets need 0.99 or less."""
    centering: Literal["mean", "sinkhorn"] = "mean"
    """`mean`: subtract a moving centre, as published. `sinkhorn`: use all prototypes evenly in each batch (SwAV,
    DINOv2); it settles within hundreds of steps, the centre within tens of thousands."""
    center_momentum: ClosedUnitInterval = 0.9
    """Momentum of the centre of the teacher's outputs, with centering mean."""
    freeze_last_layer_epochs: NonNegativeFloat = 1.0
    """Epochs at the start in which the last layer of the head does not change."""

    def check(self, views: ViewOptions) -> None:
        """Also where the head has one prototype, which all images would share."""
        super().check(views)
        if self.out_dim == 1:
            raise ValueError(f"{self.name}.out_dim 1 cannot tell images apart: give 2 or more")

    def _comparisons(self) -> list[str]:
        return ["Sinkhorn centring"] if self.centering == "sinkhorn" else []

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """Also a warning if the temperature at the start of the warm-up is set, but there is no warm-up."""
        start, end = self.warmup_teacher_temperature, self.teacher_temperature
        told = super().remarks(micro_batch, batch)
        if start not in (end, type(self).warmup_teacher_temperature) and not self.warmup_teacher_epochs:
            unused = f"{self.name}.warmup_teacher_temperature {start:g} has no effect"
            why = f"{self.name}.warmup_teacher_epochs is 0, so the temperature is {end:g} from the first step on"
            told.append(f"{unused}: {why}")
        return told

    @classmethod
    def recommend(cls, setting: Setting) -> Choices:
        """The published recipe above 100,000 images; settings that were measured on few images below."""
        name, few = cls.name, setting.tier < len(TIERS)
        steps = max(1, setting.images // setting.batch) * setting.epochs
        momentum = round(min(PUBLISHED_MOMENTUM, max(LEAST_MOMENTUM, 1 - 1 / (LAG_SHARE * steps))), 4)
        lag = f"the teacher lags {1 / (1 - momentum):.0f} of {steps:,} steps behind the student"
        prototypes = min((2048, 2048, 4096, 65536)[setting.tier], power_of_two(setting.images))
        choices: Choices = {
            f"{name}.out_dim": (prototypes, "more prototypes than images never settle (published: 65,536)"),
            f"{name}.momentum": (momentum, lag),
        }
        if few:
            temperature = 0.015 if setting.tier == 0 else 0.02
            sharp = "a sharper teacher keeps the loss of short runs below ln(out_dim) (published: 0.04)"
            choices |= {
                f"{name}.centering": ("sinkhorn", "the mean centre collapsed within 300 steps on 5,000 images"),
                f"{name}.warmup_teacher_temperature": (temperature, sharp),
                f"{name}.teacher_temperature": (temperature, "as above; published: up to 0.07, for long runs"),
            }
        else:
            choices |= {
                f"{name}.centering": ("mean", "as published, for long runs on a million images"),
                f"{name}.warmup_teacher_temperature": (0.04, "as published"),
                f"{name}.teacher_temperature": (0.07, "as published, for long runs"),
                f"{name}.warmup_teacher_epochs": (30.0, "as published for a temperature of 0.07"),
            }
        if setting.convnet:
            rate = 0.004 if few else 0.002
            choices |= {
                "optim.lr": (rate, "measured on ResNet-18 with AdamW; the published 0.0005 is for ViT"),
                "optim.weight_decay": (0.0001, "for convnets; the published 0.04 is for ViT"),
                "optim.weight_decay_end": (0.01, "for convnets; the published 0.4 is for ViT"),
            }
        if setting.convnet and few:
            choices |= {
                f"{name}.batch_norm": (True, "keeps the outputs of different images apart in short runs (ResNet-18)"),
                "views.local_count": (0, "small crops of a lesion image show bare skin (ResNet-18)"),
            }
        return choices


@dataclass
class Dinov2Options(DinoOptions):
    """DINOv2: DINO, the prediction of masked patches (iBOT), and spread features (KoLeo; Oquab et al. 2023)."""

    name = "dinov2"
    RARE = (*DinoOptions.RARE, "masked_images", "mask_share", "koleo_weight")

    centering: Literal["mean", "sinkhorn"] = "sinkhorn"
    """As for DINO: `mean` subtracts a moving centre, `sinkhorn` uses all prototypes evenly in each batch."""
    patch_weight: NonNegativeFloat = 1.0
    """Weight of the patch loss (iBOT, Zhou et al. 2022)."""
    koleo_weight: NonNegativeFloat = 0.1
    """Weight of KoLeo, which spreads the class tokens of a batch (Sablayrolles et al. 2019)."""
    masked_images: ClosedUnitInterval = 0.5
    """Share of the student's global crops that have masked patches."""
    mask_share: list[float] = field(default_factory=lambda: [0.1, 0.5])
    """Smallest and largest share of masked patches in a masked crop."""

    def check(self, views: ViewOptions) -> None:
        """Also check ``mask_share``."""
        super().check(views)
        if len(self.mask_share) != 2 or not 0 < self.mask_share[0] <= self.mask_share[1] < 1:
            raise ValueError(f"dinov2.mask_share must be two numbers, 0 < low <= high < 1, not {self.mask_share}")

    def _comparisons(self) -> list[str]:
        return [*(["KoLeo"] if self.koleo_weight else []), *super()._comparisons()]

    @classmethod
    def recommend(cls, setting: Setting) -> Choices:
        """As DINO; the weights of the three losses stay as published."""
        if setting.convnet:
            raise InputError("method dinov2 masks patches: choose a vision transformer (vit_...), or --method dino")
        return super().recommend(setting)


@dataclass
class SimclrOptions(MethodOptions):
    """SimCLR: two views of an image agree, all other images of the batch differ (Chen et al. 2020)."""

    name = "simclr"
    epochs, batch = (200, 200, 100, 100), (256, 256, 256, 1024)
    RARE = ("hidden_dim", "out_dim")

    temperature: PositiveFloat = 0.1
    """Temperature of NT-Xent (published: 0.1 for large batches, 0.5 for small ones)."""
    hidden_dim: PositiveInt = 2048
    """Width of the projection head's hidden layer."""
    out_dim: PositiveInt = 128
    """Width of the projections."""
    batch_norm: bool = True
    """BatchNorm in the projection head, as published."""

    def check(self, views: ViewOptions) -> None:
        """Raise ValueError unless there are two global crops and no local ones."""
        if views.global_count != 2:
            raise ValueError("method simclr compares two views: set views.global_count to 2")
        if views.local_count:
            config = "start from a config, as `dermssl recipe --method simclr` prints, or set views.local_count to 0"
            raise ValueError(f"method simclr has no local crops: {config}")

    def _comparisons(self) -> list[str]:
        return ["SimCLR"]

    @classmethod
    def recommend(cls, setting: Setting) -> Choices:
        """Settings for AdamW that were measured on 5,354 images. ``configs/simclr_resnet50.yaml`` has LARS."""
        temperature = 0.2 if setting.tier < len(TIERS) else 0.1
        return {
            "views.local_count": (0, "SimCLR compares two global crops"),
            "simclr.temperature": (temperature, "small batches need more than the 0.1 of large ones"),
            "optim.lr": (0.001, "measured with AdamW and batch 256 on 5,354 images; for a batch of 256"),
            "optim.weight_decay": (0.0001, "0.04 is DINO's"),
            "optim.weight_decay_end": (0.0001, "constant"),
            "optim.clip": (0.0, "as published: no clipping"),
        }


@dataclass
class LejepaOptions(MethodOptions):
    """LeJEPA: views of an image agree, features of all images follow a Gaussian (Balestriero and LeCun 2025)."""

    name = "lejepa"
    epochs, batch = (200, 200, 100, 100), (128, 128, 256, 256)
    RARE = ("hidden_dim", "slices")

    weight: ClosedUnitInterval = 0.05
    """Weight of the Gaussian term, SIGReg (published: 0.05). The agreement of views has 1 minus this weight."""
    out_dim: PositiveInt = 128
    """Width of the projections."""
    hidden_dim: PositiveInt = 2048
    """Width of the head's two hidden layers."""
    slices: PositiveInt = 1024
    """Number of random directions, drawn anew at each step, along which projections are compared with a Gaussian."""

    def _comparisons(self) -> list[str]:
        return ["SIGReg"]

    @classmethod
    def recommend(cls, setting: Setting) -> Choices:
        """The published settings for AdamW, the same for any number of images; not measured on skin images."""
        decay = 0.0005 if setting.convnet else 0.05
        return {
            "lejepa.weight": (0.05, "as published"),
            "optim.lr": (0.0005, "as published"),
            "optim.weight_decay": (decay, "as published: 0.05 for transformers, 0.0005 for convnets"),
            "optim.weight_decay_end": (decay, "constant"),
        }


def power_of_two(number: int) -> int:
    """The largest power of two up to ``number``; 1 for 0."""
    return 2 ** max(0, number.bit_length() - 1)


METHODS: dict[str, Any] = {
    options.name: options for options in (DinoOptions, Dinov2Options, SimclrOptions, LejepaOptions)
}
