"""The lexical part of the spec-conflict filter: rules of conflicts.toml, or of a file of the same form."""

import dataclasses
import re
import tomllib

from etils import epath

from data_gen.mixing.shapes import Message
from data_gen.template import ROLES
from msm_jax import storage
from msm_jax.cli import UserError

OWN = epath.Path(__file__).with_name("conflicts.toml")
LONGEST = 100_000  # characters of a message that are searched


@dataclasses.dataclass(frozen=True)
class Rule:
    """name: the reason of a reject. roles: in whose messages it is searched."""

    name: str
    roles: frozenset[str]
    pattern: re.Pattern[str]


class Patterns:
    """Raises UserError naming the file: no TOML, a key missing, an unknown role, a pattern that does not compile."""

    def __init__(self, path: epath.PathLike, names: tuple[str, ...]) -> None:
        try:
            table = tomllib.loads(storage.read_text(path))["rule"]
            self.rules = [
                Rule(
                    str(r["name"]),
                    frozenset(r["roles"]),
                    re.compile("|".join(f"(?:{p})" for p in r["patterns"]), re.MULTILINE),
                )
                for r in table
            ]
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file (config.patterns)") from error
        except KeyError as error:
            raise UserError(f"{path}: no key {error} in a rule") from error
        except (tomllib.TOMLDecodeError, re.error, TypeError, ValueError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {' '.join(str(error).split())}") from error
        for rule in self.rules:
            if not rule.roles <= set(ROLES):
                raise UserError(f"{path}: rule {rule.name!r} has roles other than {', '.join(ROLES)}")
        self._own = [folded(name) for name in names if name.strip()]

    def conflict(self, messages: list[Message]) -> tuple[str, str] | None:
        """(name of the first rule that a message falls under, the words that do), or None."""
        for message in messages:
            text = folded(message["content"][:LONGEST])
            for rule in self.rules:
                if message["role"] in rule.roles:
                    for match in rule.pattern.finditer(text):
                        if not any(own in match[0] for own in self._own):
                            return rule.name, match[0][:160]
        return None


def folded(text: str) -> str:
    return text.lower().replace("’", "'").replace("‘", "'")
