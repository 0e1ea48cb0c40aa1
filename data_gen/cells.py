"""Which cell of a corpus a document belongs to: what subsets and pairs keep the proportions of."""

from typing import Any

Cell = tuple[str, str]


def cell_of(row: dict[str, Any]) -> Cell:
    """(rule, else subdomain, else domain; document type) of a document's row or provenance; "" for what it has not."""
    place = next((row[key] for key in ("rule", "subdomain_id", "domain_id", "domain") if row.get(key)), "")
    return str(place), str(row.get("document_type") or "")
