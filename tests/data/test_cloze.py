"""Cloze questions: what a guess reaches, sentences, and the questions of two translators."""

import pytest
import pythonbible
from pythonbible.errors import MissingBiblePackageError

from lnjax.data import DataError, cloze, scripture, two_translators

QUESTION = {
    "passage": "@entity1 saw @entity2 in the city . @entity1 left the red city of @entity3 .",
    "question": "@entity1 went away from the town of @placeholder .",
    "answer": "@entity3",
}


def test_baselines_of_one_question():
    # The windows of 4 have "the", "of" and "." in common at @entity3, "the" at the two others.
    assert cloze.baselines([QUESTION]) == {
        "random": pytest.approx(1 / 3),
        "most frequent": 0.0,
        "most frequent not in the question": 0.5,  # @entity2 and @entity3, once each
        "word overlap": 1.0,
    }
    assert cloze.baselines([{**QUESTION, "answer": "@entity1"}])["most frequent"] == 1
    lost = cloze.baselines([{**QUESTION, "answer": "@entity9"}])
    assert lost == dict.fromkeys(lost, 0.0)
    both = cloze.baselines([QUESTION, {**QUESTION, "answer": "@entity1"}])
    assert both["most frequent"] == 0.5 and both["word overlap"] == 0.5
    with pytest.raises(ValueError, match="no questions"):
        cloze.baselines([])


def test_where_the_question_names_all_of_them_all_of_them_count():
    question = {
        "passage": "@entity1 and @entity1 and @entity2",
        "question": "@placeholder or @entity1 or @entity2",
        "answer": "@entity1",
    }
    assert cloze.baselines([question])["most frequent not in the question"] == 1


def test_no_entity_in_the_passage():
    question = {"passage": "nobody .", "question": "@placeholder ?", "answer": "@entity1"}
    assert set(cloze.baselines([question]).values()) == {0.0}


def test_word_overlap_counts_a_word_as_often_as_both_have_it():
    scores = cloze.word_overlap(
        "a a @entity0 b c d e f @entity1 a".split(), "a @placeholder b b".split()
    )
    assert scores == {"@entity0": 2, "@entity1": 1}


def test_sentences():
    text = "he said : ' no ! ' then he left . `` why ? '' the end".split()
    assert [" ".join(sentence) for sentence in cloze.sentences(text)] == [
        "he said : ' no ! '",
        "then he left .",
        "`` why ? ''",
        "the end",
    ]
    assert cloze.sentences(["a", "."]) == [["a", "."]]
    assert cloze.sentences([]) == []


def test_relevant_sentences_keep_the_order_of_the_text():
    text = "a b . c d . e . a c e . f . c c c .".split()
    # a and c are asked: 1, 1, 0, 2, 0 and 1 of them; punctuation does not count.
    question = "a c . @placeholder".split()
    chosen = {n: " ".join(cloze.relevant_sentences(text, question, n)) for n in (1, 2, 3, 9)}
    assert chosen[1] == "a c e ."
    assert chosen[2] == "a b . a c e ."  # of those that tie the earlier
    assert chosen[3] == "a b . c d . a c e ."
    assert chosen[9] == " ".join(text)


# ---- two translators -------------------------------------------------------------------------


def test_names_by_rule():
    texts = ["Then Noah went; the ark of Noah, and Behold Noah."] * 2 + [
        "Amen, amen. GOD and I, I, I"
    ]
    assert two_translators.names(texts) == {"Noah"}
    # Twice in mid-sentence is not enough, and what begins a sentence does not count.
    assert two_translators.names(["Noah went. Noah and Noah, Noah"]) == frozenset()
    often = ["the Lot of Lot and Lot", "a lot"]
    assert two_translators.names(often) == frozenset()  # a quarter in lower case
    assert two_translators.names([often[0]] * 10 + ["a lot"]) == {"Lot"}


def test_a_missing_translation_is_refused(monkeypatch):
    def missing(version, version_type):
        raise MissingBiblePackageError("No package found for\n ASV.")

    monkeypatch.setattr(pythonbible, "get_bible", missing)
    with pytest.raises(DataError, match=r"^AMERICAN_STANDARD: No package .*pip install"):
        scripture.verses("AMERICAN_STANDARD")


@pytest.fixture(scope="module")
def questions(cloze_questions):
    return {split: list(records) for split, records in cloze_questions.splits.items()}


def test_the_set_is_what_it_says(questions):
    assert {split: len(of_split) for split, of_split in questions.items()} == (
        two_translators.NUM_QUESTIONS
    )
    books = {
        split: {example["id"].rsplit(" ", 1)[0] for example in of_split}
        for split, of_split in questions.items()
    }
    assert books["validation"] == {"1 Samuel", "Matthew"} and books["test"] == {"Acts"}
    assert not books["train"] & (books["validation"] | books["test"]) and len(books["train"]) > 55
    for split, of_split in questions.items():
        assert len({example["id"] for example in of_split}) == len(of_split), split
        for example in of_split[:500]:
            passage, question = example["passage"].split(), example["question"].split()
            assert question.count(cloze.PLACEHOLDER) == 1
            assert cloze.PLACEHOLDER not in passage
            assert example["answer"] in passage and example["answer"] not in question
            named = set(filter(cloze.is_entity, passage))
            assert len(named) >= 2
            assert {int(name[7:]) for name in named} <= set(range(two_translators.NUM_ENTITIES))
            assert not any(token.startswith("@n") for token in passage + question)


def test_numbers_of_the_entities_say_nothing(questions):
    answers = [int(example["answer"][7:]) for example in questions["train"]]
    counts = [answers.count(number) for number in range(two_translators.NUM_ENTITIES)]
    expected = len(answers) / two_translators.NUM_ENTITIES
    assert max(abs(count - expected) for count in counts) < 5 * expected**0.5


def test_a_question_one_can_read(questions):
    (example,) = (e for e in questions["train"] if e["id"] == "Genesis 18:1/1/10")
    assert example["question"].startswith("and the lord appeared unto him in the plains of ")
    assert "appeared to him by the oaks of " + example["answer"] in example["passage"]
