"""Cursors say what they were given, and nothing but what a key of ours sealed is believed."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cursor import MAX_CHARACTERS, REFUSED, VERSION, CursorCodec, CursorWriter, Position
from gateway.errors import InvalidCursor
from gateway.model import ABSENT, Vector

ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
CODEC = CursorCodec([b"the first key of tests"])
OTHER = CursorCodec([b"another key of tests"])
POSITION = Position((1, 22, 333, 4444), 7)

offsets = st.one_of(st.just(ABSENT), st.integers(0, 1 << 41), st.integers(0, (1 << 63) - 1))
vectors = st.lists(offsets, max_size=40).map(tuple)
incarnations = st.integers(0, (1 << 32) - 1)


def refusal(text: str, *, codec: CursorCodec = CODEC, stream: str = "flights") -> str:
    with pytest.raises(InvalidCursor) as caught:
        codec.decode(text, stream=stream)
    return str(caught.value)


@given(vector=vectors, incarnation=incarnations, stream=st.text(min_size=1, max_size=40))
def test_a_cursor_says_the_position_it_was_made_of(vector: Vector, incarnation: int, stream: str) -> None:
    position = Position(vector, incarnation)
    text = CODEC.encode(stream, position)
    assert set(text) <= set(ALPHABET)
    assert CODEC.decode(text, stream=stream) == position
    assert CODEC.encode(stream, position) == text, "equal positions give equal cursors"


@given(vector=st.lists(st.integers(0, 1 << 40), min_size=4, max_size=4).map(tuple), index=st.integers(0, 3))
def test_a_shards_cursor_holds_its_own_partitions_only(vector: Vector, index: int) -> None:
    text = CODEC.encode("flights", Position(vector, 1, (index, 4)))
    found = CODEC.decode(text, stream="flights")
    assert found.shard == (index, 4)
    assert found.vector == tuple(at if partition == index else ABSENT for partition, at in enumerate(vector))


@given(vector=st.lists(st.integers(0, 1 << 40), min_size=12, max_size=12).map(tuple), incarnation=incarnations)
def test_twelve_partitions_below_2_to_the_40_fit_into_128_characters(vector: Vector, incarnation: int) -> None:
    assert len(CODEC.encode("flights", Position(vector, incarnation))) <= 128


def test_the_length_tells_nothing_of_the_volume() -> None:
    sizes = {len(CODEC.encode("flights", Position((n, 0, n), 1))) for n in (0, 1, 300, 70_000, 1 << 32, (1 << 40) - 2)}
    assert len(sizes) == 1


@given(
    start=st.lists(st.integers(0, 1 << 41), max_size=6).map(tuple),
    moves=st.lists(st.tuples(st.integers(0, 8), st.integers(0, (1 << 63) - 2)), max_size=12),
)
def test_a_writer_that_was_moved_seals_what_one_made_there_would(start: Vector, moves: list[tuple[int, int]]) -> None:
    writer = CODEC.writer("flights", Position(start, 3))
    vector = list(start)
    for partition, to in moves:
        writer.advance(partition, to)
        vector += [ABSENT] * (partition + 1 - len(vector))
        vector[partition] = to
        assert writer.vector() == tuple(vector)
        assert CODEC.decode(writer.text(), stream="flights") == Position(tuple(vector), 3)


def test_every_changed_character_is_noticed() -> None:
    text = CODEC.encode("flights", POSITION)
    for at, was in enumerate(text):
        for character in ALPHABET:
            if character != was:
                refusal(text[:at] + character + text[at + 1 :])


def test_every_changed_bit_is_noticed() -> None:
    text = CODEC.encode("flights", POSITION)
    sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        refusal(base64.urlsafe_b64encode(changed).rstrip(b"=").decode())


def test_what_was_cut_or_added_to_is_refused() -> None:
    text = CODEC.encode("flights", POSITION)
    for size in range(len(text)):
        refusal(text[:size])
    for more in ("A", "AA", "AAAA", text, "=", "\n", " "):
        refusal(text + more)
        refusal(more + text)


@given(st.binary(max_size=120))
def test_what_nobody_sealed_is_refused(data: bytes) -> None:
    refusal(base64.urlsafe_b64encode(data).rstrip(b"=").decode())
    head = base64.urlsafe_b64decode(CODEC.encode("flights", POSITION)[:4])[:2]
    refusal(base64.urlsafe_b64encode(head + data).rstrip(b"=").decode())


@given(st.text(max_size=200))
def test_any_text_is_answered_with_a_refusal(text: str) -> None:
    refusal(text)


def test_another_streams_cursor_and_another_keys_are_refused() -> None:
    text = CODEC.encode("flights", POSITION)
    refusal(text, stream="flight")
    refusal(text, stream="flights2")
    refusal(text, codec=OTHER)
    refusal(OTHER.encode("flights", POSITION))


def test_every_refusal_reads_the_same() -> None:
    text = CODEC.encode("flights", POSITION)
    reasons = {
        refusal(text, stream="other"),
        refusal(text, codec=OTHER),
        refusal(text[:-4]),
        refusal("B" + text[1:]),
        refusal("not base64!"),
        refusal(""),
        refusal("A" * (MAX_CHARACTERS + 1)),
    }
    assert len(reasons) == 1


def test_keys_rotate() -> None:
    old, new = b"the old key of tests", b"the new key of tests"
    before, during, after = CursorCodec([old]), CursorCodec([new, old]), CursorCodec([new])
    issued_before, issued_during = before.encode("s", POSITION), during.encode("s", POSITION)
    assert during.decode(issued_before, stream="s") == POSITION
    assert after.decode(issued_during, stream="s") == POSITION
    refusal(issued_before, codec=after, stream="s")


def test_a_partition_without_a_position_stays_without_one() -> None:
    vector = (5, ABSENT, 0, (1 << 40) - 1, ABSENT)
    assert CODEC.decode(CODEC.encode("s", Position(vector, 1)), stream="s").vector == vector


def test_only_the_one_spelling_of_base64url_is_taken() -> None:
    # Where the last character has loose bits, others would decode to the same bytes.
    for vector, loose in (((1, 2, 3), 4), ((1, 2, 3, 4), 16)):
        text = CODEC.encode("flights", Position(vector, 1))
        last = ALPHABET.index(text[-1])
        group = ALPHABET[last - last % loose :][:loose]
        assert {base64.urlsafe_b64decode(text[:-1] + other + "==") for other in group} == {
            base64.urlsafe_b64decode(text + "==")
        }
        for other in group.replace(text[-1], ""):
            refusal(text[:-1] + other)
    for spelled in (text + "=", text + "==", f" {text}", f"{text}\n", text.replace("-", "+").replace("_", "/") + "+"):
        refusal(spelled)


@pytest.mark.parametrize("keys", [[], [b"too short"], [b"long enough as a key", b"short"]])
def test_keys_that_protect_nothing_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        CursorCodec(keys)


def test_writers_at_one_place_are_the_same_and_apart() -> None:
    codec = CursorCodec([b"0123456789abcdef"])
    place = ("flights", (5, 7, 9), 3, (0, 1))

    def writer_at(stream: str, vector: Vector, incarnation: int, shard: tuple[int, int]) -> CursorWriter:
        return codec.writer_at(stream, vector, incarnation=incarnation, shard=shard)

    first = writer_at(*place)
    first.advance(1, 100)
    second = writer_at(*place)
    assert second.text() == codec.writer("flights", Position((5, 7, 9), 3)).text()
    assert codec.decode(first.text(), stream="flights").vector == (5, 100, 9)
    for other in (
        ("ships", (5, 7, 9), 3, (0, 1)),
        ("flights", (5, 7, 8), 3, (0, 1)),
        ("flights", (5, 7, 9), 4, (0, 1)),
        ("flights", (5, 7, 9), 3, (1, 2)),
    ):
        stream, vector, incarnation, shard = other
        assert writer_at(*other).text() == codec.encode(stream, Position(vector, incarnation, shard))


# ---- rolling upgrades ------------------------------------------------------------------------------------------------

GOLDEN_KEY = b"the key of the golden cursors"
GOLDEN = {
    "AVSVUkkl6StsyvU2esjGEKtLw-v4mQ": Position((0,), 1),
    "AVTedktBV0QlnL7EndT2cShWUrKOU-FRqOcJGjUuPJyxGZQjWg": Position((1, 22, 333, 4444), 7),
    "AVTIyMZNR9WnJl7_FjQxpqjduRZQULG4iAJ8hiJYhPcmGUpWlQDlI_5Rr7ObMQa-Eg7O0m6vpmXR7esm4TI0EhqwJA664XB5_6_flQw": Position(
        tuple(range(1000, 13_000, 1000)), 1
    ),
    "AVQcKT2WDR_fDbbfX_Bt2EqnAQEJ_OtP8lYs_5j2yZk": Position((5, ABSENT, (1 << 40) - 2), (1 << 32) - 1),
    "AVQHNR2_bkDcJt0pX1B814ArE4HIUr_YBIv8r5U": Position((1 << 40, 3), 2),
    "AVSvDn8GPlZjg16cbLsHa6gHljldPZoE8znI9jl_5eRK9ZZwrg": Position((ABSENT, 8, ABSENT, 10), 3, (1, 2)),
    "AVSUlF2w_7u61lZYqM6h9sNTDCiNAQ-42w": Position((1 << 62,), 1),
    "AVQyv_-eS30N0QjV-RZZSPw": Position((), 1),
}
"""Cursors as partners hold them, each as version 1 sealed it. Never changed: a new version is added beside."""


def test_cursors_that_partners_hold_since_version_1_still_open() -> None:
    """If this fails, every partner would lose its place at the next upgrade.

    A new format gets a version of its own, is first understood by every node and only then sealed by any: while nodes
    of two releases run side by side, the older ones refuse what they do not know.
    """
    codec = CursorCodec([GOLDEN_KEY])
    assert {text: codec.decode(text, stream="flights") for text in GOLDEN} == GOLDEN


def test_this_version_seals_what_version_1_sealed() -> None:
    """Nodes of the release before read what this one gives, and equal positions stay equal over an upgrade."""
    codec = CursorCodec([GOLDEN_KEY])
    assert [codec.encode("flights", position) for position in GOLDEN.values()] == list(GOLDEN)


@given(version=st.integers(0, 255).filter(lambda number: number != VERSION), text=st.sampled_from(list(GOLDEN)))
def test_a_cursor_of_a_version_that_is_not_known_is_refused_and_harms_nothing(version: int, text: str) -> None:
    """As an older node meets it in a rolling upgrade: a 400 like for any other, whatever follows the version."""
    codec = CursorCodec([GOLDEN_KEY])
    sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    later = base64.urlsafe_b64encode(bytes((version,)) + sealed[1:]).decode().rstrip("=")
    with pytest.raises(InvalidCursor) as caught:
        codec.decode(later, stream="flights")
    assert (caught.value.code, caught.value.status, caught.value.close_code) == ("invalid_cursor", 400, 4400)
    assert str(caught.value) == REFUSED, "not even that it is of another version"
    assert codec.decode(text, stream="flights") == GOLDEN[text]
