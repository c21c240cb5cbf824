"""The advice for open conditions."""

from app.checks.open_conditions import ADVICE
from app.config.notify import NOTIFICATION_KINDS
from app.web.dashboard.blueprint import _NAVIGATION

# Events: nothing about them stays open.
EVENTS = {"run.reconciled", "run.incomplete", "run.stopped", "deletes.held", "sink.recovered"}


def test_every_condition_has_advice() -> None:
    assert set(NOTIFICATION_KINDS) - EVENTS <= set(ADVICE)


def test_the_pages_that_the_advice_names_exist() -> None:
    paths = {advice.path.partition("?")[0] for advice in ADVICE.values()} - {""}

    assert paths <= {path for path, _ in _NAVIGATION}
