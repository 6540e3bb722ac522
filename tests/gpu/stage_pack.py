"""The data pack is whole: every part that is there has the bytes and the hash of the manifest.

A rehearsal that is given no pack makes a tiny one first.
"""

from rehearsal_pack import rehearsal_pack
from stage import NotCarriedError, Orders, Report, run


def work(orders: Orders, report: Report) -> None:
    pack = orders.pack
    if orders.rehearse and pack is None:
        pack = rehearsal_pack(orders)
    if pack is None:
        raise NotCarriedError("no pack was given: --pack DIR names one")
    from dsin.training.edge.picture_pack import open_pack

    missing: list[str] = []
    pictures = open_pack(pack, missing.append)
    counts = len(pictures.pairs), len(pictures.photos), len(pictures.validation)
    report.facts(pairs=counts[0], photographs=counts[1], validation_pairs=counts[2])
    report.check(
        "hashes", True, f"{counts[0]} pairs, {counts[1]} photographs, {counts[2]} to validate on"
    )
    for line in missing:
        report.tell("missing", line)


if __name__ == "__main__":
    run(work)
