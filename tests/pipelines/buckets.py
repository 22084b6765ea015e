"""A bucket on this machine, whose server writes down what it was asked: the costs of reading are counts."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock


@dataclass
class Counter:
    """A WSGI application before another: requests by method and path, and the bytes of their answers."""

    inner: Callable[..., Iterable[bytes]]
    asked: list[tuple[str, str]] = field(default_factory=list)
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        answer = list(self.inner(environ, start_response))
        with self.lock:
            kind = "LIST" if "list-type" in environ["QUERY_STRING"] else environ["REQUEST_METHOD"]
            self.asked.append((kind, environ["PATH_INFO"]))
            self.bytes += sum(map(len, answer)) if kind == "GET" else 0
        return answer

    def reset(self) -> None:
        """Nothing was asked."""
        self.asked, self.bytes = [], 0

    def count(self, kind: str) -> int:
        """Requests of a kind: GET, HEAD, PUT or LIST."""
        return sum(one == kind for one, _ in self.asked)


@contextmanager
def counted_bucket(name: str) -> Iterator[tuple[str, Counter]]:
    """A bucket's address, with the environment that leads to it, and who counts."""
    import boto3
    import moto.server
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counter = Counter(moto.server.DomainDispatcherApplication(moto.server.create_backend_app))
    running = make_server("127.0.0.1", 0, counter, threaded=True)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{running.server_port}"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    with mock.patch.dict(
        os.environ, {**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": address}
    ):
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket=name)
        try:
            yield f"s3://{name}", counter
        finally:
            running.shutdown()
            thread.join()
