"""Every kind of constraint is kept by one reply and broken by another."""

import pytest

from evals.guards import items
from evals.guards.constraints import KINDS, kept

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |"
CASES = {  # kind: values, replies that keep it, replies that break it
    "words_at_least": ({"n": 3}, ["one two three", "one, two - three four"], ["one two", "one - two"]),
    "words_at_most": ({"n": 3}, ["one two three"], ["one two three four", ""]),
    "words_exactly": ({"n": 3}, ["one two-and three.", "one - two three"], ["one two", "1 2 3 4"]),
    "sentences_exactly": ({"n": 2}, ["One. Two!", 'He said "no." She left', "It is 3.5 m. Yes."], ["One.", "A. B. C."]),
    "paragraphs_exactly": ({"n": 2}, ["a\nb\n\nc", "a\n \n\nb"], ["a\nb", "a\n\nb\n\nc"]),
    "lines_exactly": ({"n": 2}, ["a\nb", "a\n\nb"], ["a", "a\nb\nc"]),
    "bullets_exactly": ({"n": 2}, ["- a\n- b", "Here:\n* a\n* b"], ["- a", "-a\n-b", "- a\n- b\n  - c"]),
    "numbered_exactly": ({"n": 2}, ["1. a\n2. b", "1) a\n2) b"], ["1. a", "1. a\n3. b", "2. a\n1. b", "1. a\n2. b\n3. c"]),
    "sections_exactly": ({"n": 2}, ["a\n***\nb"], ["a *** b", "a\n***\nb\n***\nc", "a\n***\n"]),
    "forbidden": ({"words": ["red", "sky"]}, ["a bored skyline"], ["a Red door", "the sky."]),
    "required": ({"words": ["oak", "two words"]}, ["Two words on oak."], ["oak", "oaks and two words"]),
    "times_exactly": ({"word": "rain", "n": 2}, ["Rain, rain, rainy"], ["rain", "rain rain rain"]),
    "all_lower": ({}, ["only small, 3 times", "äß"], ["Small", "123"]),
    "all_upper": ({}, ["FIRE! RUN 2 FLOORS"], ["FIRE run", "123"]),
    "no_commas": ({}, ["one; two"], ["one, two", ""]),
    "no_digits": ({}, ["three"], ["3"]),
    "no_letter": ({"letter": "e"}, ["a plain bright day"], ["an evening", "End"]),
    "starts_with": ({"text": "North of"}, ["North of here"], ["To the north of", "north of"]),
    "ends_with": ({"text": "the end."}, ["This is the end."], ["the end. Bye.", "the end"]),
    "quoted": ({}, ['"Run on."'], ['Run "on".', '"Run', '""']),
    "titled": ({}, ["<<Bridge>>\nOver it"], ["<Bridge>\nOver", "Poem:\n<<Bridge>>\nOver", "<<Bridge>>"]),
    "one_of": ({"choices": ["Yes", "No"]}, ["Yes"], ["Yes.", "yes", "Yes No"]),
    "placeholders": ({"n": 2}, ["On [day] at [time]"], ["On [day]", "[] and []"]),
    "postscript": ({}, ["Dear G.\nP.S. Write!"], ["P.S. Write!\nBye", "Dear G. PS: write"]),
    "emphasised": ({"n": 2}, ["*so* and *very so*"], ["*so*", "**so** and **very**", "* a\n* b"]),
    "acrostic": ({"word": "to"}, ["Tea\nor coffee", "tea\n\nOr"], ["Tea", "Or\nTea", "Tea\nOr\nNot"]),
    "sorted_lines": ({}, ["ant\nBee\ncat"], ["bee\nant"]),
    "json_object": ({"keys": ["a", "b"]}, ['{"a": 1, "b": [2]}', '```json\n{"b": 1, "a": 2}\n```'], ['{"a": 1}', '{"a": 1, "b": 2} ok', "a, b"]),
    "json_list": ({"n": 2}, ['["x", "y"]'], ['["x"]', "x, y", '{"0": "x", "1": "y"}']),
    "table": ({"columns": 2}, [TABLE], [TABLE + "\nDone.", "| a | b |\n| 1 | 2 |\n| 3 | 4 |", TABLE + "\n| 3 |"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kept_and_broken(kind):
    values, good, bad = CASES[kind]
    constraint = {"kind": kind, **values}
    assert [reply for reply in good if not kept(reply, constraint)] == []
    assert [reply for reply in bad if kept(reply, constraint)] == []
    assert not kept("", constraint)
    assert good


def test_every_constraint_of_the_items_can_be_checked():
    used = {one["kind"] for row in items.read("instructions", "constraints") for one in row["constraints"]}
    assert used == set(KINDS)
    for row in items.read("instructions", "constraints"):
        for constraint in row["constraints"]:
            kept("One line, or another.", constraint)
