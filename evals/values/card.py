"""The data card of the value items, as Markdown.

    python -m evals.values.card --config=configs/evals/item_card.py --config.out=evals/items/README.md

Ends with exit status 2 and a line for every rule that an item set breaks.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evals.values import items as items_lib
from evals.values import rules, surface
from evals.values.items import Item, Value
from msm_jax import cli, storage
from msm_jax.cli import UserError

INTRODUCTION = Path(__file__).with_name("card.md")
TIED = 12  # words named a side


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    directory = config.directory or items_lib.DIRECTORY
    there = [v for v in items_lib.values().values() if storage.is_file(items_lib.path_of(v.name, directory))]
    named = [v for v in there if not config.names or v.name in config.names]
    missing = sorted(set(config.names) - {v.name for v in there}) or ([] if named else ["value_*.jsonl"])
    if missing:
        raise UserError(f"{directory}: no items of {', '.join(missing)}")
    if not list(Path(config.specs).glob("*.md")):
        raise UserError(f"{config.specs}: no specs there (config.specs)")
    sets = {value: items_lib.load(value.name, directory) for value in named}
    card = "\n".join([INTRODUCTION.read_text(), *(section(value, items) for value, items in sets.items())])
    wrong = [f"{v.name}: {line}" for v, items in sets.items() for line in rules.broken(v, items, Path(config.specs))]
    for line in wrong:
        cli.note(line)
    if wrong:
        raise UserError(f"{len(wrong)} rules are broken, as listed above; no card is written")
    if config.out:
        storage.write_atomic(storage.at(config.out), card)
    else:
        print(card)


def section(value: Value, items: Sequence[Item]) -> str:
    """What is counted of one value's items."""
    return "\n".join(
        [f"## {value.title} (`value_{value.name}.jsonl`)", "", *counted(items), *_told(items), *_tied(items)]
    )


def counted(items: Sequence[Item]) -> list[str]:
    """The table of rows by kind and domain."""
    lines = ["| Kind | Domain | Rows | `for` | `against` | aligned longer |", "|---|---|---:|---:|---:|---:|"]
    cells = Counter((item.kind, item.domain) for item in items)
    for kind in items_lib.KINDS:
        groups = [
            (domain, [i for i in items if (i.kind, i.domain) == (kind, domain)]) for k, domain in cells if k == kind
        ]
        for domain, rows in [*sorted(groups), ("*all*", [i for i in items if i.kind == kind])]:
            if rows:
                poles = Counter(item.pole for item in rows)
                longer = rules.balance(rows)["aligned longer"]
                lines.append(
                    f"| {kind} | {domain} | {len(rows)} | {poles['for']} | {poles['against']} | {longer:.0%} |"
                )
    return [*lines, ""]


def _told(items: Sequence[Item]) -> list[str]:
    found = rules.balance(items)
    lines = ["| Both kinds | Aligned | Other | Ratio |", "|---|---:|---:|---:|"]
    for name in ("characters", "words"):
        aligned, other, ratio = (found[f"{name} {what}"] for what in ("aligned", "other", "ratio"))
        lines.append(f"| mean {name} | {aligned:.1f} | {other:.1f} | {ratio:.3f} |")
    options = Counter(option.lower() for item in items for option in (item.aligned, item.other))
    lines += ["", f"Aligned is the longer option in {found['aligned longer']:.1%} of rows (ties aside). "]
    lines[-1] += (
        f"{sum(count > 1 for count in options.values())} options stand in more than one row. The side is told by"
    )
    held = [_held(item) for item in items]
    for name, rows, features in (
        ("how the options look, as answers", items, surface.looks),
        ("how they look, as what holds the value", held, surface.looks),
        ("their words, as answers", items, surface.vocabulary),
        ("their words, as what holds the value", held, surface.vocabulary),
    ):
        share, low, high = surface.accuracy(rows, features)
        lines.append(f"- {name}: {share:.1%} right [{low:.1%}, {high:.1%}] in domains not seen;")
    lines[-1] = lines[-1].removesuffix(";") + "."
    return [*lines, ""]


def _held(item: Item) -> Item:
    """With the option that holds the value as `aligned`, also where giving it up is asked about."""
    if (item.kind, item.pole) == ("pair", "against"):
        return Item(**{**vars(item), "aligned": item.other, "other": item.aligned})
    return item


def _tied(items: Sequence[Item]) -> list[str]:
    """The words whose numbers of rows on the two sides differ most."""
    sides = Counter[str]()
    for item in map(_held, items):
        sides.update(set(surface.words(item.aligned)))
        sides.subtract(set(surface.words(item.other)))
    by_count = sorted(sides.items(), key=lambda pair: (-pair[1], pair[0]))
    lines = []
    for side, words in (("the value", by_count[:TIED]), ("its opposite", by_count[::-1][:TIED])):
        lines.append(f"Words most tied to {side}: " + ", ".join(f"{w} ({n:+d})" for w, n in words if n) + ".")
    return ["\n\n".join(lines), ""]


def as_row(item: Item) -> str:
    """The item as a line of its file."""
    return json.dumps(vars(item), ensure_ascii=False)


if __name__ == "__main__":
    cli.entry(main)
