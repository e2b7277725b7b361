"""The methods by name: the options of each, what it checks, what it recommends, and where its networks are.

A new method is one file with its networks and loss, and a class of options here. Nothing here imports torch, since
``dermssl pretrain --help`` reads it.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

from dermssl.errors import InputError
from dermssl.views.recipe import ViewOptions

TIERS = (10_000, 20_000, 100_000)
"""Numbers of training images up to which the first, second and third column of a recommendation hold."""
PUBLISHED_MOMENTUM, LEAST_MOMENTUM = 0.996, 0.9
LAG_SHARE = 1 / 75
"""Share of the run that DINO's teacher lags behind. Measured on 5,354 images: with 984 steps momentum 0.9 learned twice
as fast as 0.98; with 1,476 steps 0.95 was best."""


class Choice(NamedTuple):
    """One recommended setting: its dotted key, its value, and the reason."""

    key: str
    value: Any
    reason: str


class Setting(NamedTuple):
    """What a recommendation depends on. ``tier`` is that of `tier_of`; ``convnet`` is False for transformers."""

    images: int
    tier: int
    epochs: int
    batch: int
    convnet: bool
    optimizer: str


def tier_of(images: int) -> int:
    """The column of a recommendation that holds for ``images`` training images."""
    return sum(images > most for most in TIERS)


class MethodOptions:
    """A method's section of the config, and what is known of the method without its networks.

    The file of the method's ``name`` holds its class, which is called so too. ``epochs`` and ``batch`` are recommended
    per tier. ``RARE`` are the options that only ``--help-all`` explains.
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

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """Warnings about the number of images that one forward pass compares, in one sentence each.

        Raises ValueError where the method cannot work with so few.
        """
        return []

    @classmethod
    def recommend(cls, setting: Setting) -> list[Choice]:
        """Settings for this number of images, each with its reason."""
        raise NotImplementedError


