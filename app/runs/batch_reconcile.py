"""Reconciliation of several runs."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from app.database.engine import Database
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconcile import TrutoError, needs_truto, reconcile_run, reconcile_stored_runs
from app.runs.reconciliation import Reconciliation
from app.runs.refresh import RunRefresher
from app.store.runs import Runs, StoredRun

# A few queries for all of them: a query takes longer than the sums of a run.
_RUNS_PER_READ = 500

ReconciledRun = tuple[StoredRun, Reconciliation]


class BatchReconciler:
    """Reconciles runs with Truto's help, and collects Truto's errors instead of raising them.

    refresher: None without a token. Every method raises StoreUnavailable.
    """

    def __init__(self, database: Database, refresher: RunRefresher | None) -> None:
        self._database = database
        self._refresher = refresher
        self.errors: list[TrutoError] = []

    @property
    def is_truto_unreachable(self) -> bool:
        """Whether Truto could not be reached for any of the runs."""
        return any(isinstance(error, TrutoUnavailable) for error in self.errors)

    def load_runs(
        self, run_ids: Sequence[str], *, now: datetime, on_unknown: Callable[[str], None]
    ) -> list[StoredRun]:
        """Return runs by id, from Truto if the store has none.

        on_unknown: called with the id of a run that the store and Truto both lack, unless Truto failed.
        """
        stored_runs, loaded = Runs(self._database), []
        for run_id in dict.fromkeys(run_ids):
            run, has_failed = stored_runs.get(run_id), False
            try:
                if run is None and self._refresher:
                    run = self._refresher.refresh(run_id, now=now)
            except (TrutoRefused, TrutoUnavailable) as error:
                self.errors.append(error)
                has_failed = True
            if run:
                loaded.append(run)
            elif not has_failed:
                on_unknown(run_id)
        return loaded

    def reconcile(self, runs: Sequence[StoredRun], *, now: datetime) -> Iterator[ReconciledRun]:
        """Yield each run with its reconciliation."""
        for start in range(0, len(runs), _RUNS_PER_READ):
            batch = runs[start : start + _RUNS_PER_READ]
            for run, reconciliation in reconcile_stored_runs(self._database, batch, now=now):
                # After one failure, do not wait for an unreachable Truto again.
                refresher = None if self.is_truto_unreachable else self._refresher
                if refresher and needs_truto(run, reconciliation):
                    yield reconcile_run(self._database, run, refresher, now=now, on_error=self.errors.append)
                else:
                    yield run, reconciliation
