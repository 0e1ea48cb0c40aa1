"""Replies: what is used of them, and for which reason the others are not."""

import json

import pytest

from data_gen import reading
from data_gen.api.request import Reply, Stop, Usage
from data_gen.reading import Rejected

GOOD = "<plan>\nfirst\n</plan>\n\n<document>\nA whole document.\n\nOf two paragraphs.\n</document>\n"


def reply(text, stop=Stop.END):
    return Reply("key", text, stop, "m", Usage())


def test_a_document_is_what_stands_in_its_tag():
    assert reading.document_of(reply(GOOD), 10) == "A whole document.\n\nOf two paragraphs."


@pytest.mark.parametrize(
    ("text", "stop", "reason"),
    [
        (GOOD, Stop.LENGTH, "truncated"),
        (GOOD, Stop.REFUSAL, "refused"),
        (GOOD, Stop.CONTEXT, "context window full"),
        (GOOD, Stop.OTHER, "stopped for an unknown reason"),
        (" \n", Stop.END, "empty"),
        (GOOD * 4000, Stop.END, "oversized"),
        (GOOD.replace("whole", "wh\ud800le"), Stop.END, "half a surrogate pair"),
        (GOOD.replace("</document>", ""), Stop.END, "no </document> tag"),
        (GOOD.replace("<document>", ""), Stop.END, "no <document> tag"),
        (GOOD.replace("<plan>", ""), Stop.END, "no <plan> tag"),
        ("A document without any tag, which would be the whole reply.", Stop.END, "no <plan> tag"),
        (GOOD.replace("first", "<document>"), Stop.END, "tags out of order or repeated"),
        (GOOD + "I hope this helps!", Stop.END, "text after </document>"),
        (GOOD.replace("A whole document.\n\nOf two paragraphs.", "Short."), Stop.END, "too short"),
        (GOOD.replace("whole", "wh\x1b[31mole"), Stop.END, "control characters"),
        (GOOD.replace("whole", "wh\u202eole"), Stop.END, "control characters"),
    ],
)
def test_reasons_of_documents(text, stop, reason):
    with pytest.raises(Rejected) as error:
        reading.document_of(reply(text, stop), 10)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ('```json\n{"ideas": []}\n```', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5_000, "not JSON"),
        ("[]", "not of the schema"),
        ('{"idea": []}', "not of the schema"),
        ('{"ideas": {}}', "not of the schema"),
    ],
)
def test_reasons_of_lists(text, reason):
    with pytest.raises(Rejected) as error:
        reading.items_of(reply(text), "ideas")
    assert str(error.value) == reason
    assert reading.items_of(reply(json.dumps({"ideas": [1, "x"]})), "ideas") == [1, "x"]


@pytest.mark.parametrize("item", [None, [], "x", {}, {"name": 3}, {"name": " "}, {"name": "a\nb"}, {"name": "x" * 99}])
def test_fields_have_to_be_lines(item):
    with pytest.raises(Rejected):
        reading.line(item, "name", 50)


def test_ids_are_known_ones_in_their_order():
    assert reading.ids({"sections": ["b", "a", "b"]}, "sections", ("a", "b", "c")) == ("a", "b")
    for wrong in ({"sections": []}, {"sections": ["d"]}, {"sections": "a"}, {"sections": [["a"]]}, {}):
        with pytest.raises(Rejected):
            reading.ids(wrong, "sections", ("a", "b", "c"))


def test_names_alike():
    assert reading.alike("  Endings, and  GRACE! ") == reading.alike("endings and grace")
    assert reading.alike("endings") != reading.alike("beginnings")
