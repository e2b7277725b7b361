"""Options of ``dermeval embed``. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt


@dataclass
class EmbedOptions:
    """Run an encoder over dataset folders and write an embeddings folder: one feature row per image."""

    encoder: str
    """Run folder, exported encoder folder, timm:NAME (pretrained), random:NAME[@seed] (untrained), or
    pixels:N[@seed] (PCA of the raw pixels to N numbers, fitted on the train and unsplit images)."""
    data: list[str]
    """Dataset folders made by `dermssl prepare`; several are pooled in the order given."""
    out: str
    """Embeddings folder to write."""
    image_size: PositiveInt | None = None
    """Side of the square given to the encoder, pixels (default: the encoder's own; 32 for pixels:N)."""
    batch: PositiveInt = 128
    """Images per forward pass and process."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the encoder; auto takes bf16 where the device computes in it. Features are float32."""
    workers: NonNegativeInt | None = None
    """Processes that decode images, per rank (default: one per core and rank, at most 8; 0: none)."""
    overwrite: bool = False
    """Replace an existing embeddings folder."""
