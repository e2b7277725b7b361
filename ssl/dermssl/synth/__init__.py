"""A synthetic data set in PASSION's layout."""
