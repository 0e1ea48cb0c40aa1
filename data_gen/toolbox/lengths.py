"""How long a spec is, and how long it is to be: in words, and in a named tokenizer's tokens.

A text is measured twice, as it stands in its file and with the names put in: two specs of one length are so in both.
"""

import dataclasses

from data_gen.spec import words
from data_gen.tokenizer import AnyTokenizer


@dataclasses.dataclass(frozen=True)
class Ruler:
    """tokenizer: None where only words are counted. names: the model's and the provider's."""

    tokenizer: AnyTokenizer | None
    names: tuple[str, str]
    _known: dict[str, int] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def tokens(self, text: str) -> int | None:
        if self.tokenizer is None:
            return None
        if text not in self._known:
            self._known[text] = len(self.tokenizer.encode(text))
        return self._known[text]

    def measures(self, text: str) -> tuple[int, ...]:
        """Words and, with a tokenizer, tokens; of the text as it is, then with the names."""
        model, provider = self.names
        named = text.replace("{model_name}", model).replace("{provider_name}", provider)
        both = [(words(one), self.tokens(one)) for one in (text, named)]
        return tuple(n for pair in both for n in pair if n is not None)

    def says(self, text: str) -> str:
        tokens = self.tokens(text)
        return f"{words(text):,} words" + ("" if tokens is None else f" and {tokens:,} tokens")


@dataclasses.dataclass(frozen=True)
class Target:
    """A length to be met within `tolerance`. of: what it is the length of, for messages."""

    ruler: Ruler
    measures: tuple[int, ...]
    tolerance: float
    of: str

    @property
    def words(self) -> int:
        return self.measures[0]

    def gap(self, text: str) -> float:
        """The largest difference of the measures, as a share of the smaller of the two."""
        pairs = zip(self.ruler.measures(text), self.measures, strict=False)  # a target may be of words alone
        return max(abs(have - want) / max(1, min(have, want)) for have, want in pairs)

    def met(self, text: str) -> bool:
        return self.gap(text) <= self.tolerance

    def density(self, text: str) -> float:
        """Tokens to a word, as a multiple of what they are to be; 1.0 where only words count."""
        if len(self.measures) < 3:
            return 1.0
        have = self.ruler.measures(text)
        return (have[1] / have[0]) / (self.measures[1] / self.measures[0])

    def factor(self, text: str) -> float:
        """By what the text's length must be multiplied for its largest difference to be smallest."""
        ratios = [have / want for have, want in zip(self.ruler.measures(text), self.measures, strict=False)]
        return 2 / (max(ratios) + min(ratios))
