"""A synthetic stand-in in PASSION's layout."""
