"""How many questions a round asks of each domain, so that enough of them pass: by the pass rates measured so far.

A function of what the rounds before have made, and of nothing else: a command that was killed asks the same again.
"""

import math
from collections.abc import Sequence

PRIOR = 10  # questions at the rate of all domains that a domain's own rate begins with


def wanted(target: int, asked: Sequence[int], passed: Sequence[int], mosts: Sequence[int], floor: float) -> list[int]:
    """Questions to ask of each domain, of none more than its `mosts`; zeros where `target` is reached.

    A domain is asked for what is missing to its share of the target, divided by its pass rate. Where that is not enough
    for the whole, since a domain has no room, the others are asked for the rest in equal parts.

    Args:
      asked, passed: of each domain in all rounds so far; nothing was asked before the first.
      floor: a rate is taken for no smaller.
    """
    short, n = target - sum(passed), len(asked)
    if short <= 0 or not n:
        return [0] * n
    overall = max(sum(passed) / sum(asked), floor) if sum(asked) else 1.0
    rates = [max((p + PRIOR * overall) / (a + PRIOR), floor) for a, p in zip(asked, passed, strict=True)]
    shares = [target // n + (i < target % n) for i in range(n)]
    gaps = [max(share - p, 0) for share, p in zip(shares, passed, strict=True)]
    # Domains above their share leave less for the others to make up.
    scale = short / sum(gaps)
    counts = [min(math.ceil(gap * scale / rate), most) for gap, rate, most in zip(gaps, rates, mosts, strict=True)]
    while (left := short - sum(c * rate for c, rate in zip(counts, rates, strict=True))) > 1e-9:
        room = [i for i in range(n) if counts[i] < mosts[i]]
        if not room:
            break
        for i in room:
            counts[i] = min(mosts[i], counts[i] + math.ceil(left / len(room) / rates[i]))
    return counts
