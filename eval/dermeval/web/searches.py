"""Search requests of the pages and the API: their limits, their queues, and the search."""

import asyncio
import dataclasses
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Request
from pydantic import BaseModel, Field

from dermeval.retrieval.find import ImageQuery, indexed_query, photo_query
from dermeval.retrieval.photo import Box, Encoder, Photo, decode_photo
from dermeval.web.collection import Collection, SearchResult, without_paths
from dermeval.web.options import MAX_CASES
from dermeval.web.workers import Batches, Workers
from dermssl.parallel import available_cores
from dermssl.prepare.decode import DecodeError

MAX_UPLOAD_BYTES = 32 * 2**20
UPLOAD_SECONDS = 60
UPLOADS_AT_ONCE = 16
DECODED_AT_ONCE = 4
"""Photos decoded at the same time: one of the largest allowed takes about 1 GB of memory."""
ENCODED_AT_ONCE = 4
"""Photos per batch. With EfficientNet-lite0 at 128 px a photo takes 13 ms alone, 8 in a batch of 4, 12 in one of 8."""
SMALLEST_CROP = 0.05
SHARE = r"(0|1|0\.[0-9]{1,18}|1\.0{1,18})"
CROP = f"^({SHARE}, ?{SHARE}, ?{SHARE}, ?{SHARE})?$"
Blank = Literal[""]
"""The value that a form sends for a number that was left out."""


class Asked(BaseModel):
    """The options of a search."""

    k: Annotated[Annotated[int, Field(ge=1, le=MAX_CASES)] | Blank, Field(description="number of cases")] = ""
    where: Annotated[
        str, Field(max_length=2000, description="filter, as in docs/search.md", json_schema_extra={"format": "filter"})
    ] = ""
    min_similarity: Annotated[
        Annotated[float, Field(ge=-1, le=1)] | Blank, Field(description="lowest cosine similarity")
    ] = ""


class Searches:
    """Searches in one collection. If there is no encoder, ``no_photos`` says why photos cannot be searched for."""

    def __init__(self, collection: Collection, encode: Encoder | None, no_photos: str) -> None:
        self.collection, self.encode, self.no_photos = collection, encode, no_photos
        self.searching = Workers(threads=2, waiting=64)
        self.reading = Workers(threads=min(available_cores(), DECODED_AT_ONCE), waiting=UPLOADS_AT_ONCE)
        self.encoding = Batches(encode, ENCODED_AT_ONCE) if encode else None
        self.uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def from_image(self, image_id: str, asked: Asked) -> SearchResult:
        """The cases most similar to an image of the collection; 404 if there is no such image."""
        if self.collection.row(image_id) is None:
            raise HTTPException(404, "no image of that id in this collection")
        return await self._search(asked, indexed_query, image_id)

    async def from_photo(self, request: Request, crop: str, asked: Asked) -> tuple[Photo, SearchResult]:
        """The photo in the body of a request, as it was compared, and the cases most similar to it."""
        if self.encoding is None:
            raise HTTPException(404, self.no_photos)
        if self.uploads.locked():
            raise HTTPException(503, "too many photos at once: try again in a moment", {"retry-after": "2"})
        box = _box(crop)
        async with self.uploads:
            photo = await self.reading.run(self._read, await _body(request), box)
            # The page sends a smaller copy of a large photo, with the hash of the original file.
            photo = dataclasses.replace(photo, sha256=request.headers.get("x-file-sha256", photo.sha256))
            feature = await self.encoding.run(photo.image)
        return photo, await self._search(asked, photo_query, photo, feature, "your photo")

    async def _search(self, asked: Asked, query: Callable[..., ImageQuery], *of: Any) -> SearchResult:
        """The answer to ``query(index, *of)``."""

        def answer() -> SearchResult:
            with without_paths():
                wanted = query(self.collection.index, *of)
            lowest = None if asked.min_similarity == "" else asked.min_similarity
            return self.collection.search(wanted, asked.k or self.collection.k, asked.where, lowest)

        return await self.searching.run(answer)

    def _read(self, data: bytes, box: Box | None) -> Photo:
        try:
            return decode_photo(data, self.collection.index.info["short_side"], box)
        except DecodeError as error:
            raise HTTPException(422, f"the photo cannot be used: {error}") from None


async def _body(request: Request) -> bytes:
    """The body of a request, in memory; raises 413 or 408 as soon as it is too large or takes too long."""
    too_large = HTTPException(413, f"the photo is larger than {MAX_UPLOAD_BYTES // 2**20} MiB", {"connection": "close"})
    if int(request.headers.get("content-length") or 0) > MAX_UPLOAD_BYTES:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_UPLOAD_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, "the upload took too long", {"connection": "close"}) from None
    if not data:
        raise HTTPException(422, "the request holds no photo: send the image file as its body")
    return bytes(data)


def _box(crop: str) -> Box | None:
    """The part of a photo between two opposite corners, at least `SMALLEST_CROP` wide and high; None: all of it."""
    if not crop:
        return None
    if not re.fullmatch(CROP, crop):
        raise HTTPException(422, "crop must be four numbers from 0 to 1: left,top,right,bottom")
    x1, y1, x2, y2 = (float(part) for part in crop.split(","))
    left, top = min(x1, x2, 1 - SMALLEST_CROP), min(y1, y2, 1 - SMALLEST_CROP)
    return left, top, max(x1, x2, left + SMALLEST_CROP), max(y1, y2, top + SMALLEST_CROP)
