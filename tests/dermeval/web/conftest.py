"""A collection of drawn images behind the app, with a stand-in for the encoder."""

import io

import numpy as np
import pytest

from dermeval.retrieval.index import index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import IndexOptions


def _tiny_features(images) -> np.ndarray:
    """8 x 8 grey pixels of each image: near-identical pictures have near-identical features."""
    small = [np.asarray(image.convert("L").resize((8, 8)), np.float32).ravel() for image in images]
    return np.stack(small) - 128


@pytest.fixture
def tiny_features():
    return _tiny_features


@pytest.fixture
def pictures(draw_skin):
    return [draw_skin(number) for number in range(12)]


@pytest.fixture
def make_index(make_dataset, embed_as, pictures, tmp_path):
    """``make_index(licence)`` -> an index of 4 patients with three images each."""

    def make(licence="CC0-1.0"):
        groups = [f"p{number // 3}" for number in range(12)]
        labels = ["eczema", "scabies", "fungal <b>"] * 4
        data = make_dataset("set", pictures, groups, labels=labels, licence=licence)
        out = tmp_path / "index"
        index(IndexOptions(sources=[str(embed_as(data, _tiny_features(pictures)))], out=str(out), overwrite=True))
        return open_index(out)

    return make


@pytest.fixture
def as_bytes():
    """``as_bytes(image, format)`` -> the file."""

    def convert(image, kind="PNG") -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind)
        return buffer.getvalue()

    return convert
