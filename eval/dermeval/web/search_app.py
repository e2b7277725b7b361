"""The search pages and the JSON API over one collection."""

import asyncio
import base64
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from dermeval.retrieval.find import Query as ImageQuery
from dermeval.retrieval.find import photo_query
from dermeval.retrieval.photo import Encoder, Photo, decode_photo, photo_feature
from dermeval.web.collection import MAX_CASES, Case, Collection, SearchResult, where_of
from dermeval.web.server import make_app, static_file
from dermeval.web.workers import Workers
from dermssl.dataset.store import encode as encode_jpeg
from dermssl.page import templates
from dermssl.prepare.decode import DecodeError

MAX_UPLOAD_BYTES = 32 * 2**20
MAX_UPLOAD_PIXELS = 50_000_000
UPLOAD_SECONDS = 60
UPLOADS_AT_ONCE = 16
SMALLEST_CROP = 0.05

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A filter or a photo that cannot be used"},
    403: {"description": "Called under another name than this machine's"},
    404: {"description": "No image or case of that id"},
    408: {"description": "The photo came too slowly"},
    413: {"description": "The photo is too large"},
    503: {"description": "Too many searches at once"},
}
K = Annotated[int | None, Query(ge=1, le=MAX_CASES, description="number of cases")]
Where = Annotated[str, Query(max_length=2000, description="filter, as in docs/search.md")]
Least = Annotated[float | None, Query(ge=-1, le=1, description="lowest cosine similarity")]
Crop = Annotated[
    str, Query(max_length=100, description="part of the photo: left,top,right,bottom as shares from 0 to 1")
]


class Health(BaseModel):
    """That the server answers, and what it serves."""

    status: str
    images: int
    photos: bool
    searching: int


def search_app(collection: Collection, encode: Encoder | None, no_photos: str, token: str | None = None) -> FastAPI:
    """The app. Without an encoder, ``no_photos`` says why only images of the collection can be searched from."""
    app = make_app(collection.title, token)
    searches, photos = Workers(threads=2, waiting=64), Workers(threads=1, waiting=UPLOADS_AT_ONCE)
    uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    def page(name: str, **values: Any) -> str:
        given = {"collection": collection, "no_photos": no_photos, "max_mib": MAX_UPLOAD_BYTES // 2**20}
        return templates().get_template(f"dermeval/web/{name}").render(title=collection.title, **given, **values)

    def from_image(image_id: str, k: int | None, where: str, least: float | None) -> SearchResult:
        query = collection.query(image_id)
        if query is None:
            raise HTTPException(404, "no image of that id in this collection")
        return collection.search(query, k or collection.k, where, least)

    def read(data: bytes, crop: str) -> tuple[Photo, ImageQuery]:
        assert encode is not None
        try:
            short_side = collection.index.info["short_side"]
            photo = decode_photo(data, short_side, MAX_UPLOAD_PIXELS, _box(crop))
        except DecodeError as error:
            raise HTTPException(400, f"the photo cannot be used: {error}") from None
        return photo, photo_query(collection.index, photo, photo_feature(encode, photo), "your photo")

    async def from_photo(request: Request, crop: str, k: int | None, where: str, least: float | None) -> Any:
        if encode is None:
            raise HTTPException(400, no_photos)
        if uploads.locked():
            raise HTTPException(503, "too many photos at once: try again in a moment", {"retry-after": "2"})
        async with uploads:
            data = await _body(request)
            photo, query = await photos.run(read, data, crop)
        return photo, await searches.run(collection.search, query, k or collection.k, where, least)

    @app.get("/api/health")
    async def health() -> Health:
        return Health(status="ok", images=len(collection), photos=encode is not None, searching=searches.busy)

    @app.get("/api/search", responses=ERRORS)
    async def search_from_image(
        image_id: Annotated[str, Query(max_length=1000)], k: K = None, where: Where = "", min_similarity: Least = None
    ) -> SearchResult:
        """Cases similar to an image of the collection; its own patient is left out."""
        return await searches.run(from_image, image_id, k, where, min_similarity)

    @app.post("/api/search", responses=ERRORS, openapi_extra={"requestBody": PHOTO_BODY})
    async def search_from_photo(
        request: Request, k: K = None, where: Where = "", min_similarity: Least = None, crop: Crop = ""
    ) -> SearchResult:
        """Cases similar to the photo in the body of the request, which is not kept."""
        return (await from_photo(request, crop, k, where, min_similarity))[1]

    @app.get("/api/cases/{case_id:path}", responses={404: ERRORS[404], 403: ERRORS[403]})
    async def case_by_id(case_id: str) -> Case:
        """All images of one case, by the id of the case or of one of its images."""
        found = collection.case(case_id)
        if found is None:
            raise HTTPException(404, "no case of that id in this collection")
        return found

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def start(request: Request) -> str:
        return page("search.html", given=dict(request.query_params), result=None, examples=collection.examples())

    @app.get("/similar", response_class=HTMLResponse, include_in_schema=False)
    async def similar(request: Request, image_id: str, k: K = None, where: Where = "", least: Least = None) -> str:
        given = dict(request.query_params)
        asked = where_of(collection.filters, given, where)
        result = await searches.run(from_image, image_id, k, asked, least)
        query = collection.image(collection.index.row_of[image_id])
        return page("search.html", given=given, result=result, query=query, picture=None, kept=_kept(given))

    @app.post("/similar", response_class=HTMLResponse, include_in_schema=False)
    async def similar_to_photo(
        request: Request, k: K = None, where: Where = "", least: Least = None, crop: Crop = ""
    ) -> str:
        asked = where_of(collection.filters, dict(request.query_params), where)
        photo, result = await from_photo(request, crop, k, asked, least)
        picture = "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(photo.image)).decode()
        return page("results.html", result=result, query=None, picture=picture, kept=_kept(dict(request.query_params)))

    @app.get("/case", response_class=HTMLResponse, include_in_schema=False)
    async def case_page(id: str) -> str:
        found = collection.case(id)
        if found is None:
            raise HTTPException(404, "There is no case of that id in this collection.")
        return page("case.html", case=found)

    @app.get("/image", include_in_schema=False)
    async def image(id: str) -> Response:
        found = collection.picture(id)
        if found is None:
            raise HTTPException(404, "There is no image of that id in this collection.")
        return Response(found, media_type="image/jpeg")

    @app.get("/search.js", include_in_schema=False)
    async def script() -> Response:
        return static_file("search.js", "text/javascript; charset=utf-8")

    return app


PHOTO_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


async def _body(request: Request) -> bytes:
    """The body of a request, in memory, refused as soon as it is too large or too slow."""
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
        raise HTTPException(408, "the photo came too slowly", {"connection": "close"}) from None
    if not data:
        raise HTTPException(400, "the request holds no photo: send the image file as its body")
    return bytes(data)


def _box(crop: str) -> tuple[float, float, float, float] | None:
    """The crop as shares of the photo's sides; None for the whole photo."""
    if not crop:
        return None
    try:
        left, top, right, bottom = (float(part) for part in crop.split(","))
    except ValueError:
        raise HTTPException(400, "crop must be four numbers: left,top,right,bottom") from None
    fits = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    if not fits or min(right - left, bottom - top) < SMALLEST_CROP:
        raise HTTPException(400, f"crop must lie within 0 and 1 and be at least {SMALLEST_CROP} wide and high")
    return left, top, right, bottom


def _kept(given: dict[str, str]) -> str:
    """The filters of a form as the beginning of an address."""
    kept = {name: value for name, value in given.items() if name not in ("image_id", "crop") and value}
    return urlencode(kept) + "&" if kept else ""
