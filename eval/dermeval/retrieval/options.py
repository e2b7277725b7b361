"""Options of the retrieval commands. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import PositiveFloat, PositiveInt

from dermssl.parser import positional


@dataclass
class IndexOptions:
    """Make a similar-case search index, add to a finished one, or take images out of everything that holds them."""

    out: str
    """Index folder to write; with --append and --remove the finished one to change. A LanceDB index can also be written
    to an object store, at an address s3://bucket/index."""
    sources: list[str] = positional(default_factory=list)
    """Embeddings folders made by `dermeval embed` with one encoder, or index folders to merge."""
    append: list[str] = field(default_factory=list)
    """Embeddings or index folders of the same encoder to add to the finished index at --out, instead of SOURCES."""
    remove: list[str] = field(default_factory=list)
    """Ids of images, patients, lesions or cases to remove from the index at --out and from the folders named by --also:
    vectors, rows and pictures. There is no way back."""
    also: list[str] = field(default_factory=list)
    """With --remove: the dataset and embeddings folders that the index was made from, and any others that hold these
    images."""
    index_only: bool = False
    """With --remove: keep the images in the folders that the index was made from. Without it, such a folder that is not
    named by --also is an error, so that none is forgotten."""
    type: Literal["auto", "flat", "scan", "ivfpq", "hnsw", "lance"] = "auto"
    """flat is exact. scan compares the query with compressed vectors and ranks the best exactly: a sixteenth of the
    memory, for up to 20 million images. ivfpq compares it with an eighth of them. hnsw searches a graph. lance keeps
    vectors and manifest on the disk (needs the extra `lance`). All but flat state their measured recall. auto chooses
    among flat, scan and ivfpq by the number of images and --memory, and says why."""
    memory: PositiveFloat | None = None
    """Memory that the index may use, in GiB, for --type auto (default: half of this machine's)."""
    overwrite: bool = False
    """Replace an existing index folder."""


@dataclass
class SearchOptions:
    """Find the cases most similar to photos, or to indexed images, leaving out the query's own patient."""

    index: str = positional()
    """Index made by `dermeval index`: a folder, or an address s3://bucket/index."""
    photos: list[str] = positional(default_factory=list)
    """Image files to search for, or folders of them."""
    image_id: list[str] = field(default_factory=list)
    """Images of the index to search for, instead of PHOTOS."""
    embeddings: str | None = None
    """Embeddings folder of the same encoder whose images are searched for, instead of PHOTOS."""
    where: str | None = None
    """Which images may be found, by their columns: "fitzpatrick >= 5 and country == 'Guinea'" (see docs/search.md)."""
    k: PositiveInt = 10
    """Number of cases to show for each query."""
    min_similarity: float | None = None
    """Show only cases at least this similar: a cosine, from -1 to 1."""
    crops: PositiveInt = 1
    """Crops of a photo whose mean feature is compared, from 1 to 10: the whole photo, its mirror image, then parts of
    it. More crops help where the lesion is a small part of the photo. Similarities with crops are a little higher."""
    include_own: bool = False
    """Also show other images of the query's own patient (or lesion, where the data set has no patient key)."""
    per_image: bool = False
    """Show every similar image; without it the images of one patient (or lesion) collapse to the best."""
    encoder: str | None = None
    """Where the encoder that made the index is now (default: where it was then)."""
    out: str | None = None
    """File to write the result to, by its ending: .png (contact sheet), .html (page with pictures) or .csv."""
    overwrite: bool = False
    """Replace a file at --out that this command made."""


@dataclass
class RetrievalOptions:
    """Judge retrieval: from each image, are the most similar other ones relevant? Of two encoders, which finds more?"""

    sources: list[str] = positional()
    """Embeddings or index folder; two of the same data are compared, query by query."""
    relevance: str | None = None
    """What makes a hit relevant: the name of a target (the query's own patient is left out of the ranking), lesion, or
    patient (only the query is left out). Default: the first target."""
    k: list[PositiveInt] = field(default_factory=lambda: [1, 5, 10])
    """Depths at which the ranking is measured."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Which images are queries; all others can always be found."""
    draws: PositiveInt = 1000
    """Bootstrap draws of patients for the 95% intervals; 40 or more."""


@dataclass
class EmbeddingsExportOptions:
    """Write embeddings with pictures and labels for another program. Refused where a licence forbids passing on."""

    to: Literal["atlas", "fiftyone", "lance", "projector"]
    """atlas: a Parquet file for Apple's embedding-atlas, with a 2-D projection and nearest neighbours. fiftyone: a
    dataset folder of FiftyOne. projector: TensorBoard's projector. lance: a LanceDB table."""
    out: str
    """Folder to write."""
    source: str = positional()
    """Embeddings or index folder."""
    projection: Literal["pca", "umap", "tsne"] = "pca"
    """The 2-D projection of atlas and fiftyone; umap needs the package umap-learn, tsne needs openTSNE."""
    neighbours: PositiveInt = 15
    """Nearest neighbours of each image, for atlas."""
    overwrite: bool = False
    """Replace a folder that this command made."""
