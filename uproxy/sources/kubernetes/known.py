"""The objects of one resource as they were last told, so that only differences are told.

Pure. What counts as a difference is the model: a new resourceVersion that changes nothing for a proxy is
none. Resource versions are not remembered at all, because after a restore of the cluster's database the
same one may stand for something else.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")


class Known(Generic[K, M]):
    """Objects by key. `upsert` and `delete` are called for each difference."""

    def __init__(
        self,
        upsert: Callable[[M], None],
        delete: Callable[[M], None],
        like: Callable[[M, M], M] = lambda _before, thing: thing,
    ) -> None:
        """`like` may give a new version the parts of the one before that are equal, to keep them once."""
        self._like = like
        self._upsert = upsert
        self._delete = delete
        self._objects: dict[K, M] = {}
        self._unseen: set[K] | None = None
        """While a list comes in: what it has not shown yet."""

    def __len__(self) -> int:
        return len(self._objects)

    def begin_list(self) -> None:
        """A complete list begins; everything is in doubt."""
        self._unseen = set(self._objects)

    def put(self, key: K, thing: M) -> None:
        """An object is as given."""
        self.keep(key)
        before = self._objects.get(key)
        if before != thing:
            if before is not None:
                thing = self._like(before, thing)
            self._objects[key] = thing
            self._upsert(thing)

    def keep(self, key: K) -> None:
        """An object is there, in whatever state; what was told of it stays."""
        if self._unseen:
            self._unseen.discard(key)

    def remove(self, key: K) -> None:
        """An object is gone."""
        self.keep(key)
        thing = self._objects.pop(key, None)
        if thing is not None:
            self._delete(thing)

    def end_list(self) -> tuple[K, ...]:
        """The list is complete. Returns what it did not show; the caller removes that."""
        missing, self._unseen = self._unseen or (), None
        return tuple(missing)
