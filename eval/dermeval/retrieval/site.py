"""The pages of ``dermeval serve``, apart from HTTP: what is shown for an indexed image or an uploaded photo."""

import base64
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from dermeval.retrieval.index_folder import SearchIndex
from dermeval.retrieval.photo import Photo, open_photo_encoder, read_photo
from dermeval.retrieval.search import Query, find, indexed_query, photo_query
from dermeval.retrieval.sheet import caption
from dermssl import licences
from dermssl.dataset.store import encode
from dermssl.errors import InputError

EXAMPLES = 20
"""Images offered on the front page."""


class Site:
    """The pages, apart from HTTP. One search runs at a time."""

    def __init__(self, index: SearchIndex, k: int) -> None:
        self.index, self.k = index, k
        self.lock = threading.Lock()
        self.rows = {image_id: row for row, image_id in enumerate(index.frame["image_id"])}
        self.labels = [target.column for target in index.targets.values()]
        text = resources.files("dermeval.retrieval").joinpath("serve.html").read_text(encoding="utf-8")
        self.template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)

    @cached_property
    def encode(self) -> Callable[[Photo], np.ndarray]:
        """The index's encoder, loaded with the first photo."""
        return open_photo_encoder(self.index.info["encoder"])

    def front(self) -> str:
        """The page that asks for a photo and offers indexed images, the same at every visit."""
        picks = np.random.default_rng(0).permutation(len(self.index))[:EXAMPLES]
        frame = self.index.frame.iloc[np.sort(picks)]
        return self._page([self._tile(row, "") for row in frame.to_dict("records")], None, [])

    def of_image(self, image_id: str) -> str:
        """Cases similar to an indexed image; raises InputError where there is none of that id."""
        with self.lock:
            query = indexed_query(self.index, image_id)
            row = self.index.frame.iloc[query.rows[0]].to_dict()
            return self._results(query, self._tile(row, "query"))

    def of_photo(self, name: str, content: bytes) -> str:
        """Cases similar to an uploaded photo, which is not kept; raises InputError where it is no image."""
        with self.lock, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("photo" + Path(name).suffix)
            path.write_bytes(content)
            try:
                photo = read_photo(path, self.index.info["short_side"])
            except InputError as error:
                raise InputError(str(error).replace(str(path), name or "the photo")) from None
            query = photo_query(self.index, photo, self.encode(photo), name)
            picture = "data:image/jpeg;base64," + base64.b64encode(encode(photo.image.convert("RGB"))).decode()
            return self._results(query, {"picture": picture, "link": None, "lines": ["query", name]})

    def picture(self, image_id: str) -> bytes:
        """The stored JPEG of an indexed image; raises InputError where there is none of that id."""
        if image_id not in self.rows:
            raise InputError(f"no image '{image_id}' in this index")
        dataset = self.index.datasets[self.index.frame["dataset"].iloc[self.rows[image_id]]]
        return bytes(dataset.images.jpeg(int(np.flatnonzero(dataset.column("image_id") == image_id)[0])))

    def _results(self, query: Query, tile: dict[str, Any]) -> str:
        found = find(self.index, query, self.k)
        tiles = [self._tile(row, None) for row in found.table.to_dict("records")]
        return self._page(tiles, tile, found.notes)

    def _tile(self, row: Mapping[Any, Any], head: str | None) -> dict[str, Any]:
        """One picture with its lines; ``head`` replaces rank and similarity."""
        lines = caption({"rank": None, **row}, self.labels)
        lines[0] = lines[0] if head is None else head
        return {"picture": None, "link": row["image_id"], "lines": lines}

    def _page(self, tiles: list[dict[str, Any]], query: dict[str, Any] | None, notes: list[str]) -> str:
        return self.template.render(
            title=f"Similar cases in {', '.join(entry['name'] for entry in self.index.info['datasets'])}",
            images=len(self.index),
            groups=self.index.frame["group_id"].nunique(),
            synthetic=self.index.synthetic,
            tiles=tiles,
            query=query,
            notes=notes,
            foot=licences.lines(self.index.licences),
        )
