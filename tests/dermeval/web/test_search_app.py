"""The search pages and the API: the hits of `dermeval search`, and only what is asked for."""

import re
from urllib.parse import unquote

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="the test client needs httpx")

import pyarrow as pa
from fastapi.testclient import TestClient

from dermeval.retrieval.find import indexed_query
from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.options import SearchOptions
from dermeval.retrieval.search import search
from dermeval.web.collection import Collection
from dermeval.web.filters import filters_of
from dermeval.web.serve import search_app
from dermssl.errors import InputError


@pytest.fixture
def client(make_index, tiny_features):
    found = make_index()
    app = search_app(Collection(found, 3), tiny_features, "")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        client.folder = str(found.folder)
        yield client


def shown(page: str) -> list[str]:
    return [unquote(name) for name in re.findall(r'<img src="/image\?id=([^"]+)"', page)]


def test_a_form_may_leave_its_numbers_blank(client):
    for place in ("/api/search", "/similar"):
        assert client.get(place, params={"image_id": "set/4", "k": "", "min_similarity": ""}).status_code == 200
    assert client.get("/api/search", params={"image_id": "set/4", "k": "0"}).status_code == 422


def test_a_mistake_in_a_filter_leaves_the_form_as_it_was(client):
    answer = client.get("/similar", params={"image_id": "set/4", "where": "sexx == 'male'", "k": 2})
    assert answer.status_code == 422
    assert "the filter: no column" in answer.text and 'value="sexx == &#39;male&#39;"' in answer.text


def test_the_api_gives_the_hits_of_the_search_command(client):
    hits = search(SearchOptions(index=client.folder, image_id=["set/4"], k=3)).data["queries"][0]["hits"]
    found = client.get("/api/search", params={"image_id": "set/4", "k": 3}).json()
    assert [hit["image_id"] for hit in found["hits"]] == [hit["image_id"] for hit in hits]
    assert [hit["similarity"] for hit in found["hits"]] == [round(hit["similarity"], 4) for hit in hits]
    assert found["hits"][0]["licence"] == "CC0-1.0"


def test_the_page_shows_the_same_hits_and_not_the_own_patient(client):
    found = client.get("/api/search", params={"image_id": "set/4"}).json()
    page = client.get("/similar", params={"image_id": "set/4"}).text
    assert shown(page) == ["set/4", *[hit["image_id"] for hit in found["hits"]]]
    assert "not a diagnosis" in page and "<h3>Diagnosis</h3>" in page


def test_an_uploaded_photo_finds_its_twin_and_leaves_its_patient_out(client, pictures, as_bytes):
    found = client.post("/api/search", content=as_bytes(pictures[4])).json()
    assert "the photo is set/4 itself" in " ".join(found["notes"])
    assert not {"set/3", "set/4", "set/5"} & {hit["image_id"] for hit in found["hits"]}
    answer = client.post("/similar", content=as_bytes(pictures[4]), headers={"X-Fragment": "1"})
    assert answer.status_code == 200 and "<html" not in answer.text and "Your photo" in answer.text


def test_a_smaller_copy_of_a_photo_is_known_by_the_hash_of_its_file(client, pictures, as_bytes):
    same = Collection(open_index(client.folder), 3).frame["sha256"].iloc[4]
    found = client.post("/api/search", content=as_bytes(pictures[0].resize((50, 50))), headers={"X-File-SHA256": same})
    assert "the photo is set/4 itself" in " ".join(found.json()["notes"])


def test_a_crop_searches_for_that_part_of_the_photo(client, pictures, as_bytes, draw_skin):
    wide = draw_skin(99, 192)
    wide.paste(pictures[7], (96, 0))
    content = as_bytes(wide)
    assert client.post("/api/search", content=content).json()["hits"][0]["similarity"] < 0.9
    found = client.post("/api/search?crop=0.5,0,1,0.5", content=content).json()
    assert found["hits"][0]["image_id"] == "set/7" and found["hits"][0]["similarity"] > 0.99


