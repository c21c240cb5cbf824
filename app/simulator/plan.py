"""Plan of a simulation: its runs, records, faults and receiver."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from app.errors import ConfigError
from app.simulator.variants import Variants
from app.truto.signature import Encoding
from app.truto.target_url import WEBHOOK_PATH
from app.truto.webhook_sender import WebhookTarget

DEFAULT_RESOURCES = (
    ("crm/contacts", "list"),
    ("crm/accounts", "list"),
    ("ticketing/tickets", "list"),
    ("ticketing/comments", "list"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs of a sync job against one receiver. Raises ConfigError with every invalid field.

    records: the total of all runs. resources: (resource, method); `ticketing/comments` belong to the tickets
    of the same run. duplicates, reordering, lost: shares of pages that are sent twice, after the next one, or
    never. overtaken, late: pages of each run that are sent after its end; the end counts only overtaken ones
    as persisted. endless: no event reports the end of a run. events_to_send: the only events of the runs that
    are sent, () for all. v4: batches without ids and method, as Truto's runtime V4 sends them.
    changes: share of records that are newer versions of recently fetched records. record_errors: the total of
    all runs, in one event each, or batched. pause_s: before each page. stop_after: the share of its pages
    after which a run is stopped, or None. forged: requests without a valid signature, between the pages.
    first_backoff_s: the wait before the first of three retries; it doubles for each, up to 10 s.
    webhook_id: of the runs' webhook; "" for one that depends on the seed. variants: forms of the events that
    Truto's documentation leaves open.
    """

    url: str
    secret: str
    seed: str
    records: int = 1000
    batch_size: int = 100
    resources: tuple[tuple[str, str], ...] = DEFAULT_RESOURCES
    accounts: int = 1
    runs: int = 1
    parallel: int = 1
    duplicates: float = 0.0
    reordering: float = 0.0
    lost: float = 0.0
    overtaken: int = 0
    late: int = 0
    endless: bool = False
    events_to_send: tuple[str, ...] = ()
    v4: bool = False
    changes: float = 0.0
    record_errors: int = 0
    batched_errors: bool = False
    stop_after: float | None = None
    forged: int = 0
    pause_s: float = 0.0
    encoding: Encoding = "base64"
    with_format: bool = True
    first_backoff_s: float = 0.5
    webhook_id: str = ""
    variants: Variants = field(default_factory=Variants)

    def __post_init__(self) -> None:
        if problems := list(_find_problems(self)):
            raise ConfigError(problems)

    @property
    def target(self) -> WebhookTarget:
        """The receiver's URL, and the format of the signatures."""
        return WebhookTarget(self.url, self.secret, self.encoding, self.with_format, self.first_backoff_s)

    def compute_share(self, total: int, run_number: int) -> int:
        """Return one run's share of a total over all runs."""
        return total * (run_number + 1) // self.runs - total * run_number // self.runs


def _find_problems(plan: Plan) -> Iterator[str]:
    # Do not quote the address: it may hold a password.
    if not is_web_address(plan.url):
        yield f"url: not an http:// or https:// address. Give the receiver's address, with {WEBHOOK_PATH}."
    for name in ("batch_size", "accounts", "runs", "parallel"):
        if getattr(plan, name) < 1:
            yield f"{name}: {getattr(plan, name)} is less than 1. Give 1 or more."
    for name in ("records", "overtaken", "late", "record_errors", "forged", "first_backoff_s", "pause_s"):
        if getattr(plan, name) < 0:
            yield f"{name}: {getattr(plan, name)} is less than 0. Give 0 or more."
    for name in ("duplicates", "reordering", "lost", "changes", "stop_after"):
        share = getattr(plan, name)
        if share is not None and not 0 <= share <= 1:
            yield f"{name}: {share} is not a share. Give a number from 0 to 1."
    if plan.variants.records != "list" and plan.batch_size != 1:
        yield f"variant: records={plan.variants.records} needs one record per page. Add --batch-size 1."
    if not plan.resources or not all(resource and method for resource, method in plan.resources):
        yield "resources: a resource or method is empty. Give at least one, such as crm/contacts:list."


def is_web_address(url: str) -> bool:
    """Whether a URL has the scheme http or https, and a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
