"""How fast a run is, beside its own limits and beside what users write today.

    python -m benchmarks.speed [PART ...] [--photos 96] [--rounds 3] [--folder PHOTOGRAPHS] [--peers FOLDER]

Parts: limit, workers, growth; and the peers: loop, loader, clip-retrieval, semanticlens, ray-data-1,
ray-data-2, which but for the first two need the environments that benchmarks/README.md tells how to make.
Sides of a ratio take turns on the same files, so that a busy machine slows all. Models have random weights
(ResNet-50 and ViT-B/32; the demo's small ones where the pipeline itself is measured). Photographs are those
of ``--folder``, or drawn ones of 500 x 375. A part takes the place of its old measures in the result file.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import RESULTS, Measure, machine, publish
from benchmarks.speed import own, peers

NAME = "speed"
PARTS: dict[str, Callable[[Path, argparse.Namespace], list[Measure]]] = {
    "limit": own.limit,
    "workers": own.workers,
    "growth": own.growth,
    **peers.PARTS,
}


def keep(measures: Sequence[Measure], write: bool) -> None:
    """Print, and take the place of the same part's measures in the result file; others stay."""
    path = RESULTS / f"{NAME}.json"
    before = json.loads(path.read_text())["measures"] if path.exists() else []
    others = PARTS.keys() - {one.name.partition(":")[0] for one in measures}
    kept = [Measure(**one) for one in before if one["name"].partition(":")[0] in others]
    publish(NAME, [*kept, *measures] if write else measures, machine(), write=write)


def main() -> None:
    """Run the parts asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="where their environments lie")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    options.peers = options.peers.absolute()
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            keep(PARTS[name](Path(folder), options), write=not options.dry)


if __name__ == "__main__":
    main()
