"""lightly-train: the wrapped model of a checkpoint. What its ``export`` writes has the model's own names."""

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, part_under

PLACES = [f"{who}embedding_model.wrapped_model" for who in ("teacher_", "student_", "")]
ADAPTER = Adapter(
    "lightly-train",
    part_under(*(f"{place}.{inner}" for place in PLACES for inner in ("_model.", "_features.", ""))),
    IMAGENET,
)
