"""``dermeval serve``: search for similar cases in the browser. Photos of a query are not kept."""

import logging
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse

from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.output import data_uri
from dermeval.retrieval.photo import Encoder, open_photo_encoder
from dermeval.web.api import Crop, Id, api_routes
from dermeval.web.collection import Collection
from dermeval.web.filters import where_of
from dermeval.web.options import MAX_CASES, ServeOptions
from dermeval.web.searches import MAX_UPLOAD_BYTES, Asked, Searches
from dermeval.web.server import address_of, choose_token, in_a_browser, listen, make_app, run_app
from dermssl.commandline import Report
from dermssl.dataset.store import encode as encode_jpeg
from dermssl.errors import InputError
from dermssl.page import render

log = logging.getLogger("dermssl")


def serve(options: ServeOptions) -> Report:
    """Answer searches until interrupted (Ctrl-C); see `ServeOptions`."""
    index = open_index(options.index)
    index.require_pictures()
    if options.k > MAX_CASES:
        raise InputError(f"--k {options.k}: at most {MAX_CASES}")
    token = choose_token(options.host, index.notices, options.token)
    collection = Collection(index, options.k, options.where)
    with listen(options.host, options.port) as sock:
        app = search_app(collection, *_encoder(index, options.encoder), token)
        log.info("similar cases of %s: open %s (Ctrl-C ends it)", options.index, address_of(sock, options.host, token))
        run_app(app, sock)
    return Report(f"stopped serving {options.index}", {"index": options.index})


def _encoder(index: SearchIndex, path: str | None) -> tuple[Encoder | None, str]:
    """The encoder of photos, or None and the reason. Searches from indexed images need no encoder."""
    try:
        return open_photo_encoder(index.encoder, path), ""
    except InputError as error:
        log.warning("warning: photos cannot be searched for: %s", error)
        return None, "Photos cannot be searched for: the encoder that made this index is out of reach."


def search_app(collection: Collection, encode: Encoder | None, no_photos: str, token: str | None = None) -> FastAPI:
    """The app with pages and API; ``no_photos`` says why there is no encoder."""
    app, searches = make_app(collection.title, "search.js", token), Searches(collection, encode, no_photos)
    app.router.routes += [*api_routes(searches).routes, *search_pages(searches).routes]
    return app


def search_pages(searches: Searches) -> APIRouter:
    """The routes of the start page, the results, the page of one case, and the stored images."""
    routes, collection = APIRouter(include_in_schema=False, default_response_class=HTMLResponse), searches.collection

    def page(name: str, **values: Any) -> str:
        values = {"no_photos": searches.no_photos, "max_mib": MAX_UPLOAD_BYTES // 2**20, "problem": ""} | values
        values |= {"collection": collection, "title": collection.title, "foot": collection.foot}
        return render(f"dermeval/web/{name}", **values)

    def with_filters(request: Request, asked: Asked) -> Asked:
        where = where_of(collection.filters, request.query_params, asked.where)
        return asked.model_copy(update={"where": where})

    def start_page(request: Request, problem: str = "") -> str:
        given = dict(request.query_params)
        return page("search.html", given=given, result=None, examples=collection.examples(), problem=problem)

    @routes.get("/")
    async def start(request: Request) -> str:
        return start_page(request)

    @routes.get("/similar")
    async def similar(request: Request, image_id: Id, asked: Annotated[Asked, Query()]) -> Any:
        try:
            result = await searches.from_image(image_id, with_filters(request, asked))
        except InputError as error:  # the form stays, so that its filter can be corrected
            return HTMLResponse(start_page(request, in_a_browser(str(error))), 422)
        (query,) = collection.images(collection.index.records([collection.index.row_of[image_id]]))
        given = dict(request.query_params)
        return page("search.html", given=given, result=result, query=query, picture=None, kept=_kept(given))

    @routes.post("/similar")
    async def similar_to_photo(request: Request, asked: Annotated[Asked, Query()], crop: Crop = "") -> str:
        photo, result = await searches.from_photo(request, crop, with_filters(request, asked))
        picture, kept = data_uri(encode_jpeg(photo.image)), _kept(dict(request.query_params))
        return page("results.html", result=result, query=None, picture=picture, kept=kept)

    @routes.get("/case")
    async def case_page(id: Id) -> str:
        return page("case.html", case=collection.case(id))

    @routes.get("/image")
    async def image(id: Id) -> Response:
        return Response(collection.picture(id), media_type="image/jpeg")

    return routes


def _kept(given: dict[str, str]) -> str:
    """The filters of a form as the beginning of a query string."""
    kept = {name: value for name, value in given.items() if name not in ("image_id", "crop") and value}
    return urlencode(kept) + "&" if kept else ""
