"""Embeddings whose features tell the conditions of the toy patients apart."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="session")
def make_dataset(make_toy_dataset):
    """Here a dataset folder of noise images for a given frame."""
    return make_toy_dataset


@pytest.fixture
def class_features(frame: pd.DataFrame) -> np.ndarray:
    """Features ``(N, 6)`` in which the conditions are four noisy clusters, with a small patient effect."""
    random = np.random.default_rng(2)
    centres = random.normal(size=(4, 6)) * 1.2
    classes = frame["condition"].map(("Eczema", "Fungal", "Others", "Scabies").index).to_numpy()
    codes = pd.factorize(frame["patient_id"])[0]
    person = random.normal(size=(codes.max() + 1, 6)) * 0.5
    return centres[classes] + person[codes] + random.normal(size=(len(frame), 6))
