"""Signed bodies in shapes that are expensive to read."""

_RECORDS = b'{"event": "sync_job_run:record", "payload": {"resource": "x", "records": ['
_ERRORS = b'{"event": "sync_job_run:record_error", "payload": {"resource": "x", "errors": '
_MEMBER = b',"%07d":1'
_META = b'{"event": "test", "payload": {"resource": "x", "meta": [0'
# Head, repeated part, tail. "%07d" in a part is its number.
_SHAPES = {
    "arrays without an end": (b"", b"[", b""),
    "objects without an end": (b"", b"{", b""),
    "nested members without an end": (b"", b'{"":', b""),
    "arrays that end wrongly": (_RECORDS, b"[", b"}"),
    "brackets in pairs": (b"", b"[]", b""),
    "quotes": (b"", b'"', b""),
    "commas": (b"[", b",", b"]"),
    "colons": (b'{"event": "test"', b":", b"}"),
    "digits": (b"", b"1", b""),
    "spaces": (b"", b" ", b""),
    "a string without an end": (_RECORDS + b'"', b"\\\\", b""),
    "strings without an end": (_RECORDS, b'"",', b""),
    "empty objects": (_RECORDS + b"{}", b",{}", b"]}}"),
    "empty objects and NaN": (_RECORDS + b"{}", b",{}", b",NaN]}}"),
    "empty arrays and NaN": (_RECORDS + b"[]", b",[]", b",NaN]}}"),
    "empty strings and NaN": (_RECORDS + b'""', b',""', b",NaN]}}"),
    "spaces and NaN": (_RECORDS + b"{}", b" \n, {}", b",NaN]}}"),
    "records and NaN": (_RECORDS + b"{}", b',{"id": "abc", "n": 1.5, "tags": ["a", "b"]}', b",NaN]}}"),
    "nested records and NaN": (_RECORDS + b"0", b',[[[[[["]"]]]]]]', b",NaN]}}"),
    "one payload after the other": (b'{"event": "test"', b',"payload":{}', b"}"),
    "one payload after the other and NaN": (b'{"event": "test"', b',"payload":{}', b',"a":NaN}'),
    "a long name of a member": (b'{"event": "test", "', b"\\u0041", b'": NaN}'),
    "a long event name": (b'{"event": "', b"x", b'"}'),
    "a long event name of escapes": (b'{"event": "', b"\\ud800", b'"}'),
    "a long id": (b'{"event": "test", "id": "', b"x", b'"}'),
    "a long number as id": (b'{"event": "test", "id": ', b"1", b"}"),
    "a long time": (b'{"event": "test", "created_at": "', b"2", b'"}'),
    "a long resource": (b'{"event": "test", "payload": {"resource": "', b"a/", b'"}}'),
    "numbers in meta": (_META, b"," + b"7" * 4300, b"]}}"),
    "objects in meta": (_META, b",{}", b"]}}"),
    "objects and NaN in meta": (_META, b",{}", b",NaN]}}"),
    "arrays in meta": (_META, b",[]", b"]}}"),
    "members in meta": (b'{"event": "test", "payload": {"meta": {"a": 0', b',"sync_job_run":[]', b"}}}"),
    "objects in a run": (b'{"event": "test", "payload": {"sync_job_run": {"args": [0', b',{"a":1}', b"]}}}"),
    "resources of a run": (
        b'{"event": "sync_job_run:started", "payload": {"id": "r", "resources": [{}',
        b',{"resource": "a", "method": "b"}',
        b"]}}",
    ),
    "distinct members": (b'{"event": "test"', _MEMBER, b"}"),
    "distinct members and NaN": (b'{"event": "test"', _MEMBER, b',"a":NaN}'),
    "distinct members in id": (b'{"event": "test", "id": {"a": 1', _MEMBER, b"}}"),
    "distinct members in the payload": (b'{"event": "test", "payload": {"a": 1', _MEMBER, b"}}"),
    "distinct members in meta": (b'{"event": "test", "payload": {"meta": {"a": 1', _MEMBER, b"}}}"),
    "distinct members in errors": (_ERRORS + b'{"a": 1', _MEMBER, b"}}}"),
    "distinct members in objects": (
        b'{"event": "test", "id": {"a": 1',
        b',"%07d":{' + b",".join(b'"%d": 01' % number for number in range(1000)) + b"}",
        b"}}",
    ),
    "invalid UTF-8": (_RECORDS + b'"', b"\xff", b'"]}}'),
    "sound records": (_RECORDS + b"{}", b',{"id": "abc", "n": 1.5, "tags": ["a", "b"]}', b"]}}"),
    "sound digits": (_RECORDS + b"1", b",1", b"]}}"),
    "sound fractions": (_RECORDS + b"0", b",0.12345678901234567890123456789e-30", b"]}}"),
    "sound words": (_RECORDS + b"null", b",null", b"]}}"),
    "sound empty objects": (_RECORDS + b"{}", b",{}", b"]}}"),
    "one long number": (_RECORDS, b"1", b"]}}"),
    "one long string": (_RECORDS + b'"', b"x", b'"]}}'),
    "one long string of escapes": (_RECORDS + b'"', b"\\n", b'"]}}'),
    "one long string of code points": (_RECORDS + b'"', b"\\u00e9", b'"]}}'),
    "one long string of UTF-8": (_RECORDS + b'"', "\N{SNOWMAN}".encode(), b'"]}}'),
    "one name again and again": (b'{"event": "test", "payload": {"a": 1', b',"a":1', b"}}"),
    "long names": (_RECORDS + b"{}", b',{"' + b"k" * 1000 + b'":1}', b"]}}"),
    "accounts in args": (
        b'{"event": "test", "payload": {"args": {"a": 1',
        b',"%07d_integrated_account_id":"x"',
        b"}}}",
    ),
    "numbers in args": (
        b'{"event": "sync_job_run:started", "payload": {"id": "r", "args": [0',
        b",1",
        b"]}}",
    ),
    "a byte order mark": (b'\xef\xbb\xbf{"event": "test", "payload": {"records": [0', b",1", b"]}}"),
    "byte order marks": (b"", b"\xef\xbb\xbf", b""),
    "NULs": (b"", b"\x00", b""),
}
SHAPES = tuple(_SHAPES)


def build_body(shape: str, size: int) -> bytes:
    """Return a body of a shape, of at most `size` bytes."""
    head, part, tail = _SHAPES[shape]
    numbered = part.replace(b"%07d", b"0000000")
    number = (size - len(head) - len(tail)) // len(numbered)
    if part == numbered:
        return head + part * number + tail
    return head + b"".join(part.replace(b"%07d", b"%07d" % place) for place in range(number)) + tail