def test_the_form_offers_only_filters_that_can_be_written():
    table = pa.table({name: ["a", "b"] for name in ("dx", "skin type", "class", "image_id", "grade", "diagnostic")})
    titles = {field.column: field.title for field in filters_of(table, ["grade"])}
    assert titles == {"grade": "Grade", "dx": "Diagnosis (dx)", "diagnostic": "Diagnosis (diagnostic)"}
    assert next(iter(titles)) == "grade"


def test_filters_of_the_form_and_of_the_api_agree(client):
    where = {"image_id": "set/0", "where": "dx == 'scabies'"}
    found = client.get("/api/search", params=where).json()
    page = client.get("/similar", params={"image_id": "set/0", "f.dx": "scabies"}).text
    assert {hit["labels"]["dx"] for hit in found["hits"]} == {"scabies"}
    assert shown(page)[1:] == [hit["image_id"] for hit in found["hits"]]
    assert "of the collection that pass the filters and have a label" in page, "the base rates are those of the filter"
    assert 'name="f.dx"' in page and "<option selected>scabies</option>" in page


@pytest.mark.parametrize(
    ("params", "status", "told"),
    [
        ({"image_id": "set/99"}, 404, "no image of that id"),
        ({"image_id": "../../etc/passwd"}, 404, "no image of that id"),
        ({"image_id": "set/0", "where": "country == 'Mali'"}, 422, "no image has a country"),
        ({"image_id": "set/0", "where": "dx == 'scabies' and width > 5000"}, 422, "leaves none"),
        ({"image_id": "set/0", "k": "101"}, 422, "less than or equal to 100"),
        ({"image_id": "set/0", "min_similarity": "nan"}, 422, ""),
        ({}, 422, "required"),
    ],
)
def test_a_mistake_is_answered_in_one_line_without_a_path(client, params, status, told):
    answer = client.get("/api/search", params=params)
    assert answer.status_code == status and told in answer.text
    assert client.folder not in answer.text


def test_an_index_that_fails_while_it_is_served_is_answered_without_a_path(client, pictures, as_bytes, monkeypatch):
    def fail(*_):
        raise InputError(f"{client.folder} is damaged")

    monkeypatch.setattr(SearchIndex, "lookup", fail)
    photo = as_bytes(pictures[0])
    for answer in (client.get("/api/search?image_id=set/0"), client.post("/api/search", content=photo)):
        assert answer.status_code == 422 and "the log of the server says why" in answer.text
        assert client.folder not in answer.text


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [(b"", 422, "holds no photo"), (b"no picture", 422, "cannot be used"), (b"\xff\xd8\xff", 422, "cannot be used")],
)
def test_what_is_no_photo_is_refused(client, content, status, told):
    answer = client.post("/api/search", content=content)
    assert answer.status_code == status and told in answer.json()["detail"]


