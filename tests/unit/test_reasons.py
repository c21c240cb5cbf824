"""Explanations of states and reasons."""

import pytest

from app.store.models import DeliveryState
from app.store.reasons import RECORD, Reason, explain, reason_category


@pytest.mark.parametrize("state", [*DeliveryState, RECORD])
@pytest.mark.parametrize("reason", ["", *Reason, "a sentence from a policy", "constraint"])
def test_every_state_has_a_meaning_with_any_reason(state: str, reason: str) -> None:
    assert explain(state, reason).meaning


def test_a_reason_explains_more_than_its_state() -> None:
    assert explain("dead", "worker_lost") == Reason.WORKER_LOST.explanation


def test_the_same_code_means_another_thing_for_a_body_than_for_records() -> None:
    assert explain("quarantined", "not_json") != explain(RECORD, "not_json")


def test_reasons_of_unknown_sinks_have_a_category() -> None:
    assert [reason_category(reason) for reason in ("sink_full", "constraint")] == ["sink", "data"]


@pytest.mark.parametrize("reason", ["sink_set_up", "table_taken", "table_reserved", "table_collision"])
def test_a_pending_delivery_of_a_sink_to_correct_says_so(reason: str) -> None:
    assert explain("pending", reason).meaning == explain("dead", reason).meaning
    assert "correct the sink or its route" in explain("pending", reason).advice
    assert "replay the delivery" in explain("dead", reason).advice
