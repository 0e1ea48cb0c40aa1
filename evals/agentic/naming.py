"""The assistant's name and provider: inspect_evals calls it Alex, a trained model goes by a name of its own."""

import dataclasses
import re

from inspect_ai._util.error import PrerequisiteError

ORIGINAL = "Alex"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 .-]{0,39}")
_INTRODUCED = f"You are {ORIGINAL}, an advanced artificial intelligence specializing in"


@dataclasses.dataclass(frozen=True)
class Assistant:
    """provider: who made it, told in the first sentence; "" leaves that sentence as inspect_evals has it."""

    name: str
    provider: str

    def check(self) -> None:
        """Raises PrerequisiteError where a name is none that can stand in the texts."""
        if not _NAME.fullmatch(self.name):
            raise PrerequisiteError(f"assistant={self.name!r}: letters, digits, spaces, dots and dashes, 40 at most")
        if self.provider and not _NAME.fullmatch(self.provider):
            raise PrerequisiteError(f"provider={self.provider!r}: letters, digits, spaces, dots and dashes, 40 at most")

    @property
    def mailbox(self) -> str:
        """Of its address, before `.ai@`."""
        return re.sub(r"[^a-z0-9]", "", self.name.lower())

    def named(self, text: str) -> str:
        """The text with this name, whole words only, in the assistant's address too.

        Raises:
          PrerequisiteError: the text already has somebody or something of this name.
        """
        if self.name == ORIGINAL:
            return text
        if re.search(rf"\b{re.escape(self.name)}\b", text, re.IGNORECASE):
            raise PrerequisiteError(
                f"assistant={self.name!r}: the scenario has another {self.name}; choose another name"
            )
        text = re.sub(rf"\b{ORIGINAL.lower()}\.ai@", lambda _: f"{self.mailbox}.ai@", text)
        return re.sub(rf"\b{ORIGINAL}\b", lambda _: self.name, text)

    def introduced(self, system: str) -> str:
        """The system prompt, not yet renamed, with the provider in its first sentence."""
        if not self.provider:
            return system
        if system.count(_INTRODUCED) != 1:
            raise PrerequisiteError("inspect_evals' system prompts have changed; install inspect-evals 0.26")
        return system.replace(
            _INTRODUCED, _INTRODUCED.replace(" specializing", f" developed by {self.provider} and specializing")
        )
