"""A running server under malformed requests, clients that say nothing, and more searches than it can take."""

import asyncio
import contextlib
import random
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="needs httpx")

from dermeval.web import searches as module  # noqa: E402
from dermeval.web.collection import Collection  # noqa: E402
from dermeval.web.serve import search_app  # noqa: E402
from dermeval.web.server import listen, make_server  # noqa: E402
from dermeval.web.workers import QueueFull, Workers  # noqa: E402


@pytest.fixture
def app(make_index, tiny_features):
    return search_app(Collection(make_index(), 3), tiny_features, "")


@pytest.fixture
def port(app):
    sock = listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    yield sock.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def send_raw(port: int, content: bytes) -> bytes:
    """What the server answers to some bytes; empty where it only closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        try:
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(100)
        except ConnectionError:
            return b""


def malformed(number: int) -> bytes:
    """One broken, hostile or senseless request, the same for the same number."""
    draw = random.Random(number)
    noise = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 200)))
    host = b"Host: 127.0.0.1\r\n"
    return draw.choice(
        [
            noise,
            b"GET / HTTP/9.9\r\n" + host + b"\r\n",
            b"GET /image?id=" + noise.hex().encode() + b" HTTP/1.1\r\n" + host + b"\r\n",
            b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + host + b"\r\n",
            b"GET /api/cases/" + b"%00%ff../" * 20 + b" HTTP/1.1\r\n" + host + b"\r\n",
            b"GET /api/search?image_id=set/0&where=" + b"(" * 300 + b" HTTP/1.1\r\n" + host + b"\r\n",
            b"GET /similar?image_id=set/0&min.age=" + noise.hex().encode() + b" HTTP/1.1\r\n" + host + b"\r\n",
            b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
            b"POST /api/search HTTP/1.1\r\n" + host + b"Content-Length: 99999999999\r\n\r\n" + noise,
            b"POST /api/search HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n\r\n" + noise,
            b"POST /api/search HTTP/1.1\r\n" + host + b"Content-Length: 10\r\n\r\n" + noise[:5],
            b"POST /api/search HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + noise,
            b"POST /similar?crop=nan,0,1,1 HTTP/1.1\r\n" + host + b"Content-Length: 3\r\n\r\n\xff\xd8\xff",
            b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"BREW / HTTP/1.1\r\n" + host + b"\r\n",
        ]
    )


def test_a_thousand_malformed_requests_leave_the_server_answering(port):
    for number in range(1000):
        first = send_raw(port, malformed(number)).split(b" ")
        assert len(first) < 2 or first[1] != b"500", malformed(number)
    start = time.perf_counter()
    assert httpx.get(f"http://127.0.0.1:{port}/api/search?image_id=set/4").status_code == 200
    assert time.perf_counter() - start < 5


def test_clients_that_say_nothing_delay_nobody(port):
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for number, sock in enumerate(silent):
        if number % 2:
            sock.sendall(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nabc")
    answer = httpx.get(f"http://127.0.0.1:{port}/api/search?image_id=set/4", timeout=5)
    assert answer.status_code == 200
    for sock in silent:
        sock.close()


def test_a_full_queue_answers_503_and_forgets_nothing_that_runs():
    async def fill() -> list:
        workers, gate = Workers(threads=1, waiting=1), threading.Event()
        running = [asyncio.create_task(workers.run(gate.wait, 5)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await workers.run(int)
        running[1].cancel()  # the client went away
        gate.set()
        await running[0]
        for _ in range(1000):
            if not workers.busy:
                break
            await asyncio.sleep(0.001)
        return [workers.busy, await workers.run(int)]

    assert asyncio.run(fill()) == [0, 0]


def test_photos_that_wait_do_not_hold_up_searches_from_images(port, pictures, as_bytes, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(module, "decode_photo", lambda *given: gate.wait(10) and pytest.fail("not reached"))
    slow = threading.Thread(
        target=lambda: httpx.post(f"http://127.0.0.1:{port}/api/search", content=as_bytes(pictures[0]), timeout=20)
    )
    slow.start()
    answer = httpx.get(f"http://127.0.0.1:{port}/api/search?image_id=set/4", timeout=5)
    assert answer.status_code == 200
    monkeypatch.undo()
    gate.set()
    slow.join(20)


def test_schemathesis_finds_no_answer_that_the_api_does_not_describe(app, pictures, as_bytes):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    from schemathesis.generation import GenerationMode

    filters = hypothesis.strategies.sampled_from(
        ["", "dx == 'eczema'", "not (width < 5 or dx in ('scabies', 'eczema'))"]
    )
    schemathesis.openapi.format("filter", filters)
    photos = hypothesis.strategies.sampled_from([as_bytes(picture) for picture in pictures[:3]])
    schemathesis.openapi.media_type("application/octet-stream", photos)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    few = hypothesis.settings(
        max_examples=8, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None
    )
    checked = []

    def check(case):
        case.call_and_validate(headers={"Host": "localhost"})
        checked.append(case)

    for operation in schema.get_all_operations():
        for mode in GenerationMode:
            with contextlib.suppress(
                hypothesis.errors.Unsatisfiable
            ):  # nothing is wrong for an operation that takes nothing
                few(hypothesis.given(case=operation.ok().as_strategy(generation_mode=mode))(check))()
    assert len(checked) > 40
