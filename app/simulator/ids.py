"""Ids as Truto makes them; the same seed gives the same ones."""

from dataclasses import dataclass
from random import Random
from uuid import UUID

from app.simulator.plan import Plan


@dataclass(frozen=True, slots=True)
class JobIds:
    """What all runs of a plan belong to."""

    environment_id: str
    webhook_id: str
    sync_job_id: str


def make_id(rng: Random) -> str:
    """Return a UUID, the next that this chance has to give."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def make_job_ids(plan: Plan) -> JobIds:
    """Return the ids of a plan's environment, webhook and job."""
    rng = Random(f"{plan.seed}/job")  # noqa: S311  # a repeatable play
    return JobIds(make_id(rng), make_id(rng), make_id(rng))
