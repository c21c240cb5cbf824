"""The order and duration of faults: pure, the same for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

Kind = Literal[
    "web process killed",
    "web killed",
    "web deployed",
    "web paused",
    "worker killed",
    "workers killed",
    "workers deployed",
    "worker paused",
    "worker paused beyond its lease",
    "Valkey killed",
    "Valkey wiped",
    "Valkey paused",
    "Valkey full",
    "PostgreSQL killed",
    "PostgreSQL restarted",
    "PostgreSQL paused",
    "PostgreSQL read-only",
    "PostgreSQL connections cut",
    "PostgreSQL and web killed",
    "PostgreSQL and workers killed",
    "PostgreSQL and Valkey killed",
    "PostgreSQL and Valkey paused",
    "PostgreSQL killed and Valkey full",
    "PostgreSQL failed over",
    "Valkey failed over",
    "main database closed",
    "neighbour database closed",
    "worker killed beside its namesake",
]

# Shortest and longest duration in seconds. None: the fault is over as soon as it has happened.
DURATIONS_S: dict[Kind, tuple[float, float] | None] = {
    "web process killed": None,
    "web killed": (0.1, 1.0),
    "web deployed": None,
    "web paused": (1.0, 4.0),
    "worker killed": None,
    "workers killed": (0.1, 2.0),
    "workers deployed": None,
    "worker paused": (1.0, 6.0),
    "worker paused beyond its lease": (42.0, 44.0),
    "Valkey killed": (0.1, 3.0),
    "Valkey wiped": None,
    "Valkey paused": (1.0, 5.0),
    "Valkey full": (1.0, 5.0),
    "PostgreSQL killed": (0.1, 4.0),
    "PostgreSQL restarted": None,
    "PostgreSQL paused": (1.0, 6.0),
    "PostgreSQL read-only": (1.0, 4.0),
    "PostgreSQL connections cut": None,
    "PostgreSQL and web killed": (0.5, 2.0),
    "PostgreSQL and workers killed": (0.5, 3.0),
    "PostgreSQL and Valkey killed": (0.5, 2.0),
    "PostgreSQL and Valkey paused": (1.0, 4.0),
    "PostgreSQL killed and Valkey full": (1.0, 3.0),
    "PostgreSQL failed over": (2.0, 4.0),
    "Valkey failed over": (0.5, 2.0),
    "main database closed": (2.0, 4.0),
    "neighbour database closed": (2.0, 4.0),
    "worker killed beside its namesake": None,
}
# Connections from the time of these faults stay open and refuse writes. Without a recovery before the next
# fault, a later restart would hide that they are kept.
KEEPS_CONNECTIONS: frozenset[Kind] = frozenset(
    ("PostgreSQL failed over", "Valkey failed over", "PostgreSQL read-only")
)
NEEDS_CONTAINERS: frozenset[Kind] = frozenset(("worker killed beside its namesake",))
# This kind takes most of a minute, so it is injected once in several rounds.
_RARE: Kind = "worker paused beyond its lease"
_ROUNDS_PER_RARE = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. delay_s: pause before it. process_pick: selects one of several processes."""

    kind: Kind
    delay_s: float = 1.0
    duration_s: float = 0.0
    process_pick: int = 0


def list_kinds(*, with_containers: bool) -> list[Kind]:
    """Return the kinds of one round."""
    return [
        kind for kind in DURATIONS_S if kind != _RARE and (with_containers or kind not in NEEDS_CONTAINERS)
    ]


def plan_faults(seed: str, *, with_containers: bool) -> Iterator[Fault]:
    """Yield endless faults: every kind once a round, in random order."""
    chance = Random(f"{seed}/faults")
    for number in count(1):
        kinds = list_kinds(with_containers=with_containers)
        chance.shuffle(kinds)
        if number % _ROUNDS_PER_RARE == 2:
            kinds.append(_RARE)
        for kind in kinds:
            bounds = DURATIONS_S[kind]
            duration_s = chance.uniform(*bounds) if bounds else 0.0
            yield Fault(kind, chance.uniform(0.2, 1.5), duration_s, chance.randrange(1000))