@dataclass
class DinoOptions(MethodOptions):
    """DINO: self-distillation of a student towards its own moving average (Caron et al. 2021)."""

    name = "dino"
    epochs, batch = (400, 300, 200, 100), (128, 256, 256, 1024)
    RARE: ClassVar[tuple[str, ...]] = ("hidden_dim", "bottleneck_dim", "student_temperature", "center_momentum")

    out_dim: PositiveInt = 65536
    """Prototypes K of the head; 1024-4096 for fewer than 20,000 images."""
    hidden_dim: PositiveInt = 2048
    """Width of the head's two hidden layers."""
    bottleneck_dim: PositiveInt = 256
    """Width before the weight-normalised last layer."""
    batch_norm: bool = False
    """BatchNorm in the head: keeps the outputs of different images apart in short runs of convnets (published: no)."""
    norm_last_layer: bool = True
    """Keep the norms of the prototypes at 1 (stable; false can be better for long ViT-S runs)."""
    student_temperature: PositiveFloat = 0.1
    """Softmax temperature of the student."""
    warmup_teacher_temperature: PositiveFloat = 0.04
    """Teacher temperature at the start; lower it if the loss stays at ln(out_dim)."""
    teacher_temperature: PositiveFloat = 0.04
    """Teacher temperature after the warm-up (published: 0.04 to 0.07)."""
    warmup_teacher_epochs: NonNegativeFloat = 0.0
    """Epochs of linear warm-up of the teacher temperature."""
    momentum: ClosedUnitInterval = 0.996
    """Teacher momentum (EMA) at the start; a cosine raises it to 1. Small data needs a smaller start (0.99)."""
    centering: Literal["mean", "sinkhorn"] = "mean"
    """`mean`: subtract a moving centre, as published. `sinkhorn`: share the prototypes evenly among the images of
    each batch (SwAV, DINOv2), which settles within hundreds of steps where the centre needs tens of thousands."""
    center_momentum: ClosedUnitInterval = 0.9
    """Momentum of the centre of the teacher's outputs."""
    freeze_last_layer_epochs: NonNegativeFloat = 1.0
    """Epochs during which the last layer of the head does not move."""

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """Sinkhorn targets depend on the images that one forward pass holds."""
        told = f"sinkhorn spreads prototypes over the {micro_batch} images of a micro-batch, not the whole {batch}"
        return [told] * (self.centering == "sinkhorn" and micro_batch < batch)

    @classmethod
    def recommend(cls, setting: Setting) -> list[Choice]:
        """The published recipe from 100,000 images on; below, what was measured on few images."""
        name, few = cls.name, setting.tier < len(TIERS)
        steps = max(1, setting.images // setting.batch) * setting.epochs
        momentum = round(min(PUBLISHED_MOMENTUM, max(LEAST_MOMENTUM, 1 - 1 / (LAG_SHARE * steps))), 4)
        lag = f"the teacher lags {1 / (1 - momentum):.0f} of {steps:,} steps behind"
        prototypes = min((2048, 2048, 4096, 65536)[setting.tier], power_of_two(setting.images))
        choices = [
            Choice(f"{name}.out_dim", prototypes, "more prototypes than images never settle (published 65,536)"),
            Choice(f"{name}.momentum", momentum, lag),
        ]
        temperature = 0.015 if setting.tier == 0 else 0.02
        sharp = "a sharper teacher keeps the loss off ln(out_dim) in short runs (published 0.04)"
        of_few = [
            Choice(f"{name}.centering", "sinkhorn", "the mean centre collapsed within 300 steps on 5,000 images"),
            Choice(f"{name}.warmup_teacher_temperature", temperature, sharp),
            Choice(f"{name}.teacher_temperature", temperature, "as above; published up to 0.07 for long runs"),
        ]
        of_many = [
            Choice(f"{name}.centering", "mean", "as published, for long runs on a million images"),
            Choice(f"{name}.warmup_teacher_temperature", 0.04, "as published"),
            Choice(f"{name}.teacher_temperature", 0.07, "as published, for long runs"),
            Choice(f"{name}.warmup_teacher_epochs", 30.0, "as published, where the temperature ends at 0.07"),
        ]
        rate, apart = 0.004 if few else 0.002, "keeps the outputs of different images apart in short runs (ResNet-18)"
        of_convnets = [
            Choice("optim.lr", rate, "measured on ResNet-18 with AdamW; the published 0.0005 is for ViT"),
            Choice("optim.weight_decay", 0.0001, "for convnets; the published 0.04 is for ViT"),
            Choice("optim.weight_decay_end", 0.01, "for convnets; the published 0.4 is for ViT"),
            *[Choice(f"{name}.batch_norm", True, apart)] * few,
            *[Choice("views.local_count", 0, "small crops of a lesion's picture show bare skin (ResNet-18)")] * few,
        ]
        return choices + (of_few if few else of_many) + of_convnets * setting.convnet


@dataclass
class Dinov2Options(DinoOptions):
    """DINOv2: DINO, and masked patches that the student predicts (iBOT), and spread features (Oquab et al. 2023)."""

    name = "dinov2"
    RARE = (*DinoOptions.RARE, "masked_images", "mask_share", "koleo_weight")

    centering: Literal["mean", "sinkhorn"] = "sinkhorn"
    """As for DINO: `mean` subtracts a moving centre, `sinkhorn` shares the prototypes evenly among a batch."""
    patch_weight: NonNegativeFloat = 1.0
    """Weight of the patch loss (iBOT, Zhou et al. 2022)."""
    koleo_weight: NonNegativeFloat = 0.1
    """Weight of KoLeo, which spreads the class tokens of a batch (Sablayrolles et al. 2019)."""
    masked_images: ClosedUnitInterval = 0.5
    """Share of the student's global crops that are masked."""
    mask_share: list[float] = field(default_factory=lambda: [0.1, 0.5])
    """Smallest and largest share of the patches that are masked in such a crop."""

    def check(self, views: ViewOptions) -> None:
        """As DINO; the shares of masked patches are in order."""
        super().check(views)
        if len(self.mask_share) != 2 or not 0 < self.mask_share[0] <= self.mask_share[1] < 1:
            raise ValueError(f"dinov2.mask_share must be two numbers, 0 < low <= high < 1, not {self.mask_share}")

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """KoLeo looks for each image's nearest one in the same forward pass."""
        if micro_batch < 2 and self.koleo_weight:
            raise ValueError("dinov2 needs at least 2 images per micro-batch for KoLeo: raise training.batch")
        return super().remarks(micro_batch, batch)

    @classmethod
    def recommend(cls, setting: Setting) -> list[Choice]:
        """What was measured for DINO on few images; the weights of the three losses are the published ones."""
        if setting.convnet:
            raise InputError("method dinov2 masks patches: choose a vision transformer (vit_...), or --method dino")
        return super().recommend(setting)


@dataclass
class SimclrOptions(MethodOptions):
    """SimCLR: contrast of two views against all other images of the batch (Chen et al. 2020)."""

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
        """SimCLR compares two global views."""
        if views.global_count != 2:
            raise ValueError("method simclr compares two views: set views.global_count to 2")
        if views.local_count:
            raise ValueError("method simclr has no local crops: set views.local_count to 0")

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """Only images of one forward pass are each other's negatives."""
        if micro_batch < 2:
            raise ValueError("method simclr needs at least 2 images per micro-batch: raise training.batch")
        told = f"simclr compares only the {micro_batch} images of a micro-batch, not the whole batch of {batch}"
        return [told] * (micro_batch < batch)

    @classmethod
    def recommend(cls, setting: Setting) -> list[Choice]:
        """Published with LARS; measured with AdamW on 5,354 images."""
        lars = setting.optimizer == "lars"
        temperature = 0.2 if setting.tier < len(TIERS) else 0.1
        decay = 1e-6 if lars else 0.0001
        why = "as published" if lars else "measured with AdamW and batch 256 on 5,354 images"
        return [
            Choice("views.local_count", 0, "SimCLR compares two global crops"),
            Choice("simclr.temperature", temperature, "few negatives need more than the 0.1 of large batches"),
            Choice("optim.lr", 0.3 if lars else 0.001, why + "; for a batch of 256"),
            *([Choice("optim.lr_end", 0.0, "as published")] if lars else []),
            Choice("optim.weight_decay", decay, "LARS scales only what is decayed" if lars else "0.04 is DINO's"),
            Choice("optim.weight_decay_end", decay, "constant"),
            Choice("optim.clip", 0.0, "as published: SimCLR clips nothing"),
        ]


@dataclass
class LejepaOptions(MethodOptions):
    """LeJEPA: views agree and features are spread like a Gaussian (Balestriero and LeCun 2025)."""

    name = "lejepa"
    epochs, batch = (200, 200, 100, 100), (128, 128, 256, 256)
    RARE = ("hidden_dim", "slices")

    weight: ClosedUnitInterval = 0.05
    """Weight of the Gaussian term; the agreement of views has the rest (published: 0.05)."""
    out_dim: PositiveInt = 128
    """Width of the projections."""
    hidden_dim: PositiveInt = 2048
    """Width of the head's two hidden layers."""
    slices: PositiveInt = 1024
    """Random directions per step along which the projections are compared with a Gaussian."""

    def remarks(self, micro_batch: int, batch: int) -> list[str]:
        """The Gaussian term is taken over the images of one forward pass."""
        told = f"lejepa spreads the {micro_batch} images of a micro-batch, not the whole batch of {batch}"
        return [told] * (micro_batch < batch)

    @classmethod
    def recommend(cls, setting: Setting) -> list[Choice]:
        """As published, with AdamW and one learning rate for all sizes of data; not measured on skin."""
        decay = 0.0005 if setting.convnet else 0.05
        return [
            Choice("lejepa.weight", 0.05, "as published"),
            Choice("optim.lr", 0.0005, "as published"),
            Choice("optim.weight_decay", decay, "as published: 0.05 for transformers, 0.0005 for convnets"),
            Choice("optim.weight_decay_end", decay, "constant"),
        ]


def power_of_two(number: int) -> int:
    """The largest power of two that is not above ``number``, at least 1."""
    return 2 ** max(0, number.bit_length() - 1)


METHODS: dict[str, Any] = {
    options.name: options for options in (DinoOptions, Dinov2Options, SimclrOptions, LejepaOptions)
}
