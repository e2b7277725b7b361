"""The JSON API, described at ``/openapi.json``."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel

from dermeval.web.collection import Case, SearchResult
from dermeval.web.searches import Asked, Searches

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A filter or a photo that cannot be used"},
    403: {"description": "Called under another name than this machine's"},
    404: {"description": "No image or case of that id"},
    408: {"description": "The photo came too slowly"},
    413: {"description": "The photo is too large"},
    503: {"description": "Too many searches at once"},
}
PHOTO_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
Id = Annotated[str, Query(max_length=1000)]
Crop = Annotated[
    str, Query(max_length=100, description="part of the photo: left,top,right,bottom as shares from 0 to 1")
]


class ServerHealth(BaseModel):
    """That the server answers, and what it serves."""

    status: str
    images: int
    photos: bool
    searching: int


def api_routes(searches: Searches) -> APIRouter:
    """The routes under ``/api``."""
    routes, collection = APIRouter(prefix="/api"), searches.collection

    @routes.get("/health")
    async def health() -> ServerHealth:
        photos, busy = searches.encode is not None, searches.searching.busy
        return ServerHealth(status="ok", images=len(collection), photos=photos, searching=busy)

    @routes.get("/search", responses=ERRORS)
    async def search_from_image(image_id: Id, asked: Annotated[Asked, Query()]) -> SearchResult:
        """Cases similar to an image of the collection; its own patient is left out."""
        return await searches.from_image(image_id, asked)

    @routes.post("/search", responses=ERRORS, openapi_extra={"requestBody": PHOTO_BODY})
    async def search_from_photo(request: Request, asked: Annotated[Asked, Query()], crop: Crop = "") -> SearchResult:
        """Cases similar to the photo in the body of the request, which is not kept."""
        return (await searches.from_photo(request, crop, asked))[1]

    @routes.get("/cases/{case_id:path}", responses={404: ERRORS[404], 403: ERRORS[403]})
    async def case_by_id(case_id: str) -> Case:
        """All images of one case, by the id of the case or of one of its images."""
        found = collection.case(case_id)
        if found is None:
            raise HTTPException(404, "no case of that id in this collection")
        return found

    return routes
