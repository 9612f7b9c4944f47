from server.releases.offer_book import OFFER_SECONDS, OfferBook, Posting, Wanted
from server.releases.rollout import Said

NEW = Wanted("0.2.0", 1)


def test_what_changed_is_said_once_and_anew_before_it_ends():
    book = OfferBook()
    assert book.due({"a": NEW, "b": None}, 0) == [Posting("a", NEW, OFFER_SECONDS), Posting("b", None, OFFER_SECONDS)]
    assert book.due({"a": NEW, "b": None}, OFFER_SECONDS / 2) == []
    assert [one.device for one in book.due({"a": NEW, "b": None}, OFFER_SECONDS / 2 + 1)] == ["a"]
    assert [one.wanted for one in book.due({"a": None, "b": NEW}, OFFER_SECONDS / 2 + 2)] == [None, NEW]
    book.forget()
    assert len(book.due({"a": None, "b": NEW}, 0)) == 2


def test_who_reports_without_knowing_of_it_is_told_again():
    book = OfferBook()
    book.due({"a": NEW, "b": NEW, "c": None}, 0)
    reports = {
        "a": Said("0.2.0", 1, "fetching"),
        "b": Said("", 0, "none"),
        "c": Said("", 0, "none"),
        "d": Said("", 0, "none"),
    }
    assert [one.device for one in book.again(reports)] == ["b"]
