"""The images and models that whole runs are tested on have what there is to compare."""

from collections import Counter
from pathlib import Path

from store.reader import Snapshot
from store.schema import TABLE_NAMES
from store.verify import verify
from textcam.query import Query


def test_a_run_over_cues_has_findings_with_proofs_of_every_verdict(cues: Path) -> None:
    query = Query.open(cues / "whole")
    found = {":".join(query.audit.pair(one)): one for one in query.audit.findings()}
    proved = {name: one for name, one in found.items() if one.proof_n}
    assert len(proved) >= 4
    assert set(Counter(one.verdict for one in proved.values())) == {"used", "association", "unproven"}
    # What the classifier goes by, what it hardly does, and what too few images show.
    assert {name: found[name].verdict for name in ("apple:logo", "plum:night", "leaf:stamp")} == {
        "apple:logo": "used",
        "plum:night": "used",
        "leaf:stamp": "association",
    }
    assert found["leaf:frame"].verdict == "unproven"
    assert all(one.effect is not None and one.flip_rate is not None for one in proved.values())
    assert found["apple:logo"].flip_rate > 0


def test_a_run_over_cues_writes_every_table_but_errors(cues: Path) -> None:
    snapshot = Snapshot.open(cues / "whole")
    assert verify(cues / "whole") == []
    assert [name for name in TABLE_NAMES if not snapshot.count(name)] == ["errors"]
