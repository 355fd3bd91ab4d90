"""Where a registry is: on a disk or on object storage, with the few things that it asks of either.

A place is a path, or the address of what is on object storage. Nothing that a registry relies on is ever
overwritten, so it needs little: to read, to list, and to create a file or a folder under a name that nobody has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from dspy_nb.core.storage.disk import DISK
from dspy_nb.core.storage.flushing import Unflushed

Signature: TypeAlias = tuple[int | str, ...]
"""Of a file: another one after any change."""


class Storage(Protocol):
    """What a registry needs; whatever fails raises ``OSError``."""

    def read(self, place: Place | str, *, links: bool = False) -> bytes:
        """Return what a file holds; ``links`` says whether it may be a link to one.

        Raises:
            FileNotFoundError: There is none.
            Corrupt: It is none of the registry's: a link, a folder, too large.
        """

    def list(self, folder: Place | str, *, signed: bool = False) -> dict[str, Signature]:
        """Return the names in a folder, files and folders; none if it is not there.

        With each stands its signature, if ``signed`` asks for it and it is a file, else an empty one.
        """

    def stat(self, place: Place | str) -> Signature | None:
        """Return the signature of a file, ``None`` if there is none."""

    def exists(self, place: Place | str) -> bool:
        """Return whether there is a file or a folder of that name."""

    def create(
        self, place: Place | str, content: bytes, before: Unflushed, name: Unflushed | None = None
    ) -> bool:
        """Create a file that is whole from its first moment on, put-if-absent.

        Args:
            place: Of the file; folders above it are made.
            content: Of the file.
            before: What has to be on a disk before the file has its name.
            name: Gets what has to be flushed before the name itself survives a power cut.

        Returns:
            False if the name is taken. Of any number of writers one gets it.
        """

    def add_folder(self, folder: Place, files: Mapping[str, bytes], unflushed: Unflushed) -> bool:
        """Write a folder of files once; what has to be flushed is added to ``unflushed``.

        Returns:
            False if the name is taken. Of any number of writers one gets it.
        """

    def update(self, place: Place, new: bytes | Callable[[bytes], bytes | None]) -> None:
        """Write a file anew that nobody relies on; a reader may see it half-written.

        Args:
            place: Of the file.
            new: What it is to hold; or a function that gets what it holds, nothing if there is none, and returns
                what it is to hold, or ``None`` to leave it.
        """


class RemoteStorage(Storage, Protocol):
    """Storage that may be out of reach."""

    def look(self) -> bool:
        """Return whether there is anything of a registry.

        Raises:
            InputError: It cannot be reached: no such bucket, no credentials, or others.
        """

    def check_writes(self) -> None:
        """Check, once, that a registry can be written there.

        Raises:
            InputError: It cannot.
        """


@dataclass(frozen=True)
class Address:
    """A place on object storage: what a path is on a disk, as far as a registry asks for it.

    Attributes:
        url: Of the place, without credentials.
        storage: What reads and writes there.
    """

    url: str
    storage: RemoteStorage = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, below: str) -> Address:
        return Address(f"{self.url}/{below}", self.storage)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Address:
        """The place that it is in."""
        return Address(self.url.rpartition("/")[0], self.storage)


Place: TypeAlias = Path | Address


def storage_of(place: Place) -> Storage:
    """Return what reads and writes at a place."""
    return DISK if isinstance(place, Path) else place.storage


def is_link(place: Place) -> bool:
    """Return whether a place is a link, as there are on disks alone."""
    return isinstance(place, Path) and os.path.islink(place)  # noqa: PTH114 (it raises nothing)