def test_a_photo_of_more_pixels_than_prepare_accepts_is_refused_before_it_is_decoded(
    client, pictures, as_bytes, monkeypatch
):
    from dermssl.prepare import decode

    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    monkeypatch.setattr(decode, "decode_rgb", lambda *given: pytest.fail("decoded"))
    answer = client.post("/api/search", content=as_bytes(pictures[0]))
    assert answer.status_code == 422 and "decompression bomb" in answer.json()["detail"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_photo_of_too_many_bytes_is_refused_while_it_comes(client, monkeypatch, declared):
    from dermeval.web import searches

    monkeypatch.setattr(searches, "MAX_UPLOAD_BYTES", 1000)
    parts = (b"x" * 100 for _ in range(1000))
    answer = client.post("/api/search", content=b"x" * 1001 if declared else parts)
    assert answer.status_code == 413


def test_a_crop_is_two_corners_in_any_order_and_never_too_small(client, pictures, as_bytes):
    content = as_bytes(pictures[0])
    for crop, same in (("0.8,0.9,0.1,0.2", "0.1,0.2,0.8,0.9"), ("1,0,1,1", "0.95,0,1,1")):
        answers = [client.post("/api/search", params={"crop": part}, content=content) for part in (crop, same)]
        assert answers[0].status_code == 200 and answers[0].json() == answers[1].json()


@pytest.mark.parametrize("crop", ["0,0,1", "a,b,c,d", "0,0,2,1", "nan,0,1,1", "-0.1,0,1,1", "0,0,1,1,1"])
def test_an_impossible_crop_is_refused(client, pictures, as_bytes, crop):
    answer = client.post("/api/search", params={"crop": crop}, content=as_bytes(pictures[0]))
    assert answer.status_code == 422 and "crop" in answer.json()["detail"]


def test_all_images_of_a_case_are_shown_by_the_id_of_the_case_or_of_one_image(client, monkeypatch):
    by_case, by_image = (client.get(f"/api/cases/{name}").json() for name in ("set/p1", "set/4"))
    assert by_case == by_image
    assert [image["image_id"] for image in by_case["images"]] == ["set/3", "set/4", "set/5"]
    assert shown(client.get("/case", params={"id": "set/p1"}).text) == ["set/3", "set/4", "set/5"]
    monkeypatch.setattr("dermeval.web.collection.MAX_CASE_IMAGES", 2)
    assert client.get("/api/cases/set/p1").json()["total"] == 3
    assert "2 of 3 images of this case" in client.get("/case", params={"id": "set/p1"}).text
    assert client.get("/api/cases/none").status_code == 404


def test_conditions_are_counted_against_their_base_rate(client):
    found = client.get("/api/search", params={"image_id": "set/0", "k": 3}).json()
    assert sum(row["hits"] for row in found["conditions"]) == 3
    assert {row["condition"] for row in found["conditions"]} <= {"eczema", "scabies", "fungal <b>"}
    # One image stands for each patient: the first, which is eczema in this collection.
    assert {row["base_rate"] for row in found["conditions"]} <= {0.0, 1.0}


def test_a_patient_whose_first_image_has_no_label_counts_by_the_next_one(make_index):
    collection = Collection(make_index(), 3)
    ((codes, _),) = collection.labelled.values()
    codes[0] = -1  # of p0: the next image has scabies
    collection._filtered.cache_clear()
    rows = collection.search(indexed_query(collection.index, "set/3"), 3).conditions
    expected = {"eczema": 0.75, "scabies": 0.25, "fungal <b>": 0.0}
    assert {row.condition: row.base_rate for row in rows} == {row.condition: expected[row.condition] for row in rows}
    assert {row.labelled_cases for row in rows} == {4}


def test_the_conditions_of_each_target_are_counted_among_the_cases_that_have_one(make_index):
    """An index of several data sets has a column for the target of each."""
    index = make_index()
    vars(index)["labels"] = ["lesion_id", "split", *index.labels]  # no image has a lesion here
    found = Collection(index, 3).search(indexed_query(index, "set/0"), 3)
    assert found.target == index.labels[-1] and {row.target for row in found.conditions} <= {"split", found.target}
    first = [row for row in found.conditions if row.target == found.target]
    assert first == found.conditions[: len(first)] and sum(row.hits for row in first) == first[0].labelled_hits == 3
    assert first[0].labelled_cases == 4


def test_text_from_the_data_is_escaped(client):
    page = client.get("/").text
    assert "fungal &lt;b&gt;" in page and "fungal <b>" not in page


def test_an_image_is_the_stored_one_and_no_other_file(client, tmp_path):
    answer = client.get("/image", params={"id": "set/0"})
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:3] == b"\xff\xd8\xff"
    for name in ("set/../../x", str(tmp_path), "", "set/0\x00"):
        assert client.get("/image", params={"id": name}).status_code == 404


