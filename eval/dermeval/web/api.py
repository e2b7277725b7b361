"""The JSON API, described at ``/openapi.json``."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from dermeval.web.collection import Case, SearchResult
from dermeval.web.searches import CROP, Asked, Searches
from dermeval.web.server import takes_only

ERRORS: dict[int | str, dict[str, Any]] = {
    403: {"description": "The Host header does not name this machine"},
    404: {"description": "There is no image or case of that id"},
    408: {"description": "The upload of the photo took too long"},
    413: {"description": "The photo is too large"},
    422: {"description": "A parameter, the filter or the photo cannot be used; detail says why"},
    503: {"description": "There are too many searches at once"},
}
PHOTO_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "photo"}}},
}
Id = Annotated[str, Query(max_length=1000)]
Crop = Annotated[
    str,
    Query(
        max_length=100,
        description="the part of the photo to search for: left,top,right,bottom, each from 0 to 1",
        json_schema_extra={"pattern": CROP},
    ),
]


class ServerHealth(BaseModel):
    """The state of the server: images served, whether photos can be searched for, searches in progress."""

    status: str
    images: int
    photos: bool
    searching: int


def api_routes(searches: Searches) -> APIRouter:
    """The routes under ``/api``."""
    routes, collection = APIRouter(prefix="/api"), searches.collection

    @routes.get("/health", responses={422: ERRORS[422]}, dependencies=takes_only())
    async def health() -> ServerHealth:
        photos, busy = searches.encode is not None, searches.searching.busy
        return ServerHealth(status="ok", images=len(collection), photos=photos, searching=busy)

    @routes.get("/search", responses=ERRORS, dependencies=takes_only("image_id", *Asked.model_fields))
    async def search_from_image(image_id: Id, asked: Annotated[Asked, Query()]) -> SearchResult:
        """Find the cases most similar to an image of the collection, without its own patient."""
        return await searches.from_image(image_id, asked)

    @routes.post(
        "/search",
        responses=ERRORS,
        openapi_extra={"requestBody": PHOTO_BODY},
        dependencies=takes_only("crop", *Asked.model_fields),
    )
    async def search_from_photo(request: Request, asked: Annotated[Asked, Query()], crop: Crop = "") -> SearchResult:
        """Find the cases most similar to the photo in the request body. The photo is not kept."""
        return (await searches.from_photo(request, crop, asked))[1]

    @routes.get(
        "/cases/{case_id:path}", responses={code: ERRORS[code] for code in (403, 404, 422)}, dependencies=takes_only()
    )
    async def case_by_id(case_id: str) -> Case:
        """Give the images of a case, by the id of the case or of one of its images."""
        return collection.case(case_id)

    return routes
