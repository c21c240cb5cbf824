"""Encrypted values are read back whole with their key and context, or not at all."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.settings import Settings, read_settings
from app.encryption import EncryptionKey, Keyring, find_key_id, is_encrypted
from app.errors import ConfigError, EncryptionKeyMissing
from app.store.compression import decompress

OLD, NEW = EncryptionKey.build(b"o" * 32), EncryptionKey.build(b"n" * 32)
OLD_RING, ROTATED, TURNED_OFF = Keyring((OLD,)), Keyring((NEW, OLD)), Keyring((OLD,), is_off=True)
CONTEXT = b"delivery 1"
SEGMENT = 64 * 1024
# Around the borders of segments.
SIZES = (1, 31, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 17)


def read_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part_bytes", [41, 1000, SEGMENT, SEGMENT + 16, 10 * SEGMENT])
def test_a_value_is_read_back_whole_and_in_parts(size: int, part_bytes: int) -> None:
    plain = os.urandom(size)

    stored = OLD_RING.encrypt(plain, CONTEXT)

    assert plain not in stored or size < 3
    assert find_key_id(stored) == OLD.id
    for keyring in (OLD_RING, ROTATED, TURNED_OFF):
        assert keyring.decrypt(stored, CONTEXT) == plain
    parts = [stored[start : start + part_bytes] for start in range(0, len(stored), part_bytes)]
    assert b"".join(OLD_RING.decrypt_parts(parts, CONTEXT)) == plain


@given(plain=st.binary(min_size=1, max_size=300), place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(plain: bytes, place: int, bit: int) -> None:
    stored = bytearray(OLD_RING.encrypt(plain, CONTEXT))
    stored[place % len(stored)] ^= 1 << bit

    if is_encrypted(bytes(stored)):
        with pytest.raises((ValueError, EncryptionKeyMissing)):
            OLD_RING.decrypt(bytes(stored), CONTEXT)
    else:
        # No compressed body begins like this either.
        with pytest.raises(ValueError, match="damaged"):
            decompress(bytes(stored))


def test_a_value_that_is_cut_repeated_or_moved_is_damaged() -> None:
    plain = os.urandom(3 * SEGMENT)
    stored = OLD_RING.encrypt(plain, CONTEXT)
    whole = SEGMENT + 16
    header = len(stored) - 3 * whole
    assert 0 < header < 64
    first, second, third = (stored[header + n * whole : header + (n + 1) * whole] for n in range(3))
    start = stored[:header]

    for changed in (
        start,
        start + first,
        start + first + second,
        start + second + first + third,
        start + first + first + third,
        start + first + second + third + third,
        stored[:-1],
        stored + b"x",
    ):
        with pytest.raises(ValueError, match="damaged"):
            OLD_RING.decrypt(changed, CONTEXT)
    with pytest.raises(ValueError, match="belongs to another row"):
        OLD_RING.decrypt(stored, b"delivery 2")


def test_equal_values_are_different_when_stored_and_equal_labels_are_equal() -> None:
    assert OLD_RING.encrypt(b"same", CONTEXT) != OLD_RING.encrypt(b"same", CONTEXT)
    assert OLD_RING.encrypt_text("same", CONTEXT) != OLD_RING.encrypt_text("same", CONTEXT)
    assert OLD_RING.encrypt_label("same", CONTEXT) == OLD_RING.encrypt_label("same", CONTEXT)
    assert OLD_RING.encrypt_label("same", CONTEXT) != OLD_RING.encrypt_label("same", b"another column")


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_read_back(plain: str) -> None:
    for keyring in (OLD_RING, Keyring()):
        for stored in (keyring.encrypt_text(plain, CONTEXT), keyring.encrypt_label(plain, CONTEXT)):
            assert ROTATED.decrypt_text(stored, CONTEXT) == plain
            assert not plain or keyring.current is None or find_key_id(stored) == OLD.id


@pytest.mark.parametrize("text", ["rapidbridge:encrypted:UkJF", "rapidbridge:plain:x", "rapidbridge:"])
def test_a_text_that_looks_encrypted_is_kept_as_it_was_sent(text: str) -> None:
    stored = Keyring().encrypt_text(text, CONTEXT)

    assert Keyring().decrypt_text(stored, CONTEXT) == text
    assert ROTATED.decrypt_text(stored, CONTEXT) == text


@pytest.mark.parametrize("value", [b"", b"x", b"RBE1", b"RBS1" + OLD.secret, b"RBE1" + b"x" * 24])
def test_an_invalid_text_is_damaged_or_names_its_key(value: bytes) -> None:
    with pytest.raises((ValueError, EncryptionKeyMissing)):
        OLD_RING.decrypt_text("rapidbridge:encrypted:" + read_text(value), CONTEXT)


def test_a_missing_key_is_named_and_its_value_is_unchanged() -> None:
    stored = OLD_RING.encrypt(b"body", CONTEXT)

    for keyring in (Keyring(), Keyring((NEW,))):
        with pytest.raises(EncryptionKeyMissing, match=f"key {OLD.id}, which is not in ENCRYPTION_KEYS"):
            keyring.decrypt(stored, CONTEXT)
    assert ROTATED.decrypt(stored, CONTEXT) == b"body"


def test_without_a_current_key_values_are_stored_as_they_are() -> None:
    for keyring in (Keyring(), TURNED_OFF):
        assert keyring.encrypt(b"body", CONTEXT) == b"body"
        assert keyring.encrypt_text("text", CONTEXT) == "text"
        assert keyring.decrypt(b"body", CONTEXT) == b"body"


@pytest.mark.parametrize("keyring", [OLD_RING, ROTATED, TURNED_OFF])
def test_every_value_has_the_prefix_of_its_key(keyring: Keyring) -> None:
    text_prefix, label_prefix = keyring.text_prefixes
    if keyring.current:
        assert keyring.encrypt(b"body", CONTEXT).startswith(keyring.prefix)
        assert keyring.encrypt_text("text", CONTEXT).startswith(text_prefix)
        assert keyring.encrypt_label("text", CONTEXT).startswith(label_prefix)
    else:
        assert keyring.prefix == b""


def test_no_representation_contains_a_key() -> None:
    settings = read_settings({"ENCRYPTION_KEYS": f"{read_text(NEW.secret)},{read_text(OLD.secret)}"})

    for shown in (repr(settings), repr(settings.encryption_keys), repr(NEW)):
        assert read_text(NEW.secret)[:8] not in shown
        assert "nnnn" not in shown
        assert "oooo" not in shown


def read_keys(text: str) -> Settings:
    return read_settings({"ENCRYPTION_KEYS": text})


def test_the_first_key_encrypts_and_off_encrypts_nothing() -> None:
    new, old = read_text(NEW.secret), base64.urlsafe_b64encode(OLD.secret).decode()

    keyring = read_keys(f"{new}, {old}").encryption_keys
    assert keyring.current == NEW
    assert keyring.ids == (NEW.id, OLD.id)
    keyring = read_keys(f"off,{old}").encryption_keys
    assert keyring.current is None
    assert keyring.ids == (OLD.id,)
    assert read_settings({}).encryption_keys.current is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x", "entry 1 is not a key"),
        ("{new},", "entry 2 is not a key"),
        ("{new},off", "entry 2 is not a key"),
        ("{new}=", "entry 1 is not a key"),
        ("{short}", "entry 1 is not a key"),
        ("{new},{new}", "has a key twice"),
        ("off,off", "entry 2 is not a key"),
    ],
)
def test_an_invalid_setting_is_refused_without_its_value(text: str, problem: str) -> None:
    new, short = read_text(NEW.secret), read_text(b"s" * 31)
    value = text.format(new=new, short=short)

    with pytest.raises(ConfigError, match=f"ENCRYPTION_KEYS.*{problem}") as error:
        read_keys(value)

    assert new not in str(error.value)
    assert short not in str(error.value)