def test_a_filter_on_serving_holds_for_every_page(make_index, tiny_features, pictures, as_bytes):
    found = make_index()
    app = search_app(Collection(found, 3, "dx == 'eczema'"), tiny_features, "")
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/api/health").json()["images"] == 4
        assert client.get("/image", params={"id": "set/1"}).status_code == 404
        assert client.get("/api/search", params={"image_id": "set/1"}).status_code == 404
        hits = client.get("/api/search", params={"image_id": "set/0"}).json()["hits"]
        assert {hit["labels"]["dx"] for hit in hits} == {"eczema"}
        assert len(client.get("/api/cases/set/p0").json()["images"]) == 1
        for number, known in ((0, True), (1, False)):  # the photo of an image that is not served is not named
            found = client.post("/api/search", content=as_bytes(pictures[number])).json()
            assert (f"set/{number}" in " ".join(found["notes"])) == known and len(found["hits"]) == 3


def test_no_filter_of_a_search_reaches_beyond_the_filter_on_serving(make_index, tiny_features):
    app = search_app(Collection(make_index(), 3, "dx == 'eczema'"), tiny_features, "")
    with TestClient(app, base_url="http://localhost") as client:
        beyond = {"image_id": "set/0", "where": "dx == 'eczema') or (dx == 'scabies'"}
        assert client.get("/api/search", params=beyond).status_code == 422
        remark = {"image_id": "set/0", "where": "dx == 'eczema' # a remark"}
        assert client.get("/api/search", params=remark).status_code == 200
        told = client.get("/api/search", params={"image_id": "set/0", "where": "image_id == 'set/11x'"}).text
        assert "did you mean 'set/" in told and "'set/11'" not in told, "set/11 is not served"
        assert "scabies" not in client.get("/").text


def test_without_the_encoder_images_can_still_be_searched_from(make_index, pictures, as_bytes):
    app = search_app(Collection(make_index(), 3), None, "The encoder is out of reach.")
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/similar", params={"image_id": "set/0"}).status_code == 200
        answer = client.post("/api/search", content=as_bytes(pictures[0]))
        assert answer.status_code == 404 and "out of reach" in answer.json()["detail"]
        assert "out of reach" in client.get("/").text


def test_the_openapi_document_describes_the_api_and_nothing_else(client):
    assert set(client.get("/openapi.json").json()["paths"]) == {"/api/health", "/api/search", "/api/cases/{case_id}"}


def test_a_method_that_an_address_does_not_have_is_told_which_it_has(client):
    for address, methods in (("/api/search", "GET, POST"), ("/api/health", "GET"), ("/similar", "GET, POST")):
        answer = client.delete(address)
        assert answer.status_code == 405 and answer.headers["allow"] == methods


def test_an_unknown_parameter_of_the_api_names_the_nearest(client, pictures, as_bytes):
    for address, told in (
        ("/api/search?image_id=set/0&min_similarty=1", "did you mean 'min_similarity'?"),
        ("/api/search?image_id=set/0&crop=0,0,1,1", "no parameter 'crop': choose from"),
        ("/api/health?k=1", "there are none here"),
        ("/api/cases/set/p1?where=x", "there are none here"),
    ):
        answer = client.get(address)
        assert answer.status_code == 422 and told in answer.json()["detail"]
    answer = client.post("/api/search?kk=3", content=as_bytes(pictures[0]))
    assert answer.status_code == 422 and "did you mean 'k'?" in answer.json()["detail"]


def test_a_wrong_filter_of_the_api_names_the_nearest_column_and_value(client):
    for where, told in (("dxx == 'eczema'", "did you mean 'dx'?"), ("dx == 'eczma'", "did you mean 'eczema'?")):
        answer = client.get("/api/search", params={"image_id": "set/0", "where": where})
        assert answer.status_code == 422 and told in answer.json()["detail"] and "--where" not in answer.text
