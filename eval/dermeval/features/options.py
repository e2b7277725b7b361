"""Options of ``dermeval embed``. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from dermssl.parser import positional

FeatureKind = Literal["cls", "cls+mean", "last4"]
View = Literal["flip", "turn90", "turn180", "turn270", "zoom"]
HASH_BITS = 8
"""Perceptual hashes (64 bits) that differ in at most this many bits may be those of copies, as pixels must show."""


@dataclass
class EmbedOptions:
    """Run an encoder over dataset folders and write an embeddings folder: one feature row per image.

    A command that was killed goes on where it was when it is given again, with any number of ranks.
    """

    encoder: str
    """Run folder, exported encoder folder, timm:NAME (pretrained), a file of weights that another project released, or
    timm:NAME@FILE (the same, for the network NAME), random:NAME[@seed] (untrained), or pixels:N[@seed] (PCA of the raw
    pixels to N numbers, fitted on the train and unsplit images)."""
    data: list[str]
    """Dataset folders made by `dermssl prepare`; several are pooled in the order given."""
    out: str
    """Embeddings folder to write."""
    features: FeatureKind = "cls"
    """cls: the pooled output (class token; global average of a ResNet). cls+mean: class token of the last block
    and the mean of its patch tokens; not for ResNets. last4: class tokens of the last four blocks; of a ResNet the
    global averages of its four stages. pixels:N has cls only."""
    views: list[View] = field(default_factory=list)
    """Further views of each image, as features.VIEW.npy beside features.npy: mirrored (flip), turned counterclockwise
    by so many degrees, or the central 70% (zoom). `dermeval leaks` looks for near-duplicates with each of them."""
    image_size: PositiveInt | None = None
    """Side of the square given to the encoder, pixels (default: the encoder's own; 32 for pixels:N)."""
    batch: PositiveInt = 128
    """Images per forward pass and process."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the encoder; auto takes bf16 where the device computes in it."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers in features.npy; float16 halves the file."""
    workers: NonNegativeInt | None = None
    """Processes that decode images, per rank (default: one per core and rank, at most 8; 0: none)."""
    overwrite: bool = False
    """Replace an existing embeddings folder."""


@dataclass
class ImportOptions:
    """Take features that another program made, for instance of a model that cannot run here.

    All commands that read the output of `dermeval embed` then read them too, except the search by a new photo.
    """

    data: list[str]
    """Dataset folders whose images the features are of."""
    out: str
    """Embeddings folder to write."""
    features: str = positional()
    """Features, one row for each image: .npy, .parquet (a column `features` of lists, or columns of numbers) or .h5."""
    ids: str | None = positional(default=None)
    """Table (CSV or Parquet) with a column image_id or file, a row for each row of features in the same order. Not
    needed where the features file has such a column itself."""
    name: str | None = None
    """What to call the encoder in reports (default: the name of the folder at --out)."""
    licence: str = "unknown"
    """Licence of the encoder's weights, for instance Apache-2.0 or CC-BY-NC-4.0; it travels with the features."""
    overwrite: bool = False
    """Replace an existing embeddings folder."""
