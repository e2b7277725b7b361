"""Options of the probes. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt

from dermssl.parser import positional


@dataclass
class JudgeOptions:
    """What every probe needs: a target, which patients are fitted and scored, and where to write."""

    target: str | None = None
    """What to predict: a target that the data set declares (default: the only one)."""
    split: Literal["official", "folds"] = "official"
    """official: fit on split train and val, score test once. folds: every patient is scored out of fold."""
    folds: PositiveInt = 5
    """Number of patient-grouped, class-stratified folds for --split folds."""
    draws: PositiveInt = 2000
    """Bootstrap draws of patients behind every interval."""
    seed: NonNegativeInt = 0
    """Seed of folds and bootstrap."""
    out: str | None = None
    """Results folder to write: result.json, predictions.parquet, and plots where the command draws some."""
    overwrite: bool = False
    """Replace an existing results folder."""


@dataclass
class ProbeOptions(JudgeOptions):
    """What every probe of frozen features needs."""

    embeddings: list[str] = positional(kw_only=True)
    """Embeddings folders made by `dermeval embed`, all with one encoder; several are pooled."""
    shots: list[PositiveInt] = field(default_factory=list)
    """Few-shot curve: also fit on this many patients of each class, for instance 1 2 5 10."""
    shot_draws: PositiveInt = 10
    """Random draws of training patients behind each point of the curve."""


@dataclass
class KnnOptions(ProbeOptions):
    """Classify each image by the weighted vote of its nearest training images (Caron et al. 2021)."""

    k: list[PositiveInt] = field(default_factory=lambda: [5, 10, 20, 50, 100, 200])
    """Numbers of neighbours; the headline is 20 where it is among them, else the first."""
    temperature: PositiveFloat = 0.07
    """T of the weights exp(cosine / T)."""
    space: Literal["raw", "centred", "whitened"] = "raw"
    """centred: the mean of train is subtracted from the features. whitened: all directions also get one variance."""
    votes: Literal["weighted", "balanced"] = "weighted"
    """balanced: a vote counts by the inverse frequency of its class in train, so that rare classes are found."""
    choose_k: bool = False
    """Choose the headline k in each fold by five patient-grouped folds within train."""
    recall: bool = True
    """Also report same-lesion and same-patient recall@1 where their ids repeat."""


@dataclass
class LinearOptions(ProbeOptions):
    """Linear classifiers on frozen features; the best is chosen by patient-grouped folds within train."""

    solver: Literal["auto", "lbfgs", "sgd", "newton"] = "auto"
    """lbfgs: logistic regression to its optimum for a grid of penalties (newton, its former name, means the same).
    sgd: DINOv2's grid of 13 learning rates, on the features as they are and standardised.
    auto: lbfgs below 100,000 images."""
    c_values: PositiveInt = 45
    """lbfgs: number of inverse penalties C tried, spaced evenly in the logarithm from 1e-6 to 1e5; some are tried
    first, then all that lie near the best of them."""
    steps: PositiveInt = 12_500
    """sgd: steps of gradient descent (momentum 0.9, cosine to 0)."""
    batch: PositiveInt = 128
    """sgd: images per step."""
    inner_folds: PositiveInt = 5
    """Patient-grouped folds within the training images that choose the classifier by balanced accuracy. With --split
    folds the other folds are the inner folds of a fold, if there are 5 or more, and no fewer than are asked for."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: each class counts the same in the loss, whatever its number of images."""


@dataclass
class FinetuneOptions(JudgeOptions):
    """Train the encoder itself, its last blocks, or adapters in it, with a linear classifier on top.

    Training stops early by patients that are kept out of the training images, never by test images.
    """

    encoder: str = field(kw_only=True)
    """Run folder, exported encoder folder, timm:NAME, a file of weights, timm:NAME@FILE, or random:NAME[@seed]."""
    data: list[str] = field(kw_only=True)
    """Dataset folders made by `dermssl prepare`; several are pooled."""
    train: Literal["all", "last", "adapters", "head"] = "all"
    """What is trained beside the classifier: all weights; the last blocks (see --last); low-rank adapters (LoRA) in
    every layer, which need a larger --lr (1e-3); or nothing."""
    last: PositiveInt = 2
    """Blocks (or stages) from the end that --train last trains."""
    adapter_rank: PositiveInt = 8
    """Rank of the adapters of --train adapters."""
    epochs: PositiveInt = 20
    """Passes over the training images at most."""
    patience: PositiveInt = 4
    """Epochs without a better balanced accuracy on the kept-out patients after which training stops."""
    batch: PositiveInt = 32
    """Images per step."""
    lr: PositiveFloat = 1e-4
    """Learning rate of the encoder (AdamW, cosine to 0 after a tenth of warm-up)."""
    head_lr: PositiveFloat = 1e-3
    """Learning rate of the classifier."""
    weight_decay: PositiveFloat = 0.05
    """Weight decay of AdamW."""
    image_size: PositiveInt | None = None
    """Side of the square given to the encoder, pixels (default: the encoder's own)."""
    held_out: OpenUnitInterval = 0.2
    """Share of the training patients that are not trained on and decide when training stops."""
    workers: NonNegativeInt = 0
    """Processes that decode images (0: none)."""


@dataclass
class CompareOptions:
    """Results of several encoders or probes side by side, each against the first, on the same patients.

    A folder that holds results folders (trained/0, trained/1, ...) is one encoder with several seeds. Its scores are
    averaged over them (scores, not probabilities). Intervals and p come from draws of patients that all seeds share.
    They do not include the spread between seeds, which is shown as a standard deviation. Of whole protocols, each
    experiment is compared.
    """

    results: list[str] = positional()
    """Results folders written with --out by `dermeval knn`, `linear`, `finetune` or `evaluate`, or folders of them, one
    per seed; the first is the reference."""
    out: str | None = None
    """Folder to write: comparison.csv, comparison.tex and comparison.html."""
    draws: PositiveInt = 2000
    """Paired bootstrap draws of patients behind every interval and p."""
    seed: NonNegativeInt = 0
    """Seed of the bootstrap."""
    overwrite: bool = False
    """Replace an existing output folder."""


@dataclass
class EvaluateOptions:
    """Run a data set's whole published protocol on frozen features, with per-group tables and intervals.

    Embeddings folders of several encoders give one table of encoders instead: kNN, linear, few-shot, a tenth of the
    labels, recall@1 and groups of skin types, paired by patient, with ranks.
    """

    embeddings: list[str] = positional()
    """Embeddings folders made by `dermeval embed`; those of one encoder are pooled."""
    protocol: Literal["passion", "ham10000", "pad_ufes_20", "generic"] = "generic"
    """passion: official split, folds within train, unseen centres and ages. ham10000, pad_ufes_20: five folds by
    lesion or patient. generic: every target, on the split where there is one, else in folds."""
    probe: Literal["knn", "linear", "both"] = "both"
    """Which classifier judges the features: weighted kNN (k 20), logistic regression, or each in turn."""
    folds: PositiveInt = 5
    """Number of patient-grouped folds."""
    draws: PositiveInt = 2000
    """Bootstrap draws of patients behind every interval."""
    seed: NonNegativeInt = 0
    """Seed of folds, size-matched samples and bootstrap."""
    out: str | None = None
    """Results folder to write: result.json, predictions.parquet, groups.csv and report.html; of several encoders
    encoders.json, encoders.csv, encoders.tex and report.html."""
    overwrite: bool = False
    """Replace an existing results folder."""
