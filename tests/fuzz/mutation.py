"""Mutation of inputs: bytes, tokens, parts of other inputs, and values of JSON."""

import json
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from tests.fuzz.targets import Target

MAX_INPUT_BYTES = 4096
_MAX_MUTATIONS = 4
_BYTES = bytes(range(256))
_INTERESTING = b'\0\x01\x7f\x80\xc3\xe2\xed\xf4\xff\n\r\t "\\{}[],:=%$'
_SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 2**64, 10**30, 0.1, -0.0, 1e308, 1e-320, "", "a", "\0", "\ud800"),
    *("é", "😀", "\ufeff", "1", "1e5", "2026-11-24T10:00:00Z", "x" * 250, "a/b", "..", "NaN"),
)


class Mutator:
    """Makes new inputs from a corpus; the same seed makes the same ones."""

    def __init__(self, target: Target, corpus: Iterable[bytes], seed: str) -> None:
        self._random = Random(seed)
        self._corpus = list(corpus)
        self._tokens = target.tokens
        self._is_json = target.is_json

    def add(self, content: bytes) -> None:
        """Add an input to the corpus."""
        self._corpus.append(content)

    def mutate(self) -> bytes:
        """Return an input made from those of the corpus, of at most MAX_INPUT_BYTES."""
        random = self._random
        content = random.choice(self._corpus)
        if self._is_json and random.random() < 0.3 and (mutated := self._mutate_json(content)) is not None:
            content = mutated
            if random.random() < 0.5:
                return content[:MAX_INPUT_BYTES]
        for _ in range(random.randint(1, _MAX_MUTATIONS)):
            content = random.choice(_MUTATIONS)(self, content)
        return content[:MAX_INPUT_BYTES]

    def _place(self, content: bytes) -> int:
        return self._random.randrange(len(content) + 1)

    def _flip_bit(self, content: bytes) -> bytes:
        if not content:
            return self._insert_byte(content)
        place = self._random.randrange(len(content))
        changed = content[place] ^ (1 << self._random.randrange(8))
        return content[:place] + _BYTES[changed : changed + 1] + content[place + 1 :]

    def _insert_byte(self, content: bytes) -> bytes:
        place, byte = self._place(content), self._random.choice(_INTERESTING)
        return content[:place] + _BYTES[byte : byte + 1] + content[place:]

    def _replace_byte(self, content: bytes) -> bytes:
        place, byte = self._place(content), self._random.randrange(256)
        return content[:place] + _BYTES[byte : byte + 1] + content[place + 1 :]

    def _truncate(self, content: bytes) -> bytes:
        place = self._place(content)
        return content[:place] if self._random.random() < 0.7 else content[place:]

    def _remove_part(self, content: bytes) -> bytes:
        place = self._place(content)
        return content[:place] + content[place + self._random.randint(1, 16) :]

    def _repeat_part(self, content: bytes) -> bytes:
        place = self._place(content)
        part = content[place : place + self._random.randint(1, 32)]
        return content[:place] + part * self._random.randint(1, 8) + content[place:]

    def _insert_token(self, content: bytes) -> bytes:
        if not self._tokens:
            return self._insert_byte(content)
        place = self._place(content)
        end = place if self._random.random() < 0.5 else place + self._random.randint(1, 12)
        return content[:place] + self._random.choice(self._tokens) + content[end:]

    def _splice(self, content: bytes) -> bytes:
        other = self._random.choice(self._corpus)
        start = self._place(other)
        return content[: self._place(content)] + other[start : start + self._random.randint(1, 400)]

    def _mutate_json(self, content: bytes) -> bytes | None:
        """Return JSON with one changed value; None if the content is no JSON."""
        try:
            value = json.loads(content)
            changed = self._change_value(value, 6)
            text = json.dumps(changed, ensure_ascii=self._random.random() < 0.5)
        except (ValueError, RecursionError):
            return None
        return text.encode(errors="surrogatepass")

    def _change_value(self, value: Any, levels: int) -> Any:
        """Change one place of a value, at most `levels` below it."""
        random = self._random
        if not value or levels == 0 or random.random() < 0.15 or not isinstance(value, dict | list):
            return self._replace_value(value)
        if isinstance(value, list):
            place = random.randrange(len(value))
            if random.random() < 0.1:
                return value[:place] + value[place : place + 1] * random.randint(0, 5) + value[place:]
            return [*value[:place], self._change_value(value[place], levels - 1), *value[place + 1 :]]
        name = random.choice(list(value))
        if random.random() < 0.1:
            return {member: item for member, item in value.items() if member != name}
        return {**value, name: self._change_value(value[name], levels - 1)}

    def _replace_value(self, value: Any) -> Any:
        random = self._random
        kind = random.randrange(6)
        if kind == 0:
            return [value] * random.randint(0, 4)
        if kind == 1:
            return {random.choice(("id", "records", "payload", "", "\0", "resource")): value}
        if kind == 2 and isinstance(value, str):
            return value[: random.randrange(len(value) + 1)] + random.choice(("", "\0", "\ud83d", "é", '"'))
        return random.choice(_SCALARS)


_MUTATIONS: tuple[Callable[[Mutator, bytes], bytes], ...] = (
    Mutator._flip_bit,
    Mutator._insert_byte,
    Mutator._replace_byte,
    Mutator._truncate,
    Mutator._remove_part,
    Mutator._repeat_part,
    Mutator._insert_token,
    Mutator._insert_token,
    Mutator._splice,
)
