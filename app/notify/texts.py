"""Texts of notifications, one for each kind."""

from collections.abc import Callable, Mapping
from typing import Any

from app.plural import format_count

Payload = Mapping[str, Any]

_MAX_RESOURCES = 10


def format_text(kind: str, payload: Payload) -> str:
    """Return the text of a notification: its title between asterisks. A missing member is shown as "?"."""
    return _TEXTS[kind](payload) if kind in _TEXTS else _format_other(kind, payload)


def split_title(text: str) -> tuple[str, str]:
    """Return the title of a text without its asterisks, and the rest."""
    _, title, rest = text.split("*", 2)
    return title, rest


def _format_run_reconciled(payload: Payload) -> str:
    resources = payload.get("resources") or []
    records = sum(_to_int(resource.get("written")) for resource in resources)
    return (
        f"*Run reconciled:* {_format_run(payload)} is {_get_text(payload, 'status')}, "
        f"verdict: {_get_text(payload, 'verdict')}. "
        f"{format_count(records, 'record')} of "
        f"{format_count(len(resources), 'resource')} written{_format_errors(payload)}."
    )


def _format_run_incomplete(payload: Payload) -> str:
    gaps = [
        f"• {_get_text(resource, 'resource')} {_get_text(resource, 'method')}: {_format_gap(resource)}"
        for resource in payload.get("resources") or []
        if _to_int(resource.get("missing")) or _to_int(resource.get("dead"))
    ]
    more = len(gaps) - _MAX_RESOURCES
    lines = [
        f"*Run incomplete:* {_format_run(payload)} is {_get_text(payload, 'status')}, "
        f"verdict: {_get_text(payload, 'verdict')}"
        f"{_format_errors(payload)}.",
        *gaps[:_MAX_RESOURCES],
        *([f"• and {format_count(more, 'more resource')}"] if more > 0 else []),
    ]
    return "\n".join(lines)


def _format_run_stalled(payload: Payload) -> str:
    silent_min = _to_int(payload.get("silent_s")) // 60
    return (
        f"*Run stalled:* no event of {_format_run(payload)} for {silent_min} min, "
        f"since {_get_text(payload, 'last_seen_at')}. Last status: {_get_text(payload, 'status')}."
    )


def _format_run_stopped(payload: Payload) -> str:
    by = {
        "limit": "by a limit",
        "operator": "by an operator",
        "truto": "by Truto",
        "refusal": "because it was refused",
    }
    is_stop_rejected = payload.get("by") in ("limit", "operator") and payload.get("is_asked") is False
    warning = " Truto did not accept the stop, so the run may continue." if is_stop_rejected else ""
    return (
        f"*Run stopped* {by.get(_get_text(payload, 'by'), _get_text(payload, 'by'))}: "
        f"{_format_run(payload)} is {_get_text(payload, 'status')}. "
        f"Reason: {_get_text(payload, 'reason')}.{warning}"
    )


def _format_deletes_held(payload: Payload) -> str:
    held = [
        f"{_get_text(check, 'resource')} in {_get_text(check, 'sink')} ({_get_text(check, 'reason')})"
        for check in payload.get("held") or []
    ]
    rest = f"; and {len(held) - _MAX_RESOURCES} more" if len(held) > _MAX_RESOURCES else ""
    return (
        f"*Deletes held back:* no row is marked as deleted after run {_format_run(payload)}: "
        f"{'; '.join(held[:_MAX_RESOURCES]) or '?'}{rest}. Run: rapidbridge deletes list"
    )


def _format_sink_failing(payload: Payload) -> str:
    message = f" {payload['message']}" if payload.get("message") else ""
    return (
        f"*Sink failing:* {_get_text(payload, 'sink')} since {_get_text(payload, 'since')}: "
        f"{_get_text(payload, 'reason')}. "
        f"{_format_deliveries(payload)} waiting."
        f"{message}"
    )


def _format_sink_recovered(payload: Payload) -> str:
    failing_min = _to_int(payload.get("failing_s")) // 60
    return (
        f"*Sink recovered:* {_get_text(payload, 'sink')} works again after {failing_min} min. "
        f"{_format_deliveries(payload)} waited; workers write them now."
    )


def _format_account_unknown(payload: Payload) -> str:
    return (
        f"*Account unknown:* {_format_deliveries(payload)} of webhook "
        f"{_get_text(payload, 'webhook_id')} since {_get_text(payload, 'since')} name no integrated account. "
        "They are kept; name the account in the routes file, then replay them."
    )


def _format_key_missing(payload: Payload) -> str:
    result = (
        "These records are rejected."
        if payload.get("missing_key", "hash") != "hash"
        else "Each version of such a record becomes a new row."
    )
    return (
        f"*Key missing:* no record of delivery {_get_text(payload, 'delivery')} has the key "
        f"{_get_text(payload, 'key')} (resource {_get_text(payload, 'resource')}, "
        f"account {_get_text(payload, 'integrated_account_id')}). {result} Correct the key of the route."
    )


def _format_webhook_inactive(payload: Payload) -> str:
    next_step = (
        "It is active again; check which events failed in between."
        if payload.get("is_reactivated") is True
        else "No events arrive until it is activated at Truto."
    )
    return f"*Webhook inactive:* Truto deactivated {_get_text(payload, 'webhook_id')}. {next_step}"


