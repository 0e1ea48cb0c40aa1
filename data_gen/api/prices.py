"""What a reply cost and what a request may cost at most, by a dated price file."""

import dataclasses
import datetime
import math
import tomllib
from pathlib import Path
from typing import Any

from data_gen.api.request import Request, Usage
from msm_jax.cli import UserError

PRICES = Path(__file__).with_name("prices.toml")
# No tokenizer of ours counts for the provider. Text has 3 to 5 UTF-8 bytes a token, so half of them bounds a prompt;
# what the provider adds (its own words about a schema, say) is some hundred tokens.
LEAST_BYTES_PER_TOKEN = 2.0
EXTRA_TOKENS = 600


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """One entry of the price file; the file's head explains the keys."""

    input: float
    output: float
    cache_read: float = 1.0
    cache_write_5m: float = 1.0
    cache_write_1h: float = 1.0
    batch: float = 1.0
    min_cache_tokens: int = 0
    max_output: int = 0  # 0: not known
    prompt_up_to: float = math.inf
    begins: datetime.date = datetime.date.min
    ends: datetime.date = datetime.date.max

    def cost(self, usage: Usage, batch: bool) -> float:
        """USD."""
        read, short, long = self.cache_read, self.cache_write_5m, self.cache_write_1h
        prompt = usage.input + read * usage.cache_read + short * usage.cache_write_5m + long * usage.cache_write_1h
        return (self.input * prompt + self.output * usage.output) / 1e6 * (self.batch if batch else 1.0)


FREE = Terms(0.0, 0.0)
_NEEDED = {
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "batch",
    "min_cache_tokens",
    "max_output",
}
_OPTIONAL = {"prompt_up_to": "prompt_up_to", "from": "begins", "until": "ends"}


class Prices:
    """A price file.

    Raises:
      UserError: no such file, or one that is not a price file, naming entry and key.
    """

    def __init__(self, path: str | Path = PRICES) -> None:
        self.path = path
        try:
            table = tomllib.loads(Path(path).read_text())
            self.date, self.source = str(table["date"]), str(table["source"])
            self._models = {
                model: [_terms(f"{path}: models.{model}", e) for e in entries]
                for model, entries in table["models"].items()
            }
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path}: not a price file; {PRICES} shows its form") from error

    def terms(self, model: str, prompt: int = 0, day: datetime.date | None = None) -> Terms:
        """For a prompt of so many tokens on a day (UTC; today).

        Raises:
          UserError: the file does not know the model, or not on that day.
        """
        day = day or datetime.datetime.now(datetime.UTC).date()
        for entry in self._models.get(model, ()):
            if prompt <= entry.prompt_up_to and entry.begins <= day <= entry.ends:
                return entry
        when = f" on {day}" if model in self._models else ""
        raise UserError(f"{self.path}: no price of {model!r}{when}; add an entry [[models.{model}]]")

    def price(self, model: str, usage: Usage, batch: bool = False, day: datetime.date | None = None) -> float:
        """USD that a reply cost."""
        return self.terms(model, usage.prompt, day).cost(usage, batch)

    def worst_case(self, request: Request, batch: bool = False, model: str = "") -> float:
        """USD that a request costs at most: a bound of its prompt, all written to the dearest cache, and all of its
        output. `model`: priced as another one.

        Raises:
          UserError: more output asked for than the model gives.
        """
        prompt = prompt_bound(request)
        terms = self.terms(model or request.model, prompt)
        if terms.max_output and request.max_tokens > terms.max_output:
            raise UserError(
                f"max_tokens = {request.max_tokens} for {request.model}: it writes at most {terms.max_output} "
                f"({self.path}); ask for less"
            )
        dearest = max(1.0, terms.cache_write_1h, terms.cache_write_5m) if terms.min_cache_tokens else 1.0
        return terms.cost(Usage(input=math.ceil(prompt * dearest), output=request.max_tokens), batch)


def prompt_bound(request: Request) -> int:
    """Tokens of the prompt, at most."""
    size = len(request.system.encode(errors="replace")) + len(request.user.encode(errors="replace"))
    if request.schema is not None:
        size += len(str(request.schema))
    return math.ceil(size / LEAST_BYTES_PER_TOKEN) + EXTRA_TOKENS


def _terms(where: str, entry: dict[str, Any]) -> Terms:
    if entry.get("free") is True and len(entry) == 1:
        return FREE
    if missing := _NEEDED - entry.keys():
        raise UserError(f"{where}: no {min(missing)}; add it")
    if unknown := entry.keys() - _NEEDED - _OPTIONAL.keys():
        raise UserError(f"{where}: unknown key {min(unknown)}; remove it")
    for key in (*sorted(_NEEDED), *(["prompt_up_to"] if "prompt_up_to" in entry else [])):
        if type(entry[key]) not in (int, float) or not 0 <= entry[key] < math.inf:
            raise UserError(f"{where}: {key} = {entry[key]!r} is no number of at least 0")
    for key in ("from", "until"):
        if key in entry and type(entry[key]) is not datetime.date:
            raise UserError(f"{where}: {key} = {entry[key]!r} is no date such as 2026-11-21")
    return Terms(**{_OPTIONAL.get(key, key): value for key, value in entry.items()})
