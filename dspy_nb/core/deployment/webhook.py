"""Where alerts are posted to: an address that is checked when it is set, and one exchange with one deadline."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

from dspy_nb.core.errors import InputError, RegistryError
from dspy_nb.core.text import error_text


def check_webhook(address: object) -> str:
    """Return an address that alerts can be posted to.

    Raises:
        InputError: It is none. The message does not repeat it: such addresses hold secrets.
    """
    import httpx

    wanted = "webhook must be an address such as https://host/path"
    if not isinstance(address, str):
        raise InputError(f"{wanted}, not a {type(address).__name__}")
    if any(character.isspace() or not character.isprintable() for character in address):
        raise InputError(f"{wanted}, without spaces and control characters")
    try:
        url = httpx.URL(address)
        host = url.raw_host.decode("ascii")
    except Exception:  # what the parts of an address may raise
        raise InputError(f"{wanted}; this one cannot be read") from None
    if url.scheme not in ("http", "https"):
        raise InputError(f"{wanted}; this one begins with neither http:// nor https://")
    if not host or not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        raise InputError(f"{wanted}; this one has no valid host")
    if url.port is not None and not 0 < url.port < 65536:
        raise InputError(f"{wanted}; this one has no valid port")
    return address


def post(address: str, body: dict[str, Any], timeout_s: float) -> None:
    """Post ``body`` as JSON, within ``timeout_s`` from the connection to the answer.

    Only an answer of 2xx confirms it. Redirects are not followed, and the text of the answer is not read.

    Raises:
        RegistryError: It was not confirmed; the message names scheme and host of the address alone.
    """
    import httpx

    url = httpx.URL(address)
    streams: list[Any] = []
    over = threading.Event()

    def opened(_: str, info: dict[str, Any]) -> None:
        streams.append(info.get("return_value"))
        if over.is_set():  # the connection came later than the end of the time
            _shut_down(streams)

    def end() -> None:
        over.set()
        _shut_down(streams)

    request = httpx.Request(
        "POST",
        url,
        content=json.dumps(body, allow_nan=False).encode(),
        headers={"Content-Type": "application/json"},
        extensions={"timeout": httpx.Timeout(timeout_s).as_dict(), "trace": opened},
    )
    if url.userinfo:
        request = next(httpx.BasicAuth(url.username, url.password).sync_auth_flow(request))
    place = f"{url.scheme}://{url.netloc.decode()}"
    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    try:
        # The transport alone: a client would log the whole address, and a part of it is the secret.
        with httpx.HTTPTransport(proxy=_proxy_of(url)) as transport:
            timer.start()  # only now: to read the certificates of this machine takes longer than many an exchange
            answer = transport.handle_request(request)
            answer.close()
    except Exception as error:
        # What a server says may repeat the address; why there is no connection is said on this side.
        why = error_text(error, 200) if isinstance(error, httpx.ConnectError) else type(error).__name__
        raise RegistryError(f"{why}, at {place}") from None
    finally:
        timer.cancel()
    if not answer.is_success:
        hint = ", and redirects are not followed" if answer.is_redirect else ""
        raise RegistryError(f"HTTP Error {answer.status_code} from {place}{hint}")


def _shut_down(streams: list[Any]) -> None:
    """End an exchange that takes too long: whoever waits for these connections is told that they have ended."""
    for stream in tuple(streams):
        if hasattr(stream, "get_extra_info"):
            with contextlib.suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _proxy_of(url: Any) -> str | None:
    """Return the proxy that the environment names for an address, if there is one."""
    from urllib.request import getproxies, proxy_bypass

    known = getproxies()
    proxy = known.get(url.scheme) or known.get("all")
    if not proxy or proxy_bypass(url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