def _format_webhook_unauthorized(payload: Payload) -> str:
    causes = payload.get("causes") or {}
    shown = ", ".join(f"{_to_int(number)} {cause}" for cause, number in causes.items())
    accepted_at = payload.get("last_accepted_at")
    accepted = (
        f"the last accepted one arrived at {accepted_at}" if accepted_at else "none was accepted this week"
    )
    return (
        f"*Wrong signatures:* {format_count(_to_int(payload.get('requests')), 'request')} refused with 401 "
        f"({shown or '?'}); {accepted}. If Truto sent them, its pages are lost: compare "
        "TRUTO_WEBHOOK_SECRET with the secret that Truto showed. Run: rapidbridge doctor"
    )


def _format_webhook_rejected(payload: Payload) -> str:
    return (
        f"*Requests not stored:* {format_count(_to_int(payload.get('requests')), 'request')} in the last "
        f"minutes, answered `{_get_text(payload, 'status')}`. Run: rapidbridge doctor"
    )


def _format_delivery_failed(payload: Payload) -> str:
    return (
        f"*Deliveries failed:* {_format_deliveries(payload)} since "
        f"{_get_text(payload, 'since')}, reason: {_get_text(payload, 'reason')}. They are kept. For the "
        "remedy, run: rapidbridge dead list"
    )


def _format_delivery_delayed(payload: Payload) -> str:
    return (
        f"*Deliveries delayed:* {_format_deliveries(payload)} pending; the oldest one was received at "
        f"{_get_text(payload, 'since')}. "
        "Read the workers' log, and start more workers: rapidbridge worker"
    )


def _format_workers_missing(payload: Payload) -> str:
    return (
        f"*Workers missing:* no worker process has been alive since {_get_text(payload, 'since')}; "
        f"{_format_deliveries(payload)} pending. Read the log of `rapidbridge worker`, and restart it."
    )


def _format_spool_in_use(payload: Payload) -> str:
    return (
        f"*Spool in use:* {_format_deliveries(payload)} in Redis since "
        f"{_get_text(payload, 'since')}, because a process could not use the database. They move to the "
        "inbox once the workers can write to it. Run: rapidbridge doctor"
    )


def _format_worker_outdated(payload: Payload) -> str:
    differences = ", ".join(map(str, payload.get("differences") or ["?"]))
    return (
        f"*Worker outdated:* {_get_text(payload, 'worker')}: {differences}. Restart the workers and the web "
        "processes."
    )


def _format_task_failing(payload: Payload) -> str:
    return (
        f"*Background task failing:* {_get_text(payload, 'task')}: {_get_text(payload, 'error')}. Read the "
        "log of `rapidbridge worker`."
    )


def _format_spool_unreadable(payload: Payload) -> str:
    return (
        f"*Spool unreadable:* {_to_int(payload.get('entries')):,} entries could not be moved to the store. "
        f"Inspect them with: redis-cli XRANGE {_get_text(payload, 'key')} - +"
    )


def _format_disk_low(payload: Payload) -> str:
    free_mib = _to_int(payload.get("free_bytes")) // 1024**2
    return (
        f"*Disk almost full:* {free_mib:,} MiB free for {_get_text(payload, 'place')} on "
        f"{_get_text(payload, 'host')}. Free some space, or use a larger disk: a full disk cannot store "
        "deliveries."
    )


def _format_other(kind: str, payload: Payload) -> str:
    scalars = [f"{name}: {value}" for name, value in payload.items() if isinstance(value, str | int | float)]
    return f"*{kind}* {', '.join(scalars)}"


_TEXTS: Mapping[str, Callable[[Payload], str]] = {
    "run.reconciled": _format_run_reconciled,
    "run.incomplete": _format_run_incomplete,
    "run.stalled": _format_run_stalled,
    "run.stopped": _format_run_stopped,
    "deletes.held": _format_deletes_held,
    "sink.failing": _format_sink_failing,
    "sink.recovered": _format_sink_recovered,
    "account.unknown": _format_account_unknown,
    "key.missing": _format_key_missing,
    "webhook.inactive": _format_webhook_inactive,
    "webhook.unauthorized": _format_webhook_unauthorized,
    "webhook.rejected": _format_webhook_rejected,
    "delivery.failed": _format_delivery_failed,
    "delivery.delayed": _format_delivery_delayed,
    "workers.missing": _format_workers_missing,
    "worker.outdated": _format_worker_outdated,
    "task.failing": _format_task_failing,
    "spool.in_use": _format_spool_in_use,
    "spool.unreadable": _format_spool_unreadable,
    "disk.low": _format_disk_low,
}


def _format_run(payload: Payload) -> str:
    return (
        f"{_get_text(payload, 'sync_job_run_id')} (job {_get_text(payload, 'sync_job_id')}, "
        f"account {_get_text(payload, 'integrated_account_id')})"
    )


def _format_gap(resource: Payload) -> str:
    missing, dead = _to_int(resource.get("missing")), _to_int(resource.get("dead"))
    parts = [f"{missing:,} missing of {_to_int(resource.get('fetched')):,}"] if missing else []
    parts += [f"{dead:,} dead"] if dead else []
    return ", ".join(parts)


def _format_deliveries(payload: Payload) -> str:
    has_more = payload.get("is_exact") is False
    return format_count(_to_int(payload.get("deliveries")), "delivery", has_more=has_more)


def _format_errors(payload: Payload) -> str:
    number = _to_int(payload.get("record_errors"))
    return f"; Truto reported {format_count(number, 'error')}" if number else ""


def _get_text(payload: Payload, name: str) -> str:
    value = payload.get(name)
    return str(value) if value not in (None, "") else "?"


def _to_int(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
