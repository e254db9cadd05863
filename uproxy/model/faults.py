"""A user's mistake, as a value: collected, so that all are reported at once."""

import dataclasses
from dataclasses import dataclass

from uproxy.errors import UproxyError
from uproxy.kit.printable import printable
from uproxy.model.names import NamespacedName


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One mistake, and where it stands. Empty parts are left out of the line."""

    file: str
    document: int
    """Counted from 1; 0 when the whole file is meant."""
    kind: str
    key: NamespacedName | None
    """The object's name, when it could be read."""
    field: str
    """Path inside the object, as kubectl prints it: `spec.ports[0].port`."""
    message: str
    stale: tuple[NamespacedName, ...] = dataclasses.field(default=(), compare=False)
    """Services that go on in their last good version because nobody can tell what this was."""

    def __str__(self) -> str:
        where = f"{self.file}, document {self.document}" if self.document else self.file
        subject = " ".join(str(part) for part in (self.kind, self.key) if part)
        return printable(": ".join(part for part in (where, subject, self.field, self.message) if part))


class BadInput(UproxyError):
    """What the user gave cannot be used; `faults` has every reason."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
