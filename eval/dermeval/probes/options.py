"""Options of the probes. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt

from dermssl.parser import positional


@dataclass
class BootstrapOptions:
    """How intervals are measured, and where results are written."""

    draws: int = 2000
    """Bootstrap draws of patients for every interval and p; 40 or more."""
    seed: NonNegativeInt = 0
    """Seed of all random choices."""
    out: str | None = None
    """Folder to write the results to."""
    overwrite: bool = False
    """Replace earlier results in --out."""


@dataclass
class TargetOptions:
    """What is predicted, and which patients are fitted and scored."""

    target: str | None = None
    """What to predict: a target that the data set declares (default: the only one)."""
    split: Literal["official", "folds"] = "official"
    """official: fit on split train and val, score split test once. folds: every patient is scored by a probe that was
    fitted on the other folds."""
    folds: PositiveInt = 5
    """Number of folds for --split folds. They keep patients whole and are stratified by class."""


@dataclass
class ProbeOptions(BootstrapOptions, TargetOptions):
    """What every probe of frozen features needs."""

    embeddings: list[str] = positional(kw_only=True)
    """Embeddings folders made by `dermeval embed` with one encoder; several are pooled."""
    shots: list[PositiveInt] = field(default_factory=list)
    """Few-shot curve: also fit on this many patients of each class, for instance 1 2 5 10."""
    shot_draws: PositiveInt = 10
    """With --shots: random draws of training patients for each point of the few-shot curve."""


@dataclass
class KnnOptions(ProbeOptions):
    """Classify each image by the weighted vote of its nearest training images (Caron et al. 2021)."""

    k: list[PositiveInt] = field(default_factory=lambda: [5, 10, 20, 50, 100, 200])
    """Numbers of neighbours. The main scores are those of 20 if it is among them, else of the first."""
    temperature: PositiveFloat = 0.07
    """T of the weights exp(cosine / T)."""
    space: Literal["raw", "centred", "whitened"] = "raw"
    """centred: subtract the mean of the training features. whitened: also give all directions the same variance."""
    votes: Literal["weighted", "balanced"] = "weighted"
    """balanced: divide each vote by the frequency of its class in training, so that rare classes are found."""
    choose_k: bool = False
    """Choose the k of the main scores among --k in each fold, by five patient-grouped folds within the training images.
    Few-shot curves do not choose."""
    recall: bool = True
    """Also report same-lesion and same-patient recall@1, where several images share a lesion or patient."""


@dataclass
class LinearOptions(ProbeOptions):
    """Fit linear classifiers on frozen features; patient-grouped folds within the training images choose the best."""

    solver: Literal["auto", "lbfgs", "sgd"] = "auto"
    """lbfgs: logistic regression, fitted to its optimum for a grid of penalties.
    sgd: DINOv2's grid of 13 learning rates, on the features as they are and standardised.
    auto: lbfgs below 100,000 images, else sgd."""
    c_values: PositiveInt = 45
    """lbfgs: size of the grid of inverse penalties C, 2 or more, spaced evenly in the logarithm from 1e-6 to 1e5. Some
    are tried first, then all near the best of them."""
    steps: PositiveInt = 12_500
    """sgd: steps of gradient descent (momentum 0.9, cosine to 0)."""
    batch: PositiveInt = 128
    """sgd: images per step."""
    inner_folds: PositiveInt = 5
    """Patient-grouped folds within the training images, 2 or more, which choose the classifier by balanced accuracy.
    With --split folds, the other folds serve as the inner folds if there are at least 5, and at least this many,
    --folds."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: every class has the same weight in the loss, whatever its number of images."""


@dataclass
class FinetuneOptions(BootstrapOptions, TargetOptions):
    """Train the encoder itself, its last blocks, or adapters in it, with a linear classifier on top.

    Some training patients are kept out of training. Their score decides when training stops; test images never do.
    """

    encoder: str = field(kw_only=True)
    """Run folder, exported encoder folder, timm:NAME, a file of weights, timm:NAME@FILE, or random:NAME[@seed]."""
    data: list[str] = field(kw_only=True)
    """Dataset folders made by `dermssl prepare`; several are pooled."""
    train: Literal["all", "last", "adapters", "head"] = "all"
    """What is trained besides the classifier. all: all weights. last: the last blocks (see --last). adapters: low-rank
    adapters (LoRA) in every layer, which need a larger --lr (1e-3). head: nothing."""
    last: PositiveInt = 2
    """Number of blocks (or stages) from the end that --train last trains."""
    adapter_rank: PositiveInt = 8
    """Rank of the adapters of --train adapters."""
    epochs: PositiveInt = 20
    """Largest number of passes over the training images."""
    patience: PositiveInt = 4
    """Training stops after this many epochs without a better balanced accuracy on the kept-out patients."""
    batch: PositiveInt = 32
    """Images per step."""
    lr: PositiveFloat = 1e-4
    """Learning rate of the encoder (AdamW, cosine to 0 after a tenth of warm-up); not for --train head."""
    head_lr: PositiveFloat = 1e-3
    """Learning rate of the classifier."""
    weight_decay: PositiveFloat = 0.05
    """Weight decay of AdamW."""
    image_size: PositiveInt | None = None
    """Side in pixels of the square images that the encoder gets (default: the encoder's own size)."""
    held_out: OpenUnitInterval = 0.2
    """Share of the training patients that is kept out of training, at most 0.5."""
    workers: NonNegativeInt = 0
    """Processes that decode images (0: none)."""


@dataclass
class CompareOptions(BootstrapOptions):
    """Compare the results of encoders or probes with those of the first, on the same patients.

    A folder that holds results folders (trained/0, trained/1, ...) is one encoder with several seeds. Its scores (not
    its probabilities) are averaged over the seeds. Intervals and p come from draws of patients, which all seeds share.
    They leave out the spread between seeds, which is shown as a standard deviation. Whole protocols are compared
    experiment by experiment. --out gets comparison.json, comparison.csv, comparison.tex and comparison.html.
    """

    results: list[str] = positional(kw_only=True)
    """Results folders written with --out by `dermeval knn`, `linear`, `finetune` or `evaluate`, or folders of them, one
    per seed. The first is the reference."""


@dataclass
class EvaluateOptions(BootstrapOptions):
    """Run a data set's whole published protocol on frozen features, with intervals and a table for each group.

    --out gets result.json, predictions.parquet, groups.csv and report.html. Embeddings folders of several encoders give
    one table of encoders instead, for the first experiment of the protocol: kNN, linear, few labels, skin types and
    recall@1, paired by patient, with ranks (encoders.json, encoders.csv, encoders.tex and report.html).
    """

    COMMON = ("protocol", "probe", "folds", "out")

    embeddings: list[str] = positional(kw_only=True)
    """Embeddings folders made by `dermeval embed`; those of one encoder are pooled."""
    protocol: Literal["passion", "ham10000", "pad_ufes_20", "generic"] = "generic"
    """passion: official split, folds within train, unseen centres and ages. ham10000, pad_ufes_20: folds by lesion or
    patient. generic: every target, on the split if there is one, else in folds."""
    probe: Literal["knn", "linear", "both"] = "both"
    """Which probe judges the features: weighted kNN (k = 20), the linear probe, or both, one after the other."""
    folds: PositiveInt = 5
    """Number of patient-grouped folds, where the protocol has folds."""
