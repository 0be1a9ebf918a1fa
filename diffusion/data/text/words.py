"""Texts as numbers of words, for a text encoder that is trained from scratch.

Letters are made small and lose their accents; what is no letter, digit, hyphen or apostrophe parts
words. Number 0 is padding, 1 every word that is not among the most frequent of the captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffusion.optional import from_extra

PADDING, UNKNOWN = "[PAD]", "[UNK]"


@dataclass(frozen=True)
class Words:
    """A vocabulary of whole words, fitted to the captions of the training data.

    Attributes:
      vocab_size: most numbers of words, padding and unknown words included; >= 3.
      num_tokens: words of a text that are read; >= 1.
    Raises:
      ValueError: a value is outside its range.
    """

    vocab_size: int = 4096
    num_tokens: int = 16

    def __post_init__(self):
        if self.vocab_size < 3:
            raise ValueError(f"vocab_size={self.vocab_size} must be 3 or more.")
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens={self.num_tokens} must be 1 or more.")

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of one text's arrays, as in a dataset's `spec`."""
        return {"text": jax.ShapeDtypeStruct((self.num_tokens,), np.int32)}

    def fit(self, captions: Sequence[str]) -> "WordReader":
        """The reader whose words are the most frequent ones of these captions.

        Raises:
          ExtraNotInstalled: the package `tokenizers` is not installed.
        """
        with from_extra("text"):
            from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

        tokenizer: Any = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
                normalizers.Replace(Regex(r"[^\w'\-]+"), " "),
            ]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=self.vocab_size, special_tokens=[PADDING, UNKNOWN], show_progress=False
        )
        tokenizer.train_from_iterator(captions, trainer)
        tokenizer.enable_padding(length=self.num_tokens, pad_id=0, pad_token=PADDING)
        tokenizer.enable_truncation(self.num_tokens)
        return WordReader(tokenizer)

    def read(self, text: str) -> "WordReader":
        """The reader that `WordReader.to_json` wrote.

        Raises:
          ExtraNotInstalled: the package `tokenizers` is not installed.
          ValueError: it is no tokenizer of words.
        """
        with from_extra("text"):
            from tokenizers import Tokenizer

        try:
            tokenizer: Any = Tokenizer.from_str(text)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"it is no tokenizer of the library tokenizers: {error}.") from None
        if not all((tokenizer.padding, tokenizer.truncation, tokenizer.normalizer)):
            raise ValueError("it is a tokenizer without padding, truncation or normalizer.")
        return WordReader(tokenizer)


@dataclass(frozen=True, eq=False)
class WordReader:
    """Reads texts as numbers of words.

    Attributes:
      tokenizer: a tokenizers.Tokenizer with padding and truncation.
    """

    tokenizer: Any

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"text": int32 (N, num_tokens)}"""
        encoded = self.tokenizer.encode_batch(list(texts))
        return {"text": np.array([one.ids for one in encoded], np.int32)}

    @property
    def num_tokens(self) -> int:
        """Words that are read of a text."""
        return self.tokenizer.truncation["max_length"]

    def tokens(self, text: str) -> list[str]:
        """The words that are read of a text, as it spells them."""
        return self._words(text)[: self.num_tokens]

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, as it spells them."""
        words = self._words(text)
        return [word for word in words if self.tokenizer.token_to_id(word) is None]

    def is_cut(self, text: str) -> bool:
        """Whether a text has more words than are read."""
        return len(self._words(text)) > self.num_tokens

    def _words(self, text: str) -> list[str]:
        normalized = self.tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]

    def to_json(self) -> str:
        """The tokenizer in the format of the library `tokenizers`."""
        return self.tokenizer.to_str(pretty=True)
