"""Passes of one worker process: `python -m benchmarks.receiver_load SETTINGS PLACE PROCESSES`.

SETTINGS: a JSON file with the database's URL, the routes, and the jobs of each pass, which are lists of
delivery ids. The process takes every PROCESSES-th job. It does the work of a job in `workers.jobs`, without
RQ: lease, read the bodies, parse, route, write, settle; and then the loads of sinks that write in loads.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from app.clock import utc_now
from app.config.routes import Routes
from app.config.sinks import LoadSinkConfig
from app.database.engine import open_database
from app.garbage_collection import freeze_start_objects
from app.logs import configure_logging
from app.sinks.registry import SinkRegistry
from app.store.loads import Loads
from benchmarks.timed_passes import serve_passes
from workers.delivery.load_runner import LoadRunner
from workers.delivery.processor import DeliveryProcessor
from workers.delivery.work_recorder import WorkRecorder

_MB = 1024 * 1024


def main() -> None:
    """Process the jobs of each pass."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    place, processes = map(int, sys.argv[2:])
    configure_logging("json")
    database = open_database(settings["database_url"])
    routes = Routes.model_validate(settings["routes"])
    sinks = SinkRegistry(routes)
    processor = DeliveryProcessor(database, routes, sinks)
    loads = Loads(database)
    runner = LoadRunner(database, routes, sinks, WorkRecorder(database), worker="benchmark")

    def run_pass(number: int) -> None:
        for job in settings["passes"][number][place::processes]:
            processor.deliver([UUID(id_) for id_ in job])
            processor.work.flush()
        for name, sink in routes.sinks.items():
            if isinstance(sink, LoadSinkConfig):
                # The end of the data is the end of the last load: without waiting for its age.
                while load := loads.plan(
                    name, max_bytes=sink.max_file_mb * _MB, max_age=timedelta(), now=utc_now()
                ):
                    runner.run(load.id)

    freeze_start_objects()
    serve_passes(run_pass)
    sinks.close()
    database.close()


if __name__ == "__main__":
    main()
