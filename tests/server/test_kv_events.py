"""Events of the prefix cache: from the index over the wire to vLLM's bytes."""

from __future__ import annotations

import msgspec
from beats import engine_info
from host_model import ShadowModel, make_request
from jaxpaged_server.engine_process.cache_journal import CacheJournal
from jaxpaged_server.engine_process.wire import CacheEvents, Cleared, Frames, Removed, Stored, frame, front_decoder
from jaxpaged_server.metrics.kv_events import block_hash, payload
from msgspec.structs import replace

from jaxpaged.buckets import BucketTable
from jaxpaged.prefix import block_key, root_key
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

KEYS = [bytes([byte]) * 32 for byte in (1, 0x9F, 3)]
# what vLLM 0.33.0's own structs (distributed/kv_events.py) encode to for the events below, with
# maybe_convert_block_hash of its v1/core/kv_cache_utils.py
GOLDEN = bytes.fromhex(
    "93cb41d954fc40200000948aa474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657392cf01010101"
    "01010101cf9f9f9f9f9f9f9f9fb1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473940102cd012c"
    "ce00011170aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0"
    "aa65787472615f6b6579739291d9206539646138366433353163663961373634326438633530313935633366343636c0"
    "a967726f75705f696478008aa474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391cf03030303"
    "03030303b1706172656e745f626c6f636b5f68617368cf9f9f9f9f9f9f9f9fa9746f6b656e5f696473920506aa626c6f"
    "636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0aa65787472615f6b65"
    "797391c0a967726f75705f6964780184a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391"
    "cf0101010101010101a66d656469756da3475055a967726f75705f6964780081a474797065b0416c6c426c6f636b7343"
    "6c656172656400"
)
TOLD = CacheEvents(
    at=1700000000.5,
    events=[
        Stored(group=0, parent=None, keys=KEYS[:2], tokens=[1, 2, 300, 70000], salt="tenant"),
        Stored(group=1, parent=KEYS[1], keys=KEYS[2:], tokens=[5, 6], salt="tenant"),
        Removed(group=0, keys=KEYS[:1]),
        Cleared(),
    ],
)


def test_the_bytes_are_vllms() -> None:
    assert payload(TOLD, replace(engine_info(), block_size=2)) == GOLDEN


def test_the_salt_itself_is_not_published() -> None:
    assert b"tenant" not in GOLDEN


def test_a_hash_is_the_low_half_of_a_half() -> None:
    assert block_hash(bytes(24) + (258).to_bytes(8, "big")) == 258
    assert block_hash(b"\xff" * 32) == 2**64 - 1


def test_what_is_told_of_an_engine_that_is_gone() -> None:
    told = CacheEvents(at=2.5, events=[Cleared()])
    assert msgspec.msgpack.decode(payload(told, None)) == [2.5, [{"type": "AllBlocksCleared"}], 0]


def test_events_go_over_the_wire_unchanged() -> None:
    (body,) = Frames().push(frame(TOLD))
    assert front_decoder().decode(body) == TOLD


def test_the_journal_joins_blocks_that_follow_each_other() -> None:
    journal = CacheJournal()
    a, b, c = KEYS
    journal.stored(0, a, None, [1, 2], "")
    journal.stored(1, a, None, [1, 2], "")
    journal.stored(0, b, a, [3, 4], "")
    journal.stored(1, b, a, [3, 4], "")
    journal.removed(0, a)
    journal.removed(0, b)
    journal.stored(0, c, b, [5, 6], "")
    assert journal.take() == [
        Stored(group=0, parent=None, keys=[a, b], tokens=[1, 2, 3, 4], salt=""),
        Stored(group=1, parent=None, keys=[a, b], tokens=[1, 2, 3, 4], salt=""),
        Removed(group=0, keys=[a, b]),
        Stored(group=0, parent=b, keys=[c], tokens=[5, 6], salt=""),
    ]
    assert journal.take() == []


def test_the_journal_keeps_chains_and_namespaces_apart() -> None:
    journal = CacheJournal()
    a, b, c = KEYS
    journal.stored(0, a, None, [1, 2], "x")
    journal.stored(0, b, None, [1, 2], "y")
    journal.stored(0, c, a, [3, 4], "x")
    assert [event.parent for event in journal.take() if isinstance(event, Stored)] == [None, None, a]
    journal.stored(0, a, None, [1, 2], "x")
    journal.take()
    journal.stored(0, b, a, [3, 4], "x")  # what was taken is not touched any more
    assert journal.take() == [Stored(group=0, parent=a, keys=[b], tokens=[3, 4], salt="x")]


def test_a_reset_makes_what_came_before_it_void() -> None:
    journal = CacheJournal()
    journal.stored(0, KEYS[0], None, [1, 2], "")
    journal.cleared()
    journal.stored(0, KEYS[1], None, [3, 4], "")
    assert journal.take() == [Cleared(), Stored(group=0, parent=None, keys=KEYS[1:2], tokens=[3, 4], salt="")]


def test_a_scheduler_writes_the_journal() -> None:
    journal = CacheJournal()
    scheduler = Scheduler(
        SchedulerConfig(max_rows=2, max_step_tokens=16, max_model_len=30, chunk_align=4),
        KVPoolSpec(block_size=4, num_blocks=4),
        BucketTable.build(max_rows=2, max_step_tokens=16, min_rows=2, min_step_tokens=8),
        listener=journal,
    )
    model = ShadowModel(scheduler, max_model_len=30)

    def run(prompt: list[int]) -> list[Stored | Removed | Cleared]:
        scheduler.submit(make_request(f"r{prompt}", prompt, max_tokens=1))
        while scheduler.has_work:
            plan = scheduler.plan()
            assert plan is not None
            scheduler.launch(plan)
            scheduler.commit(plan, model.execute(plan))
        return journal.take()

    first = block_key(root_key("", ""), [1, 2, 3, 4])
    second = block_key(first, [5, 6, 1, 2])
    assert run([1, 2, 3, 4, 5, 6, 1, 2, 3]) == [
        Stored(group=0, parent=None, keys=[first, second], tokens=[1, 2, 3, 4, 5, 6, 1, 2], salt="")
    ]
    assert run([1, 2, 3, 4, 5, 6, 1, 2, 3]) == [], "a hit changes nothing"
    other = block_key(root_key("", ""), [6, 6, 6, 6])
    assert run([6, 6, 6, 6, 6, 6]) == [
        Removed(group=0, keys=[second]),
        Stored(group=0, parent=None, keys=[other], tokens=[6, 6, 6, 6], salt=""),
    ]
