"""Options of the retrieval commands. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import PositiveFloat, PositiveInt

from dermssl.parser import positional


@dataclass
class IndexOptions:
    """Make an index for similar-case search, add images to it, or remove images from it and the folders behind it."""

    out: str
    """Index folder to write, or with --append and --remove the index to change. An index of the type lance may also lie
    in an object store, at an address s3://bucket/index."""
    sources: list[str] = positional(default_factory=list)
    """Embeddings folders made by `dermeval embed` with one encoder, or index folders to merge."""
    append: list[str] = field(default_factory=list)
    """Embeddings or index folders of the same encoder to add to the finished index at --out, instead of SOURCES."""
    remove: list[str] = field(default_factory=list)
    """Ids of images, patients, lesions or cases to remove from the index at --out and from the folders given with
    --also: vectors, rows and pictures. This cannot be undone. An id that means different images is refused: write
    patient_id=ID or another column of the manifest."""
    also: list[str] = field(default_factory=list)
    """With --remove: the dataset and embeddings folders that the index was made from, and other folders that hold these
    images."""
    index_only: bool = False
    """With --remove: keep the images in the folders that the index was made from. Without this option the command stops
    if such a folder is not given with --also."""
    type: Literal["auto", "flat", "scan", "ivfpq", "hnsw", "lance"] = "auto"
    """flat compares all vectors exactly. scan compares compressed vectors (a sixteenth of the memory) and ranks the
    best exactly, for up to 20 million images. ivfpq compares an eighth of these vectors. hnsw searches a graph. lance
    keeps vectors and manifest on the disk (needs the extra `lance`). All but flat print their measured recall.
    auto chooses flat, scan or ivfpq by the number of images and --memory, and prints the reason."""
    memory: PositiveFloat | None = None
    """Memory that the index may use, in GiB, for --type auto (default: half of this machine's memory)."""
    overwrite: bool = False
    """Replace an existing index folder."""


@dataclass
class SearchOptions:
    """Find the cases most similar to photos or to indexed images. The query's own patient is left out."""

    index: str = positional()
    """Index made by `dermeval index`: a folder, or an address s3://bucket/index."""
    photos: list[str] = positional(default_factory=list)
    """Image files to search for, or folders of them."""
    image_id: list[str] = field(default_factory=list)
    """Ids of indexed images to search for, instead of PHOTOS."""
    embeddings: str | None = None
    """Embeddings folder of the same encoder. Each of its images is searched for, instead of PHOTOS."""
    where: str | None = None
    """Filter on the columns of the images that may be found: "fitzpatrick >= 5 and country == 'Guinea'" (see
    docs/search.md)."""
    k: PositiveInt = 10
    """Number of cases to show for each query."""
    min_similarity: float | None = None
    """Smallest similarity of a case that is shown: a cosine, from -1 to 1."""
    crops: PositiveInt = 1
    """Number of crops of a photo, from 1 to 10, whose mean feature is compared: the whole photo, its mirror image, then
    parts of it. More crops help if the lesion is a small part of the photo. They make similarities a little higher."""
    include_own: bool = False
    """Also show other images of the query's own patient (or lesion, where the data set has no patient key)."""
    per_image: bool = False
    """Show every similar image. Otherwise only the most similar image of each patient (or lesion) is shown."""
    encoder: str | None = None
    """Present path of the encoder that made the index (default: the path that the index records)."""
    out: str | None = None
    """File for the result: .png (contact sheet), .html (page with pictures) or .csv."""
    overwrite: bool = False
    """Replace a file at --out that this command made."""


@dataclass
class RetrievalOptions:
    """Measure retrieval: how many of the images most similar to each image are relevant. Compares two encoders too."""

    sources: list[str] = positional()
    """Embeddings or index folder. Two folders of the same images are compared query by query."""
    relevance: str | None = None
    """A hit is relevant if it has the query's label of this target (then the query's own patient is left out of the
    ranking), or is of its lesion or patient (then only the query is left out). Images with the query's pixels are left
    out too. Default: the first target."""
    k: list[PositiveInt] = field(default_factory=lambda: [1, 5, 10])
    """Numbers of hits at which the ranking is measured."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Split of the queries. Hits may come from all images."""
    draws: PositiveInt = 1000
    """Bootstrap draws of patients for the 95% intervals; 40 or more."""


@dataclass
class EmbeddingsExportOptions:
    """Write embeddings with pictures and labels for another program, unless a licence forbids passing images on."""

    to: Literal["atlas", "fiftyone", "lance", "projector"]
    """atlas: a Parquet file for Apple's embedding-atlas, with a 2-D projection and nearest neighbours. fiftyone: a
    dataset folder of FiftyOne. projector: TensorBoard's projector. lance: a LanceDB table."""
    out: str
    """Folder to write."""
    source: str = positional()
    """Embeddings or index folder."""
    projection: Literal["pca", "umap", "tsne"] = "pca"
    """Method of the 2-D projection of atlas and fiftyone; umap needs the package umap-learn, tsne needs openTSNE."""
    neighbours: PositiveInt = 15
    """Number of nearest neighbours of each image, for atlas."""
    overwrite: bool = False
    """Replace a folder that this command made."""
