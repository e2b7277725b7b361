"""dermssl: self-supervised encoders for skin images, from raw folders to a trained backbone."""

import logging

__version__ = "0.1.0"
log = logging.getLogger("dermssl")
"""The warnings and messages of all commands, which `dermssl.commandline` prints."""
