"""The contract of a sink, as tests to inherit; see docs/sinks.md."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from app.config.routes import Route
from app.errors import SinkUnavailable
from app.sink_contract.sent_records import SentRecords, send, write, write_batch, write_together
from app.sinks.base import AnySink
from app.truto.records import read_records as parse_records

# Of all records of the suite; `read_records` returns those of no other resource.
RESOURCE = "crm/contacts"
# By integrated account and key: the JSON text of a record, or its value with exact numbers.
StoredRecords = Mapping[tuple[str, str], Any]

_ROUTE = Route(sinks=("main",))
# Three versions of a record in each of six accounts, each twice and in another order: step by step.
_ALL_ORDERS = list(zip(*((*order, *order) for order in permutations((1, 2, 3))), strict=True))
_DECIMALS = (
    *("100000000000000000.01", "0.92156863212585449", "-0.1000000000000000055511151231257827", "1.10", "1E5"),
    *("1.5e-300", "-0.0", "1e308", "123456789012345678901234567890.5", "18446744073709551616", "2e-7"),
)
_SIMILAR_IDS = (
    *("aB1", "ab1", "AB1", "a", "a ", " a", r"a\t", r"a\u200b", "é", "e\u0301", "E\u0301", "ß", "ss"),
    *("i", "I", "\u0131", "\u0130", "\uff11", "1", "01", "+1", "1.0", "", "\ufb01", "fi"),
    *("%", "_", "a%", "%2F", "/", "'", r"\"", r"\\"),
)
_UNSTORABLE_IDS = (r"a\u0000", r"a\ud800", r"a\udfff", r"\u0000a", "a\ufffd", "a\ufffd\ufffd", "a")
_ODD_IDS = (
    *("null", '""', "true", "[1]", '{"a": 1}', f'"{"x" * 513}"', f'"{"x" * 514}"', f'"{"é" * 1500}"'),
    *(f'"{"x" * 512}"', "1.5", "123456789012345678901234567890", '"123456789012345678901234567890"'),
)


class SinkContract:
    """The tests of a sink. A subclass provides the fixtures `sink` and `read_records`.

    sink: an empty one. read_records: a function that returns the records of RESOURCE that are not deleted, in
    their newest versions, see StoredRecords. unreachable_sink: a sink whose server does not answer; optional.
    can_erase, can_count: if false, the sink has to raise SinkUnavailable.
    """

    can_erase = True
    can_count = True

    @pytest.fixture
    def sink(self) -> AnySink | Iterator[AnySink]:
        """Return an empty sink."""
        raise NotImplementedError("define a fixture `sink` in the class")

    @pytest.fixture
    def read_records(self) -> Callable[[], StoredRecords]:
        """Return a function that reads the sink."""
        raise NotImplementedError("define a fixture `read_records` in the class")

    @pytest.fixture
    def unreachable_sink(self) -> AnySink | Iterator[AnySink] | None:
        """Return a sink whose server does not answer, if there is one."""
        return None

    @pytest.fixture
    def stored(self, read_records: Callable[[], StoredRecords]) -> Callable[[], dict[tuple[str, str], Any]]:
        """Return a function that returns the records with exact numbers."""
        return lambda: {place: _parse(record) for place, record in read_records().items()}

    def test_records_are_stored_unchanged(self, sink: AnySink, stored: Any) -> None:
        texts = {
            "1": r'{"id": "1", "name": "Дарья 🙂", "quote\"\\": "new\nline", "in": {"a": [1, null, true]}}',
            "2": '{"id": "2", "big": 18446744073709551616, "empty": {}, "list": [], "none": null, "": ""}',
            "3": '{"id": 3, "no": false, "long": "%s"}' % ("x" * 100_000),
        }

        written = write(sink, _send(*texts.values()), _ROUTE)

        assert (written.written, written.rejected) == (3, [])
        assert stored() == {("a1", key): _parse(text) for key, text in texts.items()}

    def test_numbers_are_stored_exactly(self, sink: AnySink, stored: Any) -> None:
        texts = {str(n): f'{{"id": "{n}", "n": [{number}]}}' for n, number in enumerate(_DECIMALS)}

        assert write(sink, _send(*texts.values()), _ROUTE).written == len(_DECIMALS)

        assert stored() == {("a1", key): _parse(text) for key, text in texts.items()}

    def test_similar_ids_are_different_records(self, sink: AnySink, stored: Any) -> None:
        texts = [f'{{"id": "{id_}", "n": {n}}}' for n, id_ in enumerate(_SIMILAR_IDS)]

        for number in (1, 2):
            assert write(sink, _send(*texts, number=number), _ROUTE).written == len(texts)

        assert sorted(record["n"] for record in stored().values()) == list(range(len(texts)))

    def test_ids_that_are_missing_long_or_no_text_identify_a_record(self, sink: AnySink, stored: Any) -> None:
        texts = ["{}", *(f'{{"id": {id_}}}' for id_ in _ODD_IDS)]

        for number in (1, 2):
            assert write(sink, _send(*texts, number=number), _ROUTE).written == len(texts)

        # The number and the text of the same digits are one id.
        assert len(stored()) == len(texts) - 1

    def test_ids_with_unstorable_characters_are_different_records(self, sink: AnySink, stored: Any) -> None:
        texts = [f'{{"id": "{id_}", "n": {n}}}' for n, id_ in enumerate(_UNSTORABLE_IDS)]

        for number in (1, 2):
            assert write(sink, _send(*texts, number=number), _ROUTE).written == len(texts)

        assert sorted(record["n"] for record in stored().values()) == list(range(len(texts)))
        assert not any("\0" in record["id"] for record in stored().values())

    def test_deeply_nested_records_are_written_or_rejected(self, sink: AnySink, stored: Any) -> None:
        depths = (10, 100, 500, 900)
        texts = [f'{{"id": "{depth}", "v": {"[" * depth}{"]" * depth}}}' for depth in depths]

        written = write(sink, _send(*texts), _ROUTE)

        assert written.written + len(written.rejected) == len(depths)
        assert len(stored()) == written.written >= 2

    def test_a_rejected_record_does_not_block_the_others(self, sink: AnySink, stored: Any) -> None:
        written = write(sink, send([{"id": "1"}, {"id": "2", "n": 10**4400}, {"id": "3"}]), _ROUTE)

        assert written.written == 2
        assert [(record.ordinal, record.reason) for record in written.rejected] == [
            (1, "number_out_of_range")
        ]
        assert {key for _, key in stored()} == {"1", "3"}

    def test_an_empty_batch_is_written(self, sink: AnySink, stored: Any) -> None:
        assert write(sink, _send(), _ROUTE).written == 0
        assert stored() == {}

    def test_the_same_batch_again_changes_nothing(self, sink: AnySink, stored: Any) -> None:
        sent = _send('{"id": "1", "n": 1}', '{"id": "2", "n": 2}')

        counts = [write(sink, sent, _ROUTE).written for _ in range(3)]

        assert counts == [2, 2, 2]
        assert stored() == {("a1", "1"): {"id": "1", "n": 1}, ("a1", "2"): {"id": "2", "n": 2}}

    def test_a_large_batch_is_written(self, sink: AnySink, stored: Any) -> None:
        sent = send([{"id": str(number), "n": number} for number in range(10_000)])

        assert write(sink, sent, _ROUTE).written == 10_000

        assert sorted(record["n"] for record in stored().values()) == list(range(10_000))

    def test_an_older_version_never_replaces_a_newer_one(self, sink: AnySink, stored: Any) -> None:
        for step in _ALL_ORDERS:
            sent = [
                send([{"id": "1", "n": at_s}], at_s=at_s, number=at_s, account=f"a{account}")
                for account, at_s in enumerate(step)
            ]
            assert write_together(sink, sent, _ROUTE) == len(step)

        assert stored() == {(f"a{account}", "1"): {"id": "1", "n": 3} for account in range(6)}

    def test_equal_data_still_advances_the_version(self, sink: AnySink, stored: Any) -> None:
        for at_s, n in ((1, "a"), (3, "a"), (2, "b")):
            write(sink, send([{"id": "1", "n": n}], at_s=at_s, number=at_s), _ROUTE)

        assert stored() == {("a1", "1"): {"id": "1", "n": "a"}}

    def test_of_equal_versions_the_delivery_received_later_wins(self, sink: AnySink, stored: Any) -> None:
        for step in ((1, 2), (2, 1)):
            sent = [
                send([{"id": "1", "n": number}], number=number, account=f"a{account}")
                for account, number in enumerate(step)
            ]
            assert write_together(sink, sent, _ROUTE) == len(step)

        assert stored() == {(f"a{account}", "1"): {"id": "1", "n": 2} for account in range(2)}

    def test_the_last_record_of_a_key_in_a_batch_wins(self, sink: AnySink, stored: Any) -> None:
        sent = send([{"id": "1", "n": 1}, {"id": "2", "n": 1}, {"id": "1", "n": 2}, {"id": "1", "n": 3}])

        for _ in range(2):
            assert write(sink, sent, _ROUTE).written == 4

        assert stored() == {("a1", "1"): {"id": "1", "n": 3}, ("a1", "2"): {"id": "2", "n": 1}}

    def test_accounts_do_not_share_records(self, sink: AnySink, stored: Any) -> None:
        accounts = ("a1", "a2", "A1", "a1 ", "")
        sent = [send([{"id": "1", "of": account}], account=account) for account in accounts]
        assert write_together(sink, sent, _ROUTE) == len(accounts)

        assert {account: record["of"] for (account, _), record in stored().items()} == {
            account: account for account in accounts
        }

    def test_a_deletion_ends_the_same_in_every_order(self, sink: AnySink, stored: Any) -> None:
        for step in _ALL_ORDERS:
            sent = [
                send(
                    [{"id": "1", "n": at_s}],
                    at_s=at_s,
                    number=at_s,
                    account=f"a{account}",
                    is_deletion=at_s == 3,
                )
                for account, at_s in enumerate(step)
            ]
            write_together(sink, sent, _ROUTE)
        assert stored() == {}

        write(sink, send([{"id": "1", "n": 4}], at_s=4, number=4, account="a3"), _ROUTE)
        assert stored() == {("a3", "1"): {"id": "1", "n": 4}}

    def test_the_deletion_of_an_unknown_record_is_kept(self, sink: AnySink, stored: Any) -> None:
        assert write(sink, send([{"id": "1"}], at_s=2, is_deletion=True), _ROUTE).written == 1
        write(sink, send([{"id": "1"}], at_s=1, number=2), _ROUTE)

        assert stored() == {}

    def test_a_delivery_that_is_resumed_in_other_slices_is_written_once(
        self, sink: AnySink, stored: Any
    ) -> None:
        whole = send([{"id": str(number % 70), "n": number} for number in range(100)])

        def write_slice(first: int, end: int) -> None:
            records = [record for record in whole.route(_ROUTE).records if first <= record.ordinal < end]
            batch = replace(whole.header, records=records, first_ordinal=first)
            assert write_batch(sink, batch, _ROUTE).written == end - first

        # The job ends after the second slice; a later one writes all of it again, in smaller slices.
        for first, end in ((0, 40), (40, 80), (0, 40), (40, 50), (50, 60), (60, 100)):
            write_slice(first, end)

        assert stored() == {
            ("a1", str(key)): {"id": str(key), "n": key + 70 if key < 30 else key} for key in range(70)
        }

    def test_an_unreachable_server_is_reported_without_records(
        self, unreachable_sink: AnySink | None
    ) -> None:
        if unreachable_sink is None:
            pytest.skip("the class has no fixture `unreachable_sink`")
        sink: AnySink = unreachable_sink
        for call in (
            lambda: write(sink, send([{"id": "the-secret"}], account="the-secret"), _ROUTE),
            lambda: sink.count("the-secret"),
            lambda: sink.erase("the-secret"),
        ):
            with pytest.raises(SinkUnavailable) as failure:
                call()
            assert str(failure.value)
            assert "the-secret" not in str(failure.value)

    def test_erasing_an_account_removes_its_records_and_no_others(self, sink: AnySink, stored: Any) -> None:
        places = (("a1", RESOURCE), ("a1", "crm/deals"), ("a11", RESOURCE), ("", RESOURCE), ("A1", RESOURCE))
        sent = [
            send([{"id": str(number)}], number=number, account=account, resource=resource)
            for number, (account, resource) in enumerate(places)
        ]
        assert write_together(sink, sent, _ROUTE) == len(places)
        if not self.can_erase:
            with pytest.raises(SinkUnavailable):
                sink.erase("a1")
            return

        erased = [sink.erase(account) for account in ("a1", "a1", "a2")]

        assert erased == [2, 0, 0]
        assert {account for account, _ in stored()} == {"a11", "", "A1"}

    def test_the_data_of_an_account_is_counted(self, sink: AnySink) -> None:
        first, *others = (
            send([{"id": str(n)}], number=n, account=account) for n, account in enumerate(("a1", "a2", "a1"))
        )
        # Some sinks count files: each load writes its own.
        assert write(sink, first, _ROUTE).written == 1
        assert write_together(sink, others, _ROUTE) == 2
        if not self.can_count:
            # Zero would look like an account without data.
            with pytest.raises(SinkUnavailable):
                sink.count("a1")
            return

        assert [sink.count(account) for account in ("a1", "a2", "a3", "A1")] == [2, 1, 0, 0]

    def test_an_erased_account_can_be_written_again(self, sink: AnySink, stored: Any) -> None:
        if not self.can_erase:
            pytest.skip("the sink cannot erase")
        write(sink, send([{"id": "1"}], at_s=9), _ROUTE)
        sink.erase("a1")

        assert write(sink, send([{"id": "1", "n": 1}]), _ROUTE).written == 1
        assert stored() == {("a1", "1"): {"id": "1", "n": 1}}


def _send(*texts: str, **options: Any) -> SentRecords:
    """Return a delivery of records in JSON, as a worker reads them. options: of `send`."""
    body = f'{{"payload": {{"records": [{", ".join(texts)}]}}}}'.encode()
    parsed = parse_records(body)
    assert parsed is not None
    values = [value for _, value in parsed.records]
    return replace(send(values, **options), originals=parsed.originals)


def _parse(record: Any) -> Any:
    return json.loads(record, parse_float=Decimal) if isinstance(record, str) else record
