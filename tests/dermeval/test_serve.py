"""The search page: same hits as `dermeval search`, on this machine only, and nothing of an upload is kept."""

import http.client
import io
import re
import threading
from urllib.parse import quote

import pytest

from dermeval.features.embed import embed
from dermeval.features.options import EmbedOptions
from dermeval.retrieval.index import index
from dermeval.retrieval.options import IndexOptions, SearchOptions, ServeOptions
from dermeval.retrieval.search import search
from dermeval.retrieval.serve import make_server
from dermssl.errors import InputError


@pytest.fixture
def make_index(make_dataset, draw_skin, tmp_path):
    """``make_index(licence)`` -> an index of 4 patients with two images each, by a random ResNet-18 at 32 px."""

    def make(licence="CC0-1.0"):
        images = [draw_skin(number) for number in range(8)]
        folder = make_dataset("set", images, [f"p{number // 2}" for number in range(8)], licence=licence)
        embeddings, out = str(tmp_path / "embeddings"), str(tmp_path / "index")
        embed(EmbedOptions(encoder="random:resnet18", data=[str(folder)], out=embeddings, image_size=32, workers=0))
        index(IndexOptions(embeddings=embeddings, out=out))
        return out

    return make


@pytest.fixture
def site(make_index):
    """A running server of that index, as a function ``ask(method, path, body, headers)`` -> status, type, body."""
    folder = make_index()
    server = make_server(ServeOptions(index=folder, port=0, k=3))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def ask(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheader("Content-Type"), content

    ask.folder = folder
    yield ask
    server.shutdown()
    server.server_close()
    thread.join()


def shown(page: bytes) -> list[str]:
    return re.findall(r'<img src="/image\?id=([^"]+)"', page.decode())


def form(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--cut\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n'
    body = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--cut--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=cut"}


def test_the_page_shows_the_hits_of_the_search_command(site):
    hits = search(SearchOptions(index=site.folder, image_id="set/4", k=3)).data["hits"]
    status, kind, page = site("GET", "/similar?id=" + quote("set/4", safe=""))
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert shown(page) == ["set/4", *[hit["image_id"] for hit in hits]]
    assert "set/5" not in shown(page)  # the query's own patient


def test_an_uploaded_photo_is_searched_for_and_not_kept(site, draw_skin, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    buffer = io.BytesIO()
    draw_skin(4).save(buffer, "PNG")
    status, _, page = site("POST", "/photo", *form("mine.png", buffer.getvalue()))
    assert status == 200
    assert "identical to set/4" in page.decode()
    assert len(shown(page)) == 3 and not {"set/4", "set/5"} & set(shown(page))
    assert not any((tmp_path / "uploads").iterdir())


def test_the_front_page_names_the_licence_and_offers_images(site):
    status, _, page = site("GET", "/")
    assert status == 200
    assert len(shown(page)) == 8
    assert "Drawn for a test." in page.decode()


def test_a_picture_is_the_stored_jpeg(site):
    status, kind, content = site("GET", "/image?id=set/0")
    assert (status, kind, content[:2]) == (200, "image/jpeg", b"\xff\xd8")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/similar?id=set/99", None, 400, "has no image 'set/99'"),
        ("GET", "/image?id=../dataset.json", None, 400, "no image"),
        ("GET", "/etc/passwd", None, 404, "no such page"),
        ("POST", "/photo", form("notes.jpg", b"no image at all"), 400, "notes.jpg: "),
        ("POST", "/photo", (b"", {"Content-Length": str(10**9)}), 413, "at most 64 MiB"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(site, method, path, body, status, words):
    answer = site(method, path, *(body or ()))
    assert answer[0] == status
    assert words in answer[2].decode() and "\n" not in answer[2].decode()


def test_another_sites_name_for_this_machine_reads_nothing(site):
    assert site("GET", "/image?id=set/0", None, {"Host": "elsewhere.example"})[0] == 403


def test_restricted_data_are_served_to_this_machine_only(make_index):
    with pytest.raises(InputError, match="show images of set to others, which their licence forbids"):
        make_server(ServeOptions(index=make_index("PASSION"), host="0.0.0.0", port=0))


def test_a_port_that_is_taken_is_refused(make_index):
    folder = make_index()
    with (
        make_server(ServeOptions(index=folder, port=0)) as first,
        pytest.raises(InputError, match="give another --port"),
    ):
        make_server(ServeOptions(index=folder, port=first.port))
