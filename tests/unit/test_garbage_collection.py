"""Objects of the start are outside of collections."""

import subprocess
import sys

_COUNT = """
import gc
import workers.main
from app.garbage_collection import freeze_start_objects

before = len(gc.get_objects())
freeze_start_objects()
print(before, len(gc.get_objects()))
"""


def test_collections_do_not_search_the_modules_of_a_worker() -> None:
    # In a process of its own: frozen objects of this one would never be freed.
    counted = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True)

    before, after = map(int, counted.stdout.split())
    assert before > 50_000
    assert after < 1_000
