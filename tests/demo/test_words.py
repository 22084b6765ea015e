"""The text bank is in step with the scenes, and the tiny tokenizer knows each of its words."""

import csv

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from demo.models import byte_pair_merges, write_merges
from demo.scenes import VALUES
from demo.words import DISTRACTORS, TEXTS, bank, caption, vocabulary
from store.schema import KINDS


def test_the_committed_bank_is_the_one_of_the_scenes():
    with TEXTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["kind"]) for row in rows] == bank()
    texts = [text for text, _ in bank()]
    assert len(set(texts)) == len(texts)
    assert {kind for _, kind in bank()} <= set(KINDS)
    for name, values in VALUES.items():
        assert {value for value in values if value != "none"} <= set(texts), name
    assert "none" not in texts


def test_captions_tell_what_is_given_and_no_more():
    rng = np.random.default_rng(0)
    everything = {
        "shape": "star",
        "colour": "red",
        "texture": "dotted",
        "background": "sand",
        "artefact": "frame",
    }
    for name, value in everything.items():
        assert value in caption({name: value}, rng)
        others = set(everything.values()) - {value}
        assert not others & set(caption({name: value}, rng).split())
    assert caption(everything, rng).endswith("frame")
    assert "no artefact" in caption({"artefact": "none"}, rng)


def test_pairs_are_merged_in_order_of_their_number():
    # "a b</w>" twice, "b a</w>" once: the most frequent pair first, then by the alphabet.
    assert byte_pair_merges(["ab", "cab", "ba"]) == [("a", "b</w>"), ("b", "a</w>"), ("c", "ab</w>")]
    assert byte_pair_merges(["aaa"]) == [("a", "a"), ("aa", "a</w>")]


def test_every_word_is_one_token_and_others_are_spelt(tmp_path):
    write_merges(tmp_path / "merges.gz", vocabulary())
    tokenizer = SimpleTokenizer(bpe_path=str(tmp_path / "merges.gz"), context_length=24)
    for word in vocabulary():
        assert len(tokenizer.encode(word)) == 1, word
    assert len(tokenizer.encode("zyzzyva")) > 1
    assert {text for texts in DISTRACTORS.values() for text in texts if " " not in text} <= vocabulary()
