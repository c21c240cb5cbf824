"""What Slack is told, in words: one text a kind of notice."""

from collections.abc import Callable, Mapping
from typing import Any

Told = Mapping[str, Any]

_MOST_RESOURCES = 10
_LONGEST_TEXT = 3000


def slack_text(kind: str, told: Told) -> str:
    """Return the text of a notice, escaped as Slack asks. What `told` leaves out is shown as "?"."""
    text = _TEXTS[kind](told) if kind in _TEXTS else _other(kind, told)
    text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
    # After cutting: half of an escape would be none. Whatever a resource is called, it calls nobody.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _settled(told: Told) -> str:
    resources = told.get("resources") or []
    records = sum(_number(each.get("written")) for each in resources)
    return (
        f"*Run settled:* {_run(told)} is {_of(told, 'status')}, verdict: {_of(told, 'verdict')}. "
        f"{_count(records, 'record')} of {_count(len(resources), 'resource')} written{_errors(told)}."
    )


def _incomplete(told: Told) -> str:
    gaps = [
        f"• {_of(each, 'resource')} {_of(each, 'method')}: {_shortfall(each)}"
        for each in told.get("resources") or []
        if _number(each.get("missing")) or _number(each.get("dead"))
    ]
    more = len(gaps) - _MOST_RESOURCES
    lines = [
        f"*Run incomplete:* {_run(told)} is {_of(told, 'status')}, verdict: {_of(told, 'verdict')}"
        f"{_errors(told)}.",
        *gaps[:_MOST_RESOURCES],
        *([f"• and {_count(more, 'more resource')}"] if more > 0 else []),
    ]
    return "\n".join(lines)


def _stalled(told: Told) -> str:
    silent_min = _number(told.get("silent_s")) // 60
    return (
        f"*Run stalled:* nothing came of {_run(told)} for {silent_min} min, "
        f"since {_of(told, 'last_seen_at')}. Truto last said: {_of(told, 'status')}."
    )


def _stopped(told: Told) -> str:
    by = {"limit": "by a limit", "truto": "by Truto", "refusal": "because it was refused"}
    is_unasked = told.get("by") == "limit" and told.get("is_asked") is False
    unasked = " Truto did not take that: it may go on." if is_unasked else ""
    return (
        f"*Run stopped* {by.get(_of(told, 'by'), _of(told, 'by'))}: {_run(told)} is {_of(told, 'status')}. "
        f"Reason: {_of(told, 'reason')}.{unasked}"
    )


def _failing(told: Told) -> str:
    return (
        f"*Sink failing:* {_of(told, 'sink')} since {_of(told, 'since')}: {_of(told, 'reason')}. "
        f"{_count(_number(told.get('deliveries')), 'delivery', 'deliveries')} waiting."
    )


def _inactive(told: Told) -> str:
    then = (
        "It was activated again; see what failed meanwhile."
        if told.get("is_reactivated") is True
        else "Nothing comes until it is activated again at Truto."
    )
    return f"*Webhook inactive:* Truto switched {_of(told, 'webhook_id')} off. {then}"


def _other(kind: str, told: Told) -> str:
    plain = [f"{name}: {value}" for name, value in told.items() if isinstance(value, str | int | float)]
    return f"*{kind}* {', '.join(plain)}"


_TEXTS: Mapping[str, Callable[[Told], str]] = {
    "run.settled": _settled,
    "run.incomplete": _incomplete,
    "run.stalled": _stalled,
    "run.stopped": _stopped,
    "sink.failing": _failing,
    "webhook.inactive": _inactive,
}


def _run(told: Told) -> str:
    return (
        f"{_of(told, 'sync_job_run_id')} (job {_of(told, 'sync_job_id')}, "
        f"account {_of(told, 'integrated_account_id')})"
    )


def _shortfall(resource: Told) -> str:
    missing, dead = _number(resource.get("missing")), _number(resource.get("dead"))
    parts = [f"{missing:,} missing of {_number(resource.get('fetched')):,}"] if missing else []
    parts += [f"{dead:,} dead"] if dead else []
    return ", ".join(parts)


def _errors(told: Told) -> str:
    number = _number(told.get("record_errors"))
    return f"; Truto reported {_count(number, 'error')}" if number else ""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _of(told: Told, name: str) -> str:
    value = told.get(name)
    return str(value) if value not in (None, "") else "?"


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
