"""What PyTorch itself puts before all names: data parallel training and compilation."""

from dermssl.backbone.adapters.adapter import Adapter, part_under

ADAPTER = Adapter("", part_under("module.", "_orig_mod.", "_fsdp_wrapped_module."))
