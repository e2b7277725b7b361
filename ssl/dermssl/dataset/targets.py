"""What a data set can be asked to predict. Class order is declared here and never comes from file order."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Target:
    """One prediction task of a data set.

    ``column`` of the manifest holds the class name (null: unlabelled). ``positive`` is the positive class of a
    binary task. ``level`` says what is scored as one: an image, or a case (all images sharing ``case_id``).
    """

    column: str
    classes: tuple[str, ...]
    kind: Literal["multiclass", "binary", "multilabel", "ordinal"] = "multiclass"
    positive: str | None = None
    level: Literal["image", "case"] = "image"

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class stands twice")
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"the positive class '{self.positive}' is none of the classes")

    def to_json(self) -> dict[str, Any]:
        """The form written to ``dataset.json``."""
        return asdict(self) | {"classes": list(self.classes)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Target":
        """The inverse of `to_json`."""
        known = {name: part for name, part in value.items() if name in Target.__dataclass_fields__}
        return Target(**known | {"classes": tuple(value["classes"])})
