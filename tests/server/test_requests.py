"""What strangers may ask of the routes: limits, content types, origins, JSON of any form, over the real server."""

import contextlib
import http.client
import json
import threading
import time

import pytest

JSON = {"Content-Type": "application/json"}
ROUTES = ("/forget_me_not/tokens", "/forget_me_not/stop")


def ask(server, route, body=b"{}", headers=JSON, method="POST"):
    """(status, answer as JSON or None) of one request."""
    connection = http.client.HTTPConnection(server.url, timeout=600)
    with contextlib.closing(connection):
        connection.request(method, route, body, headers, encode_chunked=not isinstance(body, bytes))
        response = connection.getresponse()
        data = response.read()
    try:
        return response.status, json.loads(data)
    except ValueError:
        return response.status, None


def assert_refused(answer, status, words=""):
    assert answer[0] == status and answer[1]["error"].startswith("Expected") and words in answer[1]["error"], answer


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_another_content_type_is_refused(server, route, kind):
    assert_refused(
        ask(server, route, b'{"node": "1"}', {"Content-Type": kind} if kind else {}), 415, "application/json"
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_a_page_without_an_origin_of_its_own_is_refused(server, route, kind):
    status, _ = ask(server, route, b'{"node": "1"}', {"Origin": "null", "Content-Type": kind})
    assert status == (403 if kind == "application/json" else 415)


@pytest.mark.parametrize("route", ROUTES)
def test_the_hosts_own_origin_check_holds(server, route):
    assert ask(server, route, headers={**JSON, "Origin": "http://example.com"})[0] == 403
    assert ask(server, route, headers={**JSON, "Origin": f"http://{server.url}"})[0] == 200


@pytest.mark.parametrize("route", ROUTES)
def test_a_charset_beside_the_content_type_is_fine(server, route):
    assert ask(server, route, headers={"Content-Type": "application/json; charset=utf-8"})[0] == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"\x80", b"[]", b"null", b"3", b"[" * 60_000, b'{"a":' * 10_000, b"1" * 60_000, b'{"node": 3}',
        b'{"node": "\\ud800"}', b'{"node": "\\udfff x"}', '{"node": "é"}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_no_body_is_more_than_a_bad_request(server, route, body):
    assert_refused(ask(server, route, body), 400)


def test_surrogates_in_any_text_are_refused(server):
    for name in ("prompt", "phrase", "templates", "kind", "end_token"):
        assert_refused(ask(server, ROUTES[0], b'{"%s": "a \\ud83d b"}' % name.encode()), 400, "characters")
    assert ask(server, ROUTES[0], b'{"prompt": "a \\ud83d\\ude00 b"}')[0] == 200


@pytest.mark.parametrize("route", ROUTES)
def test_a_large_body_is_refused_before_it_is_read(server, route):
    large = json.dumps({"node": "1", "prompt": "x" * 100_000}).encode()
    assert_refused(ask(server, route, large), 413, "65,536 bytes")
    chunks = (large[i : i + 10_000] for i in range(0, len(large), 10_000))
    assert_refused(ask(server, route, chunks, {**JSON, "Transfer-Encoding": "chunked"}), 413)
    # told by the header alone: of this body nothing is ever sent
    connection = http.client.HTTPConnection(server.url, timeout=600)
    with contextlib.closing(connection):
        connection.putrequest("POST", route)
        for header in (*JSON.items(), ("Content-Length", str(10**12))):
            connection.putheader(*header)
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_thirty_megabytes_do_not_hold_the_server(server):
    started = time.monotonic()
    status, _ = ask(server, "/forget_me_not/stop", b"[" + b"[]," * 10_000_000 + b"[]]")
    assert status == 413 and time.monotonic() - started < 5


def test_many_phrases_in_a_long_prompt_are_a_sentence(server):
    phrases = "\n".join(str(i) for i in range(4000))
    for asked in ({"prompt": "a " * 9000, "phrase": phrases}, {"phrase": phrases}, {"prompt": "embedding:x " * 100}):
        assert_refused(ask(server, ROUTES[0], json.dumps(asked).encode()), 400, "64")


def test_the_list_of_patches_does_not_wait_for_tokens(server, patches):
    """Sixteen of the costliest questions at once: some are put off, and the list is there before they are answered."""
    asked = json.dumps({"prompt": "a b c d " * 1200, "phrase": "\n".join(f"c d a{i}" for i in range(64))}).encode()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server, ROUTES[0], asked))) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert ask(server, "/forget_me_not/patches", method="GET")[0] == 200
    before = len(answers)
    for thread in threads:
        thread.join()
    statuses = [status for status, _ in answers]
    assert before < 16 and set(statuses) == {200, 503}
    assert all("error" in answer for status, answer in answers if status == 503)
    assert ask(server, ROUTES[0], asked)[0] == 200
