"""Group commit: every caller gets its own result or error, whatever fails."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.errors import StoreUnavailable
from app.web.group_commit import GroupCommit


def grouped(commit: Callable[[Sequence[int]], Sequence[int]], *, limit: int) -> GroupCommit[int, int]:
    return GroupCommit(commit, max_items=limit, size_of=abs, max_size=100)


def test_every_caller_gets_the_result_of_its_own_item() -> None:
    commits: GroupCommit[int, int] = grouped(lambda items: [item * 2 for item in items], limit=7)

    with ThreadPoolExecutor(16) as senders:
        results = list(senders.map(commits.submit, range(2000)))

    assert results == [item * 2 for item in range(2000)]


class _Gate:
    """A commit that waits for permission, and keeps its groups."""

    def __init__(self) -> None:
        self.is_committing = threading.Event()
        self.may_continue = threading.Event()
        self.groups: list[list[int]] = []

    def commit(self, items: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(items))
        self.is_committing.set()
        assert self.may_continue.wait(60)
        if -1 in items:
            raise ValueError("one of these is bad")
        if -3 in items:
            raise StoreUnavailable("the store is away")
        if -2 in items:
            raise SystemExit
        return items


def _queue_up(
    commits: GroupCommit[int, int], items: Sequence[int], pool: ThreadPoolExecutor
) -> list[Future[object]]:
    """Submit the items one after the other while a commit is in progress."""
    futures = []
    for place, item in enumerate(items, start=1):
        futures.append(pool.submit(_outcome, commits, item))
        while commits.waiting < place:
            threading.Event().wait(0.001)
    return futures


def _outcome(commits: GroupCommit[int, int], item: int) -> object:
    try:
        return commits.submit(item)
    except (StoreUnavailable, ValueError) as error:
        return str(error)
    except SystemExit:
        return "exit"


def _run(items: Sequence[int], *, first: int = 0, limit: int = 3) -> tuple[list[list[int]], list[object]]:
    gate = _Gate()
    commits: GroupCommit[int, int] = grouped(gate.commit, limit=limit)
    with ThreadPoolExecutor(16) as pool:
        leader = pool.submit(_outcome, commits, first)
        assert gate.is_committing.wait(60)
        followers = _queue_up(commits, items, pool)
        gate.may_continue.set()
        outcomes = [future.result(60) for future in (leader, *followers)]
    return gate.groups, outcomes


def test_items_of_waiting_callers_are_committed_together_up_to_the_limit() -> None:
    groups, outcomes = _run([1, 2, 3, 4])

    assert groups == [[0], [1, 2, 3], [4]]
    assert outcomes == [0, 1, 2, 3, 4]


def test_a_group_is_bounded_in_size_but_every_item_is_committed() -> None:
    groups, outcomes = _run([60, 50, 40, 1000, 1], limit=9)

    assert groups == [[0], [60], [50, 40], [1000], [1]]
    assert outcomes == [0, 60, 50, 40, 1000, 1]


def test_a_failed_commit_fails_its_own_group_only() -> None:
    groups, outcomes = _run([-1, 2, 3, 4])

    assert groups == [[0], [-1, 2, 3], [4]]
    assert outcomes == [0, *["one of these is bad"] * 3, 4]


def test_an_unavailable_store_fails_every_waiting_caller() -> None:
    groups, outcomes = _run([-3, 2, 3, 4, 5])

    assert groups == [[0], [-3, 2, 3]]
    assert outcomes == [0, *["the store is away"] * 5]


def test_a_killed_leader_passes_leadership_on() -> None:
    groups, outcomes = _run([1, 2], first=-2)

    assert groups == [[-2], [1, 2]]
    assert outcomes == ["exit", 1, 2]


def test_followers_of_a_killed_leader_get_a_retryable_error() -> None:
    _, outcomes = _run([-2, 2])

    assert outcomes == [0, "exit", "the commit was interrupted"]


def test_a_commit_without_a_result_for_an_item_is_an_error() -> None:
    commits: GroupCommit[int, int] = grouped(lambda items: list(items)[1:], limit=3)

    with pytest.raises(ValueError, match="shorter"):
        commits.submit(1)
