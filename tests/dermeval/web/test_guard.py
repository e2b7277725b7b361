"""Who may see the pages: this machine's own names, or whoever knows the token; never data that may not be passed on."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="the test client needs httpx")

from fastapi.testclient import TestClient

from dermeval.web.collection import Collection
from dermeval.web.guard import HEADERS, is_loopback
from dermeval.web.options import ServeOptions
from dermeval.web.serve import search_app, serve
from dermeval.web.server import choose_token, listen
from dermssl.errors import InputError
from dermssl.licences import notice


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:8765", True),
        ("localhost:19", True),
        ("LOCALHOST", True),
        ("box.localhost:1", True),
        ("[::1]:8765", True),
        ("127.8.9.1", True),
        ("evil.example:8765", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.0.3:8765", False),
        ("", False),
        ("::::", False),
    ],
)
def test_a_loopback_name_is_known_by_any_port(host, local):
    assert is_loopback(host) == local


@pytest.fixture
def app(make_index, tiny_features):
    return lambda token=None: search_app(Collection(make_index(), 3), tiny_features, "", token)


def test_another_name_is_refused_for_every_page(app):
    with TestClient(app(), base_url="http://evil.example") as client:
        for path in ("/", "/image?id=set/0", "/api/search?image_id=set/0", "/search.js", "/openapi.json", "/none"):
            assert client.get(path).status_code == 403
        assert client.post("/api/search", content=b"x").status_code == 403


def test_with_a_token_only_who_knows_it_is_answered_under_any_name(app):
    with TestClient(app("secret"), base_url="http://box.example", follow_redirects=False) as client:
        assert client.get("/image?id=set/0").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/", headers={"Authorization": "Bearer secret"}).status_code == 200
        opened = client.get("/?token=secret")
        assert opened.status_code == 303 and "HttpOnly" in opened.headers["set-cookie"]
        assert client.get("/").status_code == 200  # by the cookie


@pytest.mark.parametrize("path", ["/", "/image?id=set/0", "/none", "/api/search?image_id=none", "/api/search"])
def test_every_answer_carries_the_headers(app, path):
    with TestClient(app(), base_url="http://localhost") as client:
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_other_addresses_are_refused_for_data_that_may_not_be_passed_on():
    bound = [notice("scin", "SCIN", "", False)]
    free = [notice("ham", "CC-BY-NC-4.0", "", False)]
    assert choose_token("127.0.0.1", bound, None) is None
    assert choose_token("127.0.0.1", bound, "mine") == "mine"
    with pytest.raises(InputError, match="images of scin to other machines, which their licence forbids"):
        choose_token("0.0.0.0", bound, None)
    with pytest.raises(InputError, match=r"no licence of mine is recorded, which counts as one that forbids it"):
        choose_token("0.0.0.0", [notice("mine", "unknown", "", False)], None)
    assert len(choose_token("0.0.0.0", free, None)) > 20
    assert choose_token("0.0.0.0", free, "mine") == "mine"


def test_the_strictest_notice_counts_even_where_the_index_claims_another(make_index, tmp_path):
    found = make_index(licence="PASSION")
    path = found.folder / "index.json"
    lenient = notice("set", "CC0-1.0", "", False)
    info = json.loads(path.read_text()) | {"licences": [lenient]}
    path.write_text(json.dumps(info))
    with pytest.raises(InputError, match="licence forbids"):
        serve(ServeOptions(index=str(found.folder), host="0.0.0.0"))


@pytest.mark.parametrize("host", ["no such host", "ü" * 70, "a" * 300, ""])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(InputError, match=r"no address of this machine|licence"):
        choose_token(host, [notice("x", "PASSION", "", False)], None)


def test_a_taken_port_is_told():
    with listen("127.0.0.1", 0) as sock:
        with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1"):
            listen("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(InputError, match="give another --port"):
        listen("127.0.0.1", 70_000)
