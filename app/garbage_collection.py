"""Settings of Python's garbage collector for processes that live long."""

import gc


def freeze_start_objects() -> None:
    """Exclude the objects of the start from collections; call it once, before the work begins.

    Otherwise each full collection searches the modules too: it stops all requests for up to 100 ms, and costs
    a worker a quarter of its CPU time, because records are many objects.
    """
    gc.collect()
    gc.freeze()
    # With few objects left, the default would search them all for every few requests.
    gc.set_threshold(5_000, 20, 50)
