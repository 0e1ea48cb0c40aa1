"""Near-duplicates by MinHash (datasketch) and LSH over shingles of words, each confirmed by its true Jaccard index.

Shingle hashes wait in a temporary file (4 bytes a distinct shingle), and a band's table has only documents that share
their part of the signature with another: memory holds little more than the signatures, 512 bytes a document.
"""

import collections
import re
import tempfile
from collections.abc import Iterable

import numpy as np
from datasketch import MinHash, MinHashLSH

from data_gen.corpus import words

PERMUTATIONS = 128
_AT_ONCE = 4096  # shingles hashed together: [4096, 128] uint32 = 2 MiB, however long the text


def plan_order(identity: str) -> list[tuple[bool, int, str]]:
    """Sorts ids as the plan counts: part by part, numbers as numbers (i9 before i10)."""
    parts = re.findall(r"\d{1,18}|\D+|\d", identity)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def shingles(text: str, size: int) -> np.ndarray:
    """Sorted distinct uint32 hashes of the runs of `size` words; a shorter text is one shingle."""
    found = words.split(text)
    return np.unique(words.ngrams(found, min(size, max(len(found), 1))).astype(np.uint32))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a ∩ b| / |a ∪ b| of sorted distinct numbers; 1 of two empty sets."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if len(a) or len(b) else 1.0


def duplicates(rows: Iterable[tuple[str, str]], threshold: float, size: int = 5) -> dict[str, str]:
    """Id → id of the earlier document that it repeats, for every document that should go.

    Of two alike the later one in plan order goes; only documents that stay are compared with. The order of `rows`
    does not matter, ids must be unique. LSH misses a pair near the threshold now and then, never names a wrong one.

    Args:
      rows: (id, text), read once.
      threshold: Jaccard index from which on two documents are duplicates, 0 < threshold < 1.
      size: words of a shingle.
    """
    permutations = MinHash(PERMUTATIONS).permutations
    names: list[str] = []
    signatures = bytearray()
    starts = [0]
    with tempfile.TemporaryFile() as spill:
        for identity, text in rows:
            found = shingles(text, size)
            spill.write(found.tobytes())
            names.append(identity)
            signatures += _signature(found, permutations).tobytes()
            starts.append(starts[-1] + len(found))

        def stored(i: int) -> np.ndarray:
            spill.seek(4 * starts[i])
            return np.frombuffer(spill.read(4 * (starts[i + 1] - starts[i])), np.uint32)

        order = sorted(range(len(names)), key=lambda i: plan_order(names[i]))
        buckets = _buckets(np.frombuffer(signatures, np.uint32).reshape(-1, PERMUTATIONS), threshold)
        staying: list[dict[int, list[int]]] = [collections.defaultdict(list) for _ in buckets]
        gone: dict[str, str] = {}
        for rank, i in enumerate(order):
            shared = [(table, int(bucket[i])) for table, bucket in zip(staying, buckets, strict=True) if bucket[i] >= 0]
            candidates = sorted({r for table, bucket in shared for r in table[bucket]})
            own = stored(i) if candidates else np.empty(0, np.uint32)
            earlier = next((r for r in candidates if jaccard(own, stored(order[r])) >= threshold), None)
            if earlier is None:
                for table, bucket in shared:
                    table[bucket].append(rank)
            else:
                gone[names[i]] = names[order[earlier]]
    return gone


def _buckets(signatures: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Of every band int32 [N]: the number of the document's bucket, -1 where no other document is in it.

    signatures: uint32 [N, PERMUTATIONS].
    """
    # The library's choice of bands. A candidate too many costs a comparison, one too few a duplicate.
    lsh = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    found = []
    for band in range(lsh.b if len(signatures) else 0):
        part = np.ascontiguousarray(signatures[:, band * lsh.r : (band + 1) * lsh.r])
        keys = part.view(np.dtype((np.void, part.itemsize * lsh.r)))[:, 0]
        _, bucket, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        found.append(np.where(sizes[bucket] > 1, bucket, -1).astype(np.int32))
    return found


def _signature(found: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """uint32 [PERMUTATIONS]"""
    sketch = MinHash(PERMUTATIONS, hashfunc=int, permutations=permutations, scheme="affine32")
    for at in range(0, len(found), _AT_ONCE):
        sketch.update_batch(found[at : at + _AT_ONCE].tolist())
    return sketch.hashvalues
