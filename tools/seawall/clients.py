"""What clients ask of a server, and what becomes of them where it is not so: one table, ``clients.json``.

Each claim in it says where it comes from.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources


class Harm(StrEnum):
    """How bad a fault is for a client."""

    BREAKS = "breaks"
    """It cannot pull."""
    LIMITS = "limits"
    """It pulls, and something else does not work: a listing, resuming, a mirror."""


@dataclass(frozen=True, slots=True)
class Client:
    """A program that pulls."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault does to some clients."""

    harm: Harm
    clients: tuple[str, ...]
    """Their names."""
    why: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that a server has to do, and the fault of one that does not."""

    fault: str
    asks: str
    todo: str
    source: str
    """Where it is known from."""
    effects: tuple[Effect, ...]

    def effect_on(self, client: str) -> Effect | None:
        """Return what the fault does to *client*, None where it does nothing."""
        return next((effect for effect in self.effects if client in effect.clients), None)


def _load() -> tuple[tuple[Client, ...], tuple[Requirement, ...]]:
    document = json.loads(resources.files("seawall").joinpath("clients.json").read_text("utf-8"))
    clients = tuple(Client(**row) for row in document["clients"])
    every = tuple(client.name for client in clients)
    groups: dict[str, list[str]] = document["groups"]

    def members(names: list[str]) -> tuple[str, ...]:
        wanted = {member for name in names for member in (every if name == "*" else groups.get(name, [name]))}
        return tuple(name for name in every if name in wanted)

    requirements = tuple(
        Requirement(
            row["fault"],
            row["asks"],
            row["todo"],
            row["source"],
            tuple(Effect(Harm(e["harm"]), members(e["clients"]), e["why"]) for e in row["effects"]),
        )
        for row in document["requirements"]
    )
    return clients, requirements


CLIENTS, REQUIREMENTS = _load()
BY_FAULT = {requirement.fault: requirement for requirement in REQUIREMENTS}
