"""What a replay was asked for, so that the same again goes on where it was broken off."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import click

from app.cli.common.times import read_moment
from app.store.delivery_filter import Selection

# What a replay is for: all that is at rest. What was refused never came in.
REPLAYABLE = ("settled", "unrouted", "dead", "quarantined", "late")


@dataclass(frozen=True, slots=True)
class Question:
    """What to replay. typed: `since` and `until` as they were typed. sink: the only one to write, or ""."""

    selection: Selection
    typed: Mapping[str, str]
    sink: str
    limit: int | None

    @property
    def asked(self) -> str:
        """Say it in the same words whenever the same is asked, whatever the time."""
        told: dict[str, Any] = {
            name: sorted(map(str, value)) if isinstance(value, tuple | list) else value
            for name in Selection.__dataclass_fields__
            if (value := self.typed.get(name) or getattr(self.selection, name))
        }
        told |= {"into": self.sink} if self.sink else {}
        told |= {"limit": self.limit} if self.limit else {}
        return json.dumps(told, sort_keys=True)

    def chosen(self, began_at: datetime, *, by_default: Sequence[str] = REPLAYABLE) -> Selection:
        """Return what is chosen by a replay that began at this time, also where it goes on later.

        What comes after that is none of it. by_default: the states, where none is asked for.
        """
        times: dict[str, Any] = {name: read_moment(text, now=began_at) for name, text in self.typed.items()}
        times["until"] = min(times.get("until", began_at), began_at)
        states = self.selection.states or by_default
        return replace(self.selection, states=states, **times)


def in_any_state(question: Question, chosen: Selection) -> Selection:
    """Return what is chosen, with what is left out of it for its state alone."""
    return replace(chosen, states=question.selection.states)


def require_choice(selection: Selection, *, everything: bool) -> None:
    """Refuse to take up everything by accident."""
    if selection.is_everything and not everything:
        raise click.UsageError("Choose deliveries, such as --state dead or --since 7d; or pass --all.")
    if everything and not selection.is_everything:
        raise click.UsageError("--all is for every delivery: leave it out, or what chooses some of them.")
