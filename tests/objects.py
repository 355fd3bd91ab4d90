"""Object storage for the tests: moto's S3 server in this process, which counts the requests.

It does one after the other, and whole ones only, as S3 does and moto alone does not.
"""

from __future__ import annotations

import io
import os
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Server:
    """An S3 server with one bucket.

    Attributes:
        environment: What a process needs in its environment to get there.
        requests: Method and path of each request, in the order in which they came.
    """

    environment: dict[str, str]
    requests: list[str] = field(default_factory=list)

    def use(self) -> None:
        """Let this process, a child of the tests, use the server."""
        os.environ.update(self.environment)


@contextmanager
def s3_server() -> Iterator[Server]:
    """Run a server on a free port, with the bucket ``bucket``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    app = DomainDispatcherApplication(create_backend_app)
    requests: list[str] = []
    one_at_a_time = threading.Lock()

    def served(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # who sent it was killed; moto would store the half of it
            start("400 Bad Request", [])
            return []
        with one_at_a_time:  # two that create one name would both find that there is none
            requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}")
            return [b"".join(app({**environ, "wsgi.input": io.BytesIO(body)}, start))]

    web = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{web.server_port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    try:
        # What an earlier server of this process held is still there.
        urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"").close()
        made = urllib.request.Request(
            f"{endpoint}/bucket", method="PUT", headers={"Authorization": AUTHORIZED}
        )
        urllib.request.urlopen(made).close()
        requests.clear()
        yield Server(environment, requests)
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


AUTHORIZED = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)
