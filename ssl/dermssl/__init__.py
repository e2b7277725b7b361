"""dermssl: self-supervised encoders for skin images, from raw folders to a trained backbone."""

__version__ = "0.1.0"
