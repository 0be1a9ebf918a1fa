"""Laws of texts that are read as numbers of words."""

import sys

import numpy as np
import pytest

from diffusion.data.text.words import Words
from diffusion.optional import ExtraNotInstalled

CAPTIONS = ["red hair", "curly hair", "medium-dark skin tone", "flag: São Tomé", "woman's boot"]


@pytest.fixture(scope="module")
def reader():
    return Words(vocab_size=20, num_tokens=4).fit(CAPTIONS)


def numbers(reader, *texts):
    return reader(texts)["text"]


def test_a_text_is_read_whatever_its_case_accents_and_punctuation(reader):
    same = numbers(reader, "São Tomé", "sao tome", "SAO, TOME!")
    assert (same == same[0]).all() and same[0].all() == (same[0] > 1).all()
    assert same.dtype == np.int32 and same.shape == (3, 4)


def test_words_with_hyphens_and_apostrophes_are_one_word(reader):
    rows = numbers(reader, "medium-dark", "woman's")
    assert ((rows > 1).sum(1) == 1).all()


def test_the_empty_text_is_padding_alone(reader):
    assert not numbers(reader, "").any()


def test_unknown_words_are_named_and_have_a_number_of_their_own(reader):
    assert reader.unknown_words("Purple hair") == ["purple"]
    purple, hair, *padding = numbers(reader, "purple hair")[0]
    assert purple == 1 and hair > 1 and padding == [0, 0]


def test_a_long_text_is_cut_and_says_so(reader):
    text = "red hair red hair red"
    assert reader.is_cut(text) and not reader.is_cut("red hair red hair")
    assert numbers(reader, text).shape == (1, 4)


def test_the_vocabulary_keeps_the_most_frequent_words():
    small = Words(vocab_size=4, num_tokens=3).fit(["hair a", "hair b", "red hair", "red c"])
    assert small.unknown_words("red hair a") == ["a"]
    assert numbers(small, "red hair a").max() < 4


def test_a_reader_is_the_same_after_its_file(reader):
    again = Words(vocab_size=20, num_tokens=4).read(reader.to_json())
    texts = ["red curly hair", "nothing known", ""]
    np.testing.assert_array_equal(numbers(again, *texts), numbers(reader, *texts))
    assert again.to_json() == reader.to_json()


def test_fitting_twice_gives_the_same_reader(reader):
    assert Words(vocab_size=20, num_tokens=4).fit(CAPTIONS).to_json() == reader.to_json()


@pytest.mark.parametrize("text", ["{}", "no json", '{"model": {"type": "WordLevel"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match="no tokenizer"):
        Words().read(text)


@pytest.mark.parametrize("fields", [{"vocab_size": 2}, {"num_tokens": 0}])
def test_a_value_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError, match="or more"):
        Words(**fields)


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExtraNotInstalled, match=r"unet-flax\[text\]"):
        Words().fit(["a"])
