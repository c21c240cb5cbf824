"""Fuzz target: the record errors of a body."""

from itertools import islice

from app.truto.events import MAX_NAME_CHARS
from app.truto.record_errors import RecordError, read_record_errors

_MAX_ERRORS = 50
_MAX_MESSAGE_CHARS = 4000


def check(content: bytes) -> None:
    """Check that reading record errors never raises.

    content: a signed body. The errors from the middle on are the same, and their texts are short and
    storable.
    """
    errors = list(islice(read_record_errors(content), _MAX_ERRORS))
    for ordinal, error in enumerate(errors):
        _check_error(error, ordinal)
    if middle := len(errors) // 2:
        rest = list(islice(read_record_errors(content, first_ordinal=middle), _MAX_ERRORS - middle))
        assert rest == errors[middle:], "the errors from the middle on differ"


def _check_error(error: RecordError, ordinal: int) -> None:
    assert error.ordinal == ordinal
    assert max(len(error.resource), len(error.method)) <= MAX_NAME_CHARS
    assert len(error.message) <= _MAX_MESSAGE_CHARS
    assert error.remote_status is None or 0 <= error.remote_status <= 999
    for text in (error.resource, error.method, error.message):
        assert "\0" not in text, "PostgreSQL stores no NUL"
        text.encode()
