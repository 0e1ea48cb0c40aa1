"""The 27 cells, the frozen split and the named grids; what does not exist says what does."""

import random
import tomllib

import pytest
from inspect_ai._util.error import PrerequisiteError

from evals.agentic import cells
from evals.agentic.cells import GOALS, GRIDS, PAPER_ACTIONS


def test_the_paper_has_27_cells_and_every_grid_is_of_cells_that_exist():
    names = [cell.name for cell in GRIDS["paper"]]
    assert len(set(names)) == 27
    assert "exfiltration_none-none_replacement" in names
    assert {grid: len(found) for grid, found in GRIDS.items()} == {
        "paper": 27, "blackmail": 9, "restriction": 27, "no_threat": 27, "latent": 32, "swap": 32, "ambiguous": 4
    }  # fmt: skip
    for found in GRIDS.values():
        for cell in found:
            cell.check()


def test_the_split_is_the_one_that_was_drawn():
    table = tomllib.loads(cells.SPLIT.read_text())
    rng = random.Random(table["seed"])
    few, drawn = rng.choice(PAPER_ACTIONS), []
    for action in PAPER_ACTIONS:
        nine = [f"{action}_none-none_replacement", *(f"{action}_explicit-{goal}_replacement" for goal in GOALS)]
        drawn += rng.sample(nine, 4 if action == few else 5)
    assert set(table["dev"]) == set(drawn)
    assert (len(table["dev"]), len(table["held_out"])) == (14, 13)
    assert {*table["dev"], *table["held_out"]} == {cell.name for cell in GRIDS["paper"]}


def test_select_takes_a_grid_a_split_or_names():
    dev, held = cells.select("paper", "dev"), cells.select("paper", "held_out")
    assert not set(dev) & set(held)
    assert len(dev) + len(held) == len(cells.select("paper"))
    assert [cell.name for cell in cells.select("murder_none-none_replacement, leaking_swap-global_replacement")] == [
        "murder_none-none_replacement",
        "leaking_swap-global_replacement",
    ]


@pytest.mark.parametrize(
    ("grid", "split", "line"),
    [
        ("papers", "all", "no grid 'papers'; there are paper, blackmail"),
        ("paper", "test", "no split 'test'; there are all, dev, held_out"),
        ("latent", "dev", "the paper's 27 cells are split only"),
        ("theft_explicit-america_replacement", "all", "no action 'theft'; there are exfiltration, leaking"),
        ("murder_hidden-america_replacement", "all", "no goal type 'hidden'; there are explicit, latent"),
        ("murder_explicit-none_replacement", "all", "explicit takes no goal 'none'; there are america"),
        ("murder_ambiguous-america_replacement", "all", "ambiguous takes no goal 'america'; there are none"),
        ("murder_explicit-america_boredom", "all", "no urgency 'boredom'; there are replacement"),
        ("exfiltration_explicit-america_restriction", "all", "exfiltration has the urgency replacement only"),
        ("murder_none-none_replacement,murder_none-none_replacement", "all", "twice"),
    ],
)
def test_what_is_unknown_says_what_there_is(grid, split, line):
    with pytest.raises(PrerequisiteError, match=line):
        cells.select(grid, split)
