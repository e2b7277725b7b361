"""Dataset folders for encoders to embed."""

import pytest


@pytest.fixture(scope="session")
def make_dataset(make_toy_dataset):
    """Here a dataset folder of noise images for a given frame."""
    return make_toy_dataset
