"""Options of `dermeval embed` and `import-embeddings`. Nothing heavy is imported here, so ``--help`` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from dermssl.parser import positional

FeatureKind = Literal["cls", "cls+mean", "last4"]
View = Literal["flip", "turn90", "turn180", "turn270", "zoom"]
HASH_BITS = 8
"""Images may be copies if their perceptual hashes (64 bits) differ in at most this many bits; pixels decide."""


@dataclass
class EmbedOptions:
    """Embed all images of dataset folders with an encoder, and write an embeddings folder: one row per image.

    After a kill, the same command continues, with any number of ranks.
    """

    encoder: str
    """Run folder; exported encoder; weights file, also of another project; timm:NAME@FILE (a weights file of the
    network NAME); timm:NAME (pretrained); random:NAME[@seed] (untrained); or pixels:N[@seed] (N principal components of
    the raw pixels, fitted on the train and unsplit images)."""
    data: list[str]
    """Dataset folders made by `dermssl prepare`; several are pooled in this order."""
    out: str
    """Embeddings folder to write."""
    features: FeatureKind = "cls"
    """cls: the pooled output (class token; for a ResNet the global average). cls+mean: class token of the last block
    and the mean of its patch tokens; not for ResNets. last4: class tokens of the last four blocks; for a ResNet the
    global averages of its four stages. pixels:N has cls only."""
    views: list[View] = field(default_factory=list)
    """Further views of each image, written to features.VIEW.npy: mirrored (flip), turned counterclockwise by 90, 180 or
    270 degrees, or the central 70% (zoom). `dermeval leaks` also compares these views."""
    image_size: PositiveInt | None = None
    """Side of the encoder's square input, in pixels (default: the encoder's own; 32 for pixels:N)."""
    batch: PositiveInt = 128
    """Images per forward pass and rank."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the encoder's arithmetic (pixels:N: always fp32); auto chooses bf16 if the device computes in it."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers in features.npy; float16 halves the file."""
    workers: NonNegativeInt | None = None
    """Processes that decode images, per rank (default: one per core and rank, at most 8; 0: none)."""
    overwrite: bool = False
    """Replace an existing embeddings folder."""


@dataclass
class ImportOptions:
    """Turn features of another program into an embeddings folder, for instance of a model that cannot run here.

    All commands that read the output of `dermeval embed` read this folder too, except the search by a new photo.
    """

    data: list[str]
    """Dataset folders with the images of the features."""
    out: str
    """Embeddings folder to write."""
    features: str = positional()
    """Features, one row per image: .npy, .parquet (a column `features` of lists, or floating-point columns
    that the data sets do not have too) or .h5."""
    ids: str | None = positional(default=None)
    """Table (CSV or Parquet) with a column image_id or file, one row per row of features, in the same order. Not needed
    if the features file has such a column."""
    name: str | None = None
    """Name of the encoder in reports (default: the name of the folder at --out)."""
    licence: str = "unknown"
    """Licence of the encoder's weights, for instance Apache-2.0 or CC-BY-NC-4.0, which the folder records."""
    overwrite: bool = False
    """Replace an existing embeddings folder."""
