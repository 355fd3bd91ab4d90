"""Alerts arrive: within one deadline, at the address that was set and no other, once at least."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.deployment import alerts, webhook
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.health import HealthReport
from dspy_nb.core.deployment.objectives import MonitorSettings, load_settings
from dspy_nb.core.errors import DspyNbError, InputError, RegistryError
from dspy_nb.core.registry.registry import Registry
from tests.children import Children
from tests.moments import HANG_S, wait_for_workers
from tests.registry_samples import EVALUATION, registry_of

pytestmark = pytest.mark.usefixtures("no_flush")

SOON_S = 0.2


@pytest.fixture
def degraded(tmp_path: Path) -> Environment:
    environment = registry_of(tmp_path / "registry", 2).environment("staging")
    for number in range(2):
        environment.deploy(f"m@1.{number}.0", evidence=EVALUATION)
    for _ in range(60):
        environment.observe(False)
    return environment


def again(environment: Environment) -> Environment:
    """Return the environment as another process has it."""
    return Registry(environment.registry.root).environment(environment.name)


class Receiver(NamedTuple):
    """What received a POST, and how it answers: with a status, or by its own function."""

    address: str
    received: list[dict[str, Any]]
    asked: list[str]
    answers: list[int | Callable[[BaseHTTPRequestHandler], None]]
    over: threading.Event


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A web server on this machine; the last of its answers is given again and again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.asked.append(f"{self.command} {self.path}")
            made.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = made.answers[0] if len(made.answers) == 1 else made.answers.pop(0)
            if callable(answer):
                answer(self)
                return
            self.send_response(answer)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            made.asked.append(f"{self.command} {self.path}")
            self.send_error(200)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Receiver(f"http://127.0.0.1:{server.server_port}", [], [], [200], threading.Event())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


# -- one deadline -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begins_with", [b"", b"HTTP/1.1 200 OK\r\nx-a: "])
def test_a_receiver_that_drips_is_given_up_in_time(
    degraded: Environment, receiver: Receiver, begins_with: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    given_up = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begins_with or b"H")
        try:
            while not receiver.over.wait(0.01):
                handler.wfile.write(b"T")
        except OSError:
            given_up.set()

    receiver.answers[:] = [drip]
    degraded.check_health(MonitorSettings(webhook=f"{receiver.address}/a", timeout_s=SOON_S))
    assert given_up.wait(HANG_S)  # the connection is closed, not left to itself
    assert "the webhook was not reached" in caplog.text
    wait_for_workers("dspy-nb-alert")


def test_a_connection_that_comes_after_the_deadline_is_given_up_too(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AtOnce(threading.Timer):
        def start(self) -> None:
            self.function(*self.args)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            while not receiver.over.wait(0.01):
                handler.wfile.write(b"T")

    receiver.answers[:] = [drip]
    monkeypatch.setattr(webhook.threading, "Timer", AtOnce)
    with pytest.raises(RegistryError, match=r"at http://127\.0\.0\.1"):
        webhook.post(f"{receiver.address}/a", {}, HANG_S)


def test_a_receiver_that_never_answers_is_given_up_in_time(
    degraded: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        degraded.check_health(MonitorSettings(webhook=address, timeout_s=SOON_S))
    assert "the webhook was not reached" in caplog.text


def test_a_search_for_the_address_that_hangs_is_given_up_in_time(
    degraded: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: over.wait(HANG_S) and [])
    degraded.check_health(MonitorSettings(webhook="http://receiver.example/a", timeout_s=SOON_S))
    assert "the webhook was not reached: not done within 0.2 s" in caplog.text
    over.set()
    wait_for_workers("dspy-nb-alert")


# -- what confirms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 404, 500, 503])
def test_only_success_confirms_and_no_redirect_is_followed(
    degraded: Environment, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers[:] = [status, 200]
    settings = MonitorSettings(webhook=f"{receiver.address}/a", timeout_s=HANG_S)
    degraded.check_health(settings)
    assert receiver.asked == ["POST /a"]
    assert f"the webhook was not reached: HTTP Error {status} from {receiver.address}" in caplog.text
    assert ("redirects are not followed" in caplog.text) == (status < 400)
    for _ in range(2):
        again(degraded).check_health(settings)
    assert receiver.asked == ["POST /a", "POST /a"]
    first, second = receiver.received
    assert first == second
    assert first["id"]


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_success_confirms(degraded: Environment, receiver: Receiver, status: int) -> None:
    receiver.answers[:] = [status]
    for _ in range(2):
        degraded.check_health(MonitorSettings(webhook=f"{receiver.address}/a", timeout_s=HANG_S))
    assert len(receiver.received) == 1


# -- once at least ----------------------------------------------------------------------------------------------


def dying(root: Path, address: str, where: str) -> None:
    os.fsync = lambda _: None

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    environment = Registry(root).environment("staging")
    setattr(
        *{"telling": (alerts, "post"), "rolling back": (environment, "roll_back_on_evidence")}[where], die
    )
    environment.check_health(MonitorSettings(webhook=address, rollback=True, timeout_s=HANG_S))


@pytest.mark.parametrize("where", ["telling", "rolling back"])
def test_what_a_process_that_was_killed_had_to_tell_is_told_by_the_next_look(
    degraded: Environment, receiver: Receiver, children: Children, where: str
) -> None:
    address = f"{receiver.address}/a"
    child = children(dying, degraded.registry.root, address, where)
    assert child.status == -signal.SIGKILL
    assert receiver.received == []
    report = degraded.check_health(MonitorSettings(webhook=address, rollback=True, timeout_s=HANG_S))
    assert (report.ref, report.alerts) == ("m@1.0.0" if where == "telling" else "m@1.1.0", ())
    (told,) = receiver.received
    assert (told["ref"], told["alerts"]) == ("m@1.1.0", ["quality"])
    assert (told["rolled_back"] is not None) == (where == "telling")
    assert degraded.history()[-1].action == "rollback"


def test_a_look_that_fails_tells_what_is_left_all_the_same(degraded: Environment, receiver: Receiver) -> None:
    receiver.answers[:] = [500, 200]
    settings = MonitorSettings(webhook=f"{receiver.address}/a", timeout_s=HANG_S)
    degraded.check_health(settings)
    with pytest.raises(InputError, match="nothing to hold"):
        degraded.check_health(replace(settings, margin=1))
    assert len(receiver.received) == 2


def test_a_function_that_raises_is_called_again_with_the_same_report(degraded: Environment) -> None:
    told: list[HealthReport] = []

    def fail_once(report: HealthReport) -> None:
        told.append(report)
        if len(told) == 1:
            raise SystemExit

    for _ in range(3):
        again(degraded).check_health(MonitorSettings(timeout_s=HANG_S), on_alert=fail_once)
    first, second = told
    assert first == second
    assert first["quality"].bins
    assert first.alert_id


def test_a_function_that_hangs_holds_up_nobody_and_is_not_called_again_meanwhile(
    degraded: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    over, told = threading.Event(), []

    def hang(report: HealthReport) -> None:
        told.append(report)
        over.wait(HANG_S)

    for _ in range(3):
        again(degraded).check_health(MonitorSettings(timeout_s=SOON_S), on_alert=hang)
    assert len(told) == 1
    assert "on_alert failed: not done within 0.2 s" in caplog.text
    over.set()
    wait_for_workers("dspy-nb-alert")
    again(degraded).check_health(on_alert=hang)  # it was done in the end, late
    assert len(told) == 1


def test_while_one_process_tells_it_another_does_not(degraded: Environment, receiver: Receiver) -> None:
    settings = MonitorSettings(webhook=f"{receiver.address}/a", timeout_s=HANG_S)
    other = again(degraded)

    def look_meanwhile(handler: BaseHTTPRequestHandler) -> None:
        alerts._under_way.clear()  # another process does not know of the threads of this one
        other.check_health(settings)
        handler.send_response(200)
        handler.end_headers()

    receiver.answers[:] = [look_meanwhile]
    degraded.check_health(settings)
    assert len(receiver.received) == 1


# -- addresses --------------------------------------------------------------------------------------------------

SECRET = "T0KEN"


@pytest.mark.parametrize(
    "address",
    [
        f"ftp://host/{SECRET}", f"file:///{SECRET}", f"//host/{SECRET}", SECRET, "",
        f"http://:80/{SECRET}", f"http:///{SECRET}", f"http://ho st/{SECRET}", f" http://host/{SECRET}",
        f"http://host/{SECRET}\n", f"http://host/\x1b{SECRET}", f"http://[::1/{SECRET}", f"http://../{SECRET}",
        f"http://host:99999/{SECRET}", f"http://host:0/{SECRET}", f"http://user:{SECRET}@/", f"http://h:{SECRET}/",
        f"http://{'a' * 64}/{SECRET}", 7, [f"http://host/{SECRET}"], True,
    ],
)  # fmt: skip
def test_an_address_is_checked_when_it_is_set_and_not_repeated(address: Any) -> None:
    with pytest.raises(InputError, match="webhook must be an address such as https://host/path") as caught:
        MonitorSettings(webhook=address)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_part_of_an_address_that_may_be_secret_is_shown(
    degraded: Environment, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # of a client of httpx: the whole address
    host = receiver.address.removeprefix("http://")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    for place in (host, f"127.0.0.1:{nobody}"):
        settings = MonitorSettings(
            webhook=f"http://user:{SECRET}@{place}/{SECRET}?key={SECRET}", timeout_s=HANG_S
        )
        receiver.answers[:] = [lambda handler: handler.wfile.write(f"{SECRET} is no HTTP\r\n\r\n".encode())]
        degraded.check_health(settings)
        assert f"http://{place}" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in repr(settings)
    assert receiver.asked == [f"POST /{SECRET}?key={SECRET}"]


# -- config.toml ------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
)
NAMES = list(MonitorSettings.__dataclass_fields__)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES) | VALUES)
def test_whatever_a_table_holds_it_is_settings_or_refused(table: Any) -> None:
    with contextlib.suppress(InputError):
        MonitorSettings.from_table(table, "config.toml: monitor.staging")


@pytest.mark.parametrize("kind", ["folder", "fifo", "too large", "too many digits", "no text"])
def test_a_config_that_is_none_is_one_line(tmp_path: Path, kind: str) -> None:
    config = tmp_path / "config.toml"
    if kind == "folder":
        config.mkdir()
    elif kind == "fifo":
        os.mkfifo(config)
    elif kind == "too large":
        with config.open("wb") as file:
            file.truncate(2**40)
    else:
        config.write_bytes(b"\xff" if kind == "no text" else b"a = 1" + b"0" * 5000)
    with pytest.raises(DspyNbError, match=r"config\.toml") as caught:
        load_settings(config, "staging")
    assert "\n" not in str(caught.value)
