"""The texts to measure on: enough of them, apart from each other, and apart from what the model trains on."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from actadd_lens import storybook

TRAINING_TEXTS = Path(__file__).parents[1] / "training" / "texts"
SHARED_RUN = 8  # everyday phrases of six or seven words recur by chance; eight in a row are a copy


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[start : start + SHARED_RUN]) for start in range(len(words) - SHARED_RUN + 1)}


def sentences_of(text: str) -> set[str]:
    # A dialogue turn ends at its line, a sentence in prose at its stop; the measured text may hold either.
    parts = re.split(r"(?<=[.!?])[\"']?\s+|\n", text)
    return {" ".join(words_of(part)) for part in parts if len(words_of(part)) > 3}


def topic_sentences() -> list[str]:
    return [sentence for topic in storybook.topics().values() for sentence in topic.sentences]


def sentiment_sentences() -> list[str]:
    return [sentence for group in storybook.sentiment_sentences().values() for sentence in group]


def all_topic_words() -> set[str]:
    return {word for topic in storybook.topics().values() for word in topic.words}


def measured_texts() -> list[str]:
    cloze = [fact.prompt + fact.answer for fact in storybook.cloze_facts()]
    prompts = [*storybook.neutral_prompts(), *storybook.hostile_prompts()]
    return [*topic_sentences(), *sentiment_sentences(), *prompts, *cloze]


def test_there_are_eight_topics_or_more_with_forty_eight_sentences_each() -> None:
    topics = storybook.topics()
    assert len(topics) >= 8
    assert {name: len(topic.sentences) for name, topic in topics.items() if len(topic.sentences) < 48} == {}
    assert [topic.name for topic in topics.values()] == list(topics)


def test_the_wedding_words_are_the_nine_of_the_paper() -> None:
    paper = ["wedding", "weddings", "wed", "marry", "married", "marriage", "bride", "groom", "honeymoon"]
    assert storybook.topics()["weddings"].words == tuple(paper)


def test_topic_words_are_nine_to_twenty_whole_lower_case_words() -> None:
    for topic in storybook.topics().values():
        assert 9 <= len(topic.words) <= 20, topic.name
        assert all(re.fullmatch("[a-z]+", word) for word in topic.words), topic.name


def test_no_word_belongs_to_two_topics() -> None:
    counts = Counter(word for topic in storybook.topics().values() for word in topic.words)
    assert [word for word, count in counts.items() if count > 1] == []


def test_the_sentences_of_a_topic_hold_no_word_of_another() -> None:
    for topic in storybook.topics().values():
        others = all_topic_words() - set(topic.words)
        strays = {text: others & set(words_of(text)) for text in topic.sentences if others & set(words_of(text))}
        assert strays == {}


def test_most_sentences_of_a_topic_hold_a_word_of_it_and_some_do_not() -> None:
    for topic in storybook.topics().values():
        share = sum(bool(set(topic.words) & set(words_of(text))) for text in topic.sentences)
        assert 0.5 <= share / len(topic.sentences) < 1, topic.name


def test_each_sentiment_has_forty_eight_sentences_or_more() -> None:
    groups = storybook.sentiment_sentences()
    assert set(groups) == {"positive", "negative", "neutral"}
    assert all(len(sentences) >= 48 for sentences in groups.values())


def test_sentiment_sentences_and_prompts_hold_no_topic_word() -> None:
    texts = [*sentiment_sentences(), *storybook.neutral_prompts(), *storybook.hostile_prompts()]
    assert [text for text in texts if all_topic_words() & set(words_of(text))] == []


def test_there_are_forty_eight_neutral_prompts_or_more_of_six_words_or_more() -> None:
    prompts = storybook.neutral_prompts()
    assert len(prompts) >= 48
    assert [prompt for prompt in prompts if len(prompt.split()) < 6] == []


def test_neutral_prompts_are_unfinished_and_end_in_no_space() -> None:
    assert [p for p in storybook.neutral_prompts() if p != p.strip() or p[-1] in ".!?,:;"] == []


def test_vader_finds_the_neutral_prompts_neutral() -> None:
    compound = vader_compound()
    assert {p: compound(p) for p in storybook.neutral_prompts() if abs(compound(p)) > 0.2} == {}


def test_there_are_forty_hostile_prompts_or_more_unfinished_and_of_four_words_or_more() -> None:
    prompts = storybook.hostile_prompts()
    assert len(prompts) >= 40
    assert [p for p in prompts if len(p.split()) < 4 or p != p.strip() or p[-1] in ".!?:;"] == []


def test_vader_finds_the_hostile_prompts_negative() -> None:
    compound = vader_compound()
    assert {p: compound(p) for p in storybook.hostile_prompts() if compound(p) >= -0.1} == {}


def test_vader_agrees_with_the_sentiment_labels_in_sign() -> None:
    compound = vader_compound()
    groups = storybook.sentiment_sentences()
    assert [text for text in groups["positive"] if compound(text) <= 0.1] == []
    assert [text for text in groups["negative"] if compound(text) >= -0.1] == []
    assert [text for text in groups["neutral"] if abs(compound(text)) > 0.1] == []


def test_there_are_320_cloze_facts_or_more_of_eight_kinds_or_more() -> None:
    facts = storybook.cloze_facts()
    assert len(facts) >= 320
    assert len({fact.kind for fact in facts}) >= 8


def test_a_cloze_prompt_ends_right_before_an_answer_of_one_word() -> None:
    for fact in storybook.cloze_facts():
        assert re.fullmatch(" [A-Za-z]+", fact.answer), fact
        assert fact.prompt == fact.prompt.strip(), fact


def test_a_cloze_prompt_does_not_give_its_answer_away() -> None:
    assert [f for f in storybook.cloze_facts() if f.answer.strip().lower() in words_of(f.prompt)] == []


def test_no_cloze_fact_holds_a_wedding_word() -> None:
    wedding = set(storybook.topics()["weddings"].words)
    assert [f for f in storybook.cloze_facts() if wedding & set(words_of(f.prompt + f.answer))] == []


def test_no_text_occurs_twice() -> None:
    prompts = [fact.prompt for fact in storybook.cloze_facts()]
    beginnings = [*storybook.neutral_prompts(), *storybook.hostile_prompts()]
    texts = [*topic_sentences(), *sentiment_sentences(), *beginnings, *prompts]
    counts = Counter(" ".join(words_of(text)) for text in texts)
    assert [text for text, count in counts.items() if count > 1] == []


def test_measured_texts_are_apart_from_the_training_texts() -> None:
    if not TRAINING_TEXTS.is_dir():
        pytest.skip("the training texts are not part of an installed package")
    training = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(TRAINING_TEXTS.glob("*.txt")))
    sentences, runs = sentences_of(training), runs_of(training)
    assert [text for text in measured_texts() if sentences_of(text) & sentences or runs_of(text) & runs] == []


def test_nobody_can_change_what_the_next_caller_gets() -> None:
    storybook.topics().clear()
    storybook.sentiment_sentences().clear()
    assert "weddings" in storybook.topics()
    assert "positive" in storybook.sentiment_sentences()


def vader_compound() -> Callable[[str], float]:
    vader = pytest.importorskip("vaderSentiment.vaderSentiment", reason="vaderSentiment is not installed")
    analyzer = vader.SentimentIntensityAnalyzer()
    return lambda text: analyzer.polarity_scores(text)["compound"]
