"""Fuzz target: the filter and the transformation of a route."""

from app.expressions import ExpressionError, compile_expression, is_selected, transform
from app.truto.records import encode_json, read_records

_MAX_EXPRESSIONS = 1000


def check(content: bytes) -> None:
    """Check that an expression gives JSON or an ExpressionError.

    content: the expression in the first line, and a record. An error does not quote the record.
    """
    # Routes have few expressions, so that the cache has no bound.
    if compile_expression.cache_info().currsize > _MAX_EXPRESSIONS:
        compile_expression.cache_clear()
    line, _, record = content.partition(b"\n")
    expression = line.decode(errors="replace")
    try:
        compile_expression(expression)
    except ExpressionError:
        return
    batch = read_records(b'{"payload":{"records":[%b]}}' % record)
    for _, value in batch.records if batch else ():
        try:
            selected = is_selected(value, expression)
            result = transform(value, expression)
        except ExpressionError as error:
            assert "SECRET" not in str(error), "the error quotes the record"
            continue
        encoded = encode_json(result)
        assert selected == (encoded not in (b"null", b"false", b'""', b"[]", b"{}"))
