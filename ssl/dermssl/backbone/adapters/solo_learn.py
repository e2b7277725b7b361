"""solo-learn (vturrisi/solo-learn) and others that call the network ``backbone.`` or, earlier, ``encoder.``."""

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, part_under

ADAPTER = Adapter("solo-learn or the like", part_under("backbone.", "encoder."), IMAGENET)
