"""A registry on object storage, by obstore: S3 and what speaks its protocol, Google's, Azure's, or this process.

An object is whole from its first moment on, and ``put`` with the mode ``create`` gives a name to one of any number
of writers. A folder of files is claimed by its first file: whoever has that has all of it. Nothing is ever
removed: a request that failed may still be carried out, so what is left of one stays an orphan, which nobody sees.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from dspy_nb.core.arguments import user_path
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.storage.files import LARGEST_FILE
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.place import Address, Place
from dspy_nb.core.text import one_line, value_text

SCHEMES: Final = ("s3", "gs", "az", "memory")
MARKER: Final = "registry"
"""The object that says that there is a registry, and tries out whether there can be one."""

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*(?:/[A-Za-z0-9][A-Za-z0-9._=-]*)*", re.ASCII)
_METADATA: Final = "169.254.169.254"
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
_WRITER: Final = "dspynbwriter"  # Azure knows no other names of metadata
_RETRIES: Final = 5
_PATIENCE: Final = timedelta(seconds=30)

_in_this_process: dict[str, Any] = {}


class Objects:
    """The storage of addresses; ``Storage`` says what each method does."""

    def __init__(self, url: str, store: Any) -> None:
        """Read and write below ``url`` what a store of obstore holds."""
        self._url, self._start, self._store = url, len(url) + 1, store
        self._sound = False

    def read(self, place: Any, *, links: bool = False) -> bytes:
        """Return what an object holds."""
        with _explained():
            found = self._store.get(self._key(place))
            if found.meta["size"] > LARGEST_FILE:
                raise Corrupt(f"{place} has {found.meta['size']:,} bytes: more than the registry ever writes")
            return bytes(found.bytes())

    def list(self, folder: Any, *, signed: bool = False) -> dict[str, tuple[int | str, ...]]:
        """Return the names right below a folder, each with its signature: one request for a thousand names."""
        with _explained():
            found = self._store.list_with_delimiter(self._key(folder))
        names = {name.rstrip("/").rpartition("/")[2]: () for name in found["common_prefixes"]}
        return names | {meta["path"].rpartition("/")[2]: _signature(meta) for meta in found["objects"]}

    def stat(self, place: Any) -> tuple[int | str, ...] | None:
        """Return the signature of an object, ``None`` if there is none."""
        with _explained():
            try:
                return _signature(self._store.head(self._key(place)))
            except FileNotFoundError:
                return None

    def exists(self, place: Any) -> bool:
        """Return whether there is an object of that name, or one below it."""
        if self.stat(place) is not None:
            return True
        with _explained():
            return any(self._store.list(self._key(place), chunk_size=1))

    def create(self, place: Any, content: bytes, before: Unflushed, name: Unflushed | None = None) -> bool:
        """Create an object, put-if-absent."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        key, attributes = self._key(place), {_WRITER: uuid.uuid4().hex}
        with _explained():
            try:
                self._store.put(key, content, mode="create", attributes=attributes)
            except BaseError as error:
                # It may be ours all the same: the answer was lost, and the request made again or given up.
                with contextlib.suppress(BaseError, FileNotFoundError):
                    if self._store.get(key).attributes.get(_WRITER) == attributes[_WRITER]:
                        return True
                if not isinstance(error, AlreadyExistsError):
                    raise
                return False
        return True

    def add_folder(self, folder: Any, files: Mapping[str, bytes], unflushed: Unflushed) -> bool:
        """Write a folder of files once; the one that comes first by its name claims it."""
        return all(self.create(folder / name, files[name], unflushed) for name in sorted(files))

    def update(self, place: Any, new: bytes | Callable[[bytes], bytes | None]) -> None:
        """Write an object anew; readers see the old one or the new one."""
        content = new if isinstance(new, bytes) else new(self._held(place))
        if content is not None:
            with _explained():
                self._store.put(self._key(place), content, use_multipart=False)

    def look(self) -> bool:
        """Return whether there is anything of a registry.

        Raises:
            InputError: It cannot be reached: no such bucket, no credentials, or others.
        """
        try:
            return bool(self.list(self._url))
        except OSError as error:
            raise InputError(f"the registry {self._url} cannot be reached: {error.strerror}") from error

    def check_writes(self) -> None:
        """Check, once, that a registry can be written: a name is asked for twice, and must be refused then.

        Raises:
            InputError: It cannot, or the server gives a name to more than one.
        """
        if self._sound:
            return
        try:
            with Unflushed() as nothing:
                marker = f"{self._url}/{MARKER}"
                twice = self.create(marker, b"", nothing) and self.create(marker, b"", nothing)
        except OSError as error:
            raise InputError(f"the registry {self._url} cannot be written: {error.strerror}") from error
        if twice:
            words = (
                "its server overwrites what is there, and a registry needs conditional writes (If-None-Match)"
            )
            raise InputError(f"{self._url} cannot hold a registry: {words}")
        self._sound = True

    def _held(self, place: Any) -> bytes:
        try:
            return self.read(place)
        except FileNotFoundError:
            return b""

    def _key(self, place: Any) -> str:
        return str(place)[self._start :]


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what obstore raises into an ``OSError``, which is what storage raises."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _reason(error)) from error
    except BaseError as error:
        raise OSError(errno.EIO, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Return what the server says, else what obstore does, without its own view of the request."""
    text = str(error)
    if _METADATA in text:  # where a machine in a cloud would have some
        return "no credentials were found"
    found = re.search("<Message>([^<]+)</Message>", text)
    line = text.partition("\n")[0]
    return one_line(found[1] if found else line.partition(" - ")[2] or line, 200)


def _signature(meta: Mapping[str, Any]) -> tuple[int | str, ...]:
    return str(meta["e_tag"]), meta["size"]


def open_root(root: str | os.PathLike[str]) -> Place:
    """Return the place of a registry: a folder, or what a URL names on object storage.

    Args:
        root: A path, with ``~`` as the user's home, or ``s3://bucket/prefix``, ``gs://bucket/prefix``,
            ``az://container/prefix``, or ``memory://name``, which this process forgets when it ends. Credentials
            and the rest are where the provider's tools look for them, such as ``AWS_ACCESS_KEY_ID``.

    Raises:
        InputError: It is neither, or the extra ``object-store`` is not installed.
    """
    found = _URL.fullmatch(root) if isinstance(root, str) else None
    if found is None:
        if isinstance(root, str) and (scheme := root.partition(":")[0].lower()) in SCHEMES and ":" in root:
            raise InputError(
                f"a registry on object storage is {scheme}://bucket/prefix, got {value_text(root, 80)}"
            )
        return user_path("the registry", root, "folder").absolute()
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"a registry cannot be at {scheme}:// : use a folder, or one of {known}")
    if not _PREFIX.fullmatch(rest):
        words = "letters, digits, '.', '_', '=' and '-', without keys"
        raise InputError(f"a registry on object storage is {scheme}://bucket/prefix, of {words}")
    url = f"{scheme}://{rest}"
    return Address(url, Objects(url, _open_store(scheme, url)))


def _open_store(scheme: str, url: str) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url
    except ImportError:
        words = f"a registry at {scheme}:// needs the extra object-store"
        raise InputError(f"{words}: pip install 'dspy-nb[object-store]'") from None
    if scheme == "memory":
        return _in_this_process.setdefault(url, MemoryStore())
    if scheme == "s3":
        _check_endpoints()
    try:
        return from_url(url, retry_config={"max_retries": _RETRIES, "retry_timeout": _PATIENCE})
    except (BaseError, ValueError) as error:
        raise InputError(f"{url} cannot be opened: {_reason(error)}") from error


def _check_endpoints() -> None:
    """Check the addresses of servers in the environment, which obstore takes as they are."""
    for name in _ENDPOINTS:
        value = os.environ.get(name) or "https://"
        if not re.match("https?://", value):
            raise InputError(f"{name} is {one_line(value, 80)!r}: write it as https://host")
        if value.startswith("http:") and os.environ.get("AWS_ALLOW_HTTP", "").lower() not in ("true", "1"):
            raise InputError(
                f"{name} is {one_line(value, 80)}, without encryption: AWS_ALLOW_HTTP=true allows it"
            )


def local_folder(root: Place) -> Path:
    """Return the folder for what of a registry stays on this machine, its traffic: the registry's own on a disk."""
    if isinstance(root, Path):
        return root
    if root.url.startswith("memory:"):
        return _temporary_folder() / _name(root)
    from platformdirs import user_data_path

    return user_data_path("dspy-nb") / "registries" / _name(root)


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dspy-nb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _name(root: Address) -> str:
    return quote(root.url, safe="")
