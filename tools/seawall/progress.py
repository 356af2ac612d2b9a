"""How long work tells those who watch it where it is."""

from typing import Protocol


class Progress(Protocol):
    """Hears of work as it goes on; its methods may be called from several threads."""

    def expect(self, size: int, what: str) -> None:
        """*size* bytes of *what* are about to be moved."""
        ...

    def advance(self, size: int) -> None:
        """*size* more bytes are done; negative where some have to be done again."""
        ...

    def say(self, line: str) -> None:
        """Something happened that is worth a line."""
        ...


class Silent:
    """A progress that nobody watches."""

    def expect(self, size: int, what: str) -> None:
        """Ignore it."""

    def advance(self, size: int) -> None:
        """Ignore it."""

    def say(self, line: str) -> None:
        """Ignore it."""
