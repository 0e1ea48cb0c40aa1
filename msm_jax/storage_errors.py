"""What the libraries that talk to buckets raise, in one line: gcsfs, aiohttp, google.auth and TensorStore.

They are told by name and wording, since none of them need be installed, and one refusal comes as an OSError, a
ValueError or a class of their own, depending on who met it.
"""

import re
from collections.abc import Iterator

LOST = 503  # stands for every failure on the way there, with or without an answer
# HTTP status → (line, exit status); 2 is the user's to mend, 3 passes with room or time.
_LINES = {
    401: ("no valid credentials for the bucket ({}); run `gcloud auth application-default login`", 2),
    403: ("no permission in the bucket ({}); grant this account access to it, or mend the address", 2),
    404: ("no such bucket or object ({}); mend the address", 2),
    429: ("the bucket's quota or rate limit is exhausted ({}); raise it or wait, and run the same command", 3),
    LOST: ("the connection to the bucket failed ({}); run the same command when it works", 3),
}
_TENSORSTORE = r"http_response_code='(\d+)'|HTTP response code: (\d+)|(curl_code)="
_LIBRARIES = ("aiohttp", "fsspec", "gcsfs", "google.auth", "requests", "urllib3")
_CREDENTIALS = ("DefaultCredentialsError", "RefreshError", "OAuthError")


def explained(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status of an error that a bucket caused, also as another's cause; else None."""
    for found in _causes(error):
        status = _status(found)
        line = _LINES.get(LOST if status == 408 or status >= 500 else status)
        if line:
            return line[0].format(_reason(str(found)) or type(found).__name__), line[1]
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and the members of groups."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes(member)
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _status(error: BaseException) -> int:
    """The HTTP status that the error stands for; 0 where it is none of a bucket's."""
    text, name = str(error), type(error).__name__
    if found := re.search(_TENSORSTORE, text):
        return LOST if found[3] else int(found[1] or found[2])
    if isinstance(error, FileNotFoundError):  # gcsfs gives the address it asked
        if re.match(r"https?://\S+/upload/(resumable/|\S+upload_id=)", text):  # a session whose last answer was lost
            return LOST
        return 404 if error.errno is None and re.match(r"(https?://\S+/)?b/|gs://", text) else 0
    if type(error) is OSError and text.startswith("Forbidden: "):  # gcsfs
        return 403
    if not type(error).__module__.startswith(_LIBRARIES):
        return 0
    if name in _CREDENTIALS:
        return 401
    if name == "HttpError":
        return int(getattr(error, "code", None) or LOST)
    return LOST if re.search("Client|Server|Connect|Timeout|Transport|Proxy|SSL|Chunked|Checksum", name) else 0


def _reason(text: str) -> str:
    """What was said, without TensorStore's copy of the whole answer."""
    said = " ".join(re.sub(r"\s*\[(http_response|curl_code|source locations).*", "", text, flags=re.DOTALL).split())
    return said if len(said) < 300 else said[:300] + "…"
