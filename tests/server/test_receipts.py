import pytest

from server.receipts import LONGEST_REASON, ReceiptBook, refusal
from server.records import ConflictRecord, RefusalRecord, UpdateRecord
from wire_protocol.topics import Part

PART = Part("a", "run", 1, None)
FIRST, SECOND = b"1" * 32, b"2" * 32


@pytest.fixture
def book() -> ReceiptBook:
    return ReceiptBook(1)


def test_an_unknown_update_is_to_be_judged(book: ReceiptBook) -> None:
    assert book.standing(PART, FIRST) is None
    assert (book.accepted, book.rejected) == (0, 0)


def test_the_same_hash_gets_the_same_receipt_again(book: ReceiptBook) -> None:
    given = book.accept(PART, FIRST)
    assert given.accepted
    assert book.standing(PART, FIRST) == given
    assert (book.accepted, book.rejected) == (1, 0)


def test_another_hash_after_counting_is_refused_and_held_once(book: ReceiptBook) -> None:
    book.accept(PART, FIRST)
    refusals = [book.standing(PART, SECOND) for _ in range(3)]
    assert refusals[0] == refusals[1] == refusals[2]
    assert refusals[0] is not None
    assert not refusals[0].accepted
    assert refusals[0].sha256 == SECOND
    assert "another update" in refusals[0].reason
    assert (book.accepted, book.rejected) == (1, 1)
    assert book.standing(PART, FIRST).accepted


def test_a_refusal_stands_for_its_hash_only(book: ReceiptBook) -> None:
    given = book.refuse(PART, FIRST, "no")
    assert book.standing(PART, FIRST) == given
    assert book.standing(PART, SECOND) is None
    assert book.accept(PART, SECOND).accepted
    assert (book.accepted, book.rejected) == (1, 1)


def test_devices_have_their_own_answers(book: ReceiptBook) -> None:
    book.accept(PART, FIRST)
    assert book.standing(PART._replace(device="b"), FIRST) is None


def test_what_a_device_sent_cannot_make_a_receipt_long(book: ReceiptBook) -> None:
    long = "x" * 10**6
    assert book.refuse(PART, FIRST, long) == book.standing(PART, FIRST) == refusal(PART, FIRST, long)
    assert len(refusal(PART, FIRST, long).reason) == LONGEST_REASON


def test_a_conflict_is_flagged_once_for_each_hash(book: ReceiptBook) -> None:
    book.accept(PART, FIRST)
    for digest in (SECOND, SECOND, b"3" * 32):
        book.standing(PART, digest)
    assert book.take_conflicts() == (ConflictRecord("run", 1, "a", b"3" * 32, times=2),)
    assert book.take_conflicts() == ()
    book.standing(PART, SECOND)
    assert book.take_conflicts() == (ConflictRecord("run", 1, "a", SECOND, times=1),)


def test_a_book_made_from_rows_gives_the_same_answers(book: ReceiptBook) -> None:
    other = PART._replace(device="b")
    given = [book.accept(PART, FIRST), book.refuse(other, SECOND, "no")]
    restored = ReceiptBook(
        1,
        (),
        [UpdateRecord("run", 1, "a", FIRST, 0, 10, 1)],
        [RefusalRecord("run", 1, "b", SECOND, "no", "malformed")],
        [ConflictRecord("run", 1, "a", SECOND, times=3)],
    )
    assert [restored.standing(PART, FIRST), restored.standing(other, SECOND)] == given
    assert (restored.accepted, restored.rejected) == (1, 4)
    assert [restored.has_answered(name) for name in "abc"] == [True, True, False]


def test_answers_to_updates_that_still_count_outlive_their_round_and_its_account(book: ReceiptBook) -> None:
    other = PART._replace(device="b")
    given = [book.accept(PART, FIRST), book.refuse(other, SECOND, "no")]
    later = book.following(2, earlier=[1])
    assert [later.standing(PART, FIRST), later.standing(other, SECOND)] == given
    assert (later.accepted, later.late, later.rejected) == (0, 0, 0)
    assert not later.has_answered("a")
    assert later.accept(PART._replace(round=2), SECOND).accepted
    assert later.accept(other, FIRST).accepted
    assert later.accept(other, FIRST).accepted
    assert (later.accepted, later.late) == (2, 1)
    latest = later.following(3, earlier=[2])
    assert latest.standing(PART, FIRST) is None
    assert latest.standing(PART._replace(round=2), SECOND).accepted
    assert "another update" in latest.standing(PART._replace(round=2), FIRST).reason
    assert latest.take_conflicts() == (ConflictRecord("run", 2, "a", FIRST, times=1),)


def test_rounds_that_are_over_take_one_place_a_device(book: ReceiptBook) -> None:
    for number in range(5, 50):
        book.refuse(PART._replace(round=number), FIRST, "not open")
    assert len(book._refused) == 1
    assert book.standing(PART, FIRST) is None
