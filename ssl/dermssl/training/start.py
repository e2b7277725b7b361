"""Where the weights of a run start: timm's, an exported encoder's, or an earlier run's."""

from pathlib import Path
from typing import Any

from torch import nn

from dermssl import backbone
from dermssl.errors import InputError


def load_initial(method: Any, init: str, name: str) -> None:
    """Put the weights of ``init`` into every backbone of the method (student and teacher).

    ``init`` is ``timm`` (its pretrained weights), a run folder, or an exported encoder folder.

    Raises:
        InputError: the weights cannot be had or belong to another backbone.
    """
    source = _initial_backbone(init, name)
    networks = [child for key, child in method.named_children() if key in ("student", "teacher", "backbone")]
    for network in networks:
        try:
            network.load_state_dict(source.state_dict(), strict=True)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise InputError(f"model.init {init} does not fit model.backbone {name} ({first})") from None


def _initial_backbone(init: str, name: str) -> nn.Module:
    if init == "timm":
        return backbone.build(name, image_size=224, pretrained=True)
    folder = Path(init)
    if (folder / "encoder").is_dir():
        folder = folder / "encoder"
    model, config = backbone.load(folder)
    if config["architecture"] != name:
        raise InputError(f"model.init {init} is a {config['architecture']}, but model.backbone is {name}: use the same")
    return model
