"""The review page: pictures, decisions that are saved at once, undo, and the rule by which one may stop."""

import cv2
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from dermeval.leaks.leaks import leaks
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.session import PairReview
from dermeval.web.review import review_app


@pytest.fixture
def session(make_dataset, draw_skin, tmp_path):
    """Five patients and a copy of one image, turned by a quarter, under another id."""
    images = [draw_skin(number) for number in range(5)]
    images.append(images[0].transpose(Image.Transpose.ROTATE_90))
    folder = make_dataset("set", images, ["p0", "p1", "p2", "p3", "p4", "c<0>"])
    leaks(LeaksOptions(str(tmp_path / "leaks"), [str(folder)], planted=0, workers=1, neighbours=3))
    return PairReview(tmp_path / "leaks")


@pytest.fixture
def client(session):
    with TestClient(review_app("leaks", [session]), base_url="http://127.0.0.1") as client:
        yield client


def saved(session) -> list[str]:
    file = session.folder / "decisions.csv"
    return pd.read_csv(file)["decision"].tolist() if file.is_file() else []


def test_the_page_has_its_script_and_no_other_source(client):
    page = client.get("/").text
    assert '<script src="/review.js"' in page and "http" not in page.split("<section>")[1].split("</section>")[0]
    assert client.get("/review.js").headers["content-type"].startswith("text/javascript")


def test_the_strongest_pair_comes_first_with_its_evidence_in_words(client, session):
    shown = client.get("/api/pair").json()
    assert [side["image"] for side in shown["sides"]] == ["set/0", "set/5"]
    assert shown["ranked_confirmed"] == session.table["confirmed"].sum() < shown["ranked"]
    assert shown["confirmed"] and any("turned by" in fact for fact in shown["facts"])


def test_the_second_picture_is_laid_on_the_first(client):
    def picture(part):
        data = client.get("/picture", params={"pair": 0, "which": part}).content
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)

    first, second, laid = (picture(part) for part in ("first", "second", "laid"))
    inner = (slice(12, -12), slice(12, -12))
    assert np.abs(first - laid)[inner].mean() < 6 < np.abs(first - second)[inner].mean()


def test_a_decision_is_saved_at_once_and_undone(client, session):
    after = client.post("/api/decide", json={"pair": 0, "decision": "reject"}).json()
    assert saved(session) == ["reject"] and after["pair"] == 1 and after["counts"]["reject"] == 1
    assert client.post("/api/undo", json={}).json()["pair"] == 0 and saved(session) == []


def test_the_page_says_when_enough_were_rejected_in_a_row(client, monkeypatch):
    monkeypatch.setattr("dermeval.leaks.session.STOP_AFTER", 2)
    answers = [client.post("/api/decide", json={"pair": pair, "decision": "reject"}).json() for pair in (0, 1)]
    assert [answer["enough"] for answer in answers] == [False, True]


@pytest.mark.parametrize(
    ("address", "given", "status"),
    [
        ("/api/decide", {"pair": 99, "decision": "accept"}, 404),
        ("/api/decide", {"pair": -1, "decision": "accept"}, 404),
        ("/api/decide", {"pair": 0, "decision": "perhaps"}, 422),
        ("/api/decide", {"pair": 0, "decision": "accept", "prt": 1}, 422),
        ("/api/pair?par=3", None, 422),
        ("/picture?pair=99&which=first", None, 404),
        ("/picture?pair=0&which=../../x", None, 422),
    ],
)
def test_a_wrong_pair_or_decision_is_refused_and_nothing_is_saved(client, session, address, given, status):
    answer = client.post(address, json=given) if given else client.get(address)
    assert answer.status_code == status and saved(session) == []


def test_a_form_of_another_site_cannot_decide(client, session):
    form = client.post(
        "/api/decide", content='{"pair": 0, "decision": "accept"}', headers={"content-type": "text/plain"}
    )
    assert form.status_code == 422 and saved(session) == []
    assert client.get("/api/pair", headers={"host": "evil.example"}).status_code == 403
