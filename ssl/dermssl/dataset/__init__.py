"""A prepared dataset folder: manifest, image store, targets, splits, hashes."""
