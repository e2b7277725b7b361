"""Weights that other projects released, by timm's names: one file for each layout, see `registry`."""
