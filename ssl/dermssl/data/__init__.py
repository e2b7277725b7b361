"""Raw folder -> dataset folder: sources, manifest, decoding, image store, splits, synthetic data, description."""
