"""The text bank: reading, prompts, embeddings, and the quality of the built-in vocabulary."""

import csv
import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from store.errors import ConfigError, ModelError
from store.schema import KINDS, stable_id
from textcam.texts import (
    BUILTIN,
    DEFAULT_TEMPLATES,
    TextBank,
    embed_bank,
    load_bank,
    near_duplicates,
    truncated_texts,
)

PLAIN = dict.fromkeys(KINDS, ("{}",))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TableEncoder:
    """Gives each prompt the row that the table holds for it, and remembers how large the batches were."""

    def __init__(self, table: dict[str, Sequence[float]]) -> None:
        self.table = table
        self.batches: list[int] = []

    def __call__(self, prompts: list[str]) -> np.ndarray:
        self.batches.append(len(prompts))
        return np.array([self.table[prompt] for prompt in prompts], dtype=np.float32)


class PromptEncoder:
    """Reads the prompts that it is asked for; any prompt gets a direction of its own."""

    def __init__(self, width: int = 7) -> None:
        self.prompts: list[str] = []
        self.width = width

    def __call__(self, prompts: list[str]) -> np.ndarray:
        self.prompts += prompts
        return np.array([self.row(prompt) for prompt in prompts])

    def row(self, prompt: str) -> np.ndarray:
        digest = hashlib.sha256(prompt.encode()).digest()[: self.width]
        return np.frombuffer(digest, dtype=np.uint8).astype(np.float64) - 128.5


# --- reading ------------------------------------------------------------------------------------------------


def test_txt_bank(tmp_path):
    path = write(tmp_path / "mine.txt", "# my words\nwater\n\n  red,  white and blue \n#off\nÉtang\n")
    bank = load_bank(path)
    assert bank.texts == ("water", "red, white and blue", "Étang")
    assert bank.kinds == ("other", "other", "other")
    assert bank.templates == DEFAULT_TEMPLATES
    assert bank.duplicates == ()


def test_csv_bank_takes_columns_by_name_not_by_place(tmp_path):
    path = write(
        tmp_path / "mine.csv",
        b'\xef\xbb\xbfnote,Kind,text\r\nx,Colour,"red, white and blue"\r\n,,fog\r\ny,part,beak\r\n',
    )
    bank = load_bank(str(path))
    assert bank.texts == ("red, white and blue", "fog", "beak")
    assert bank.kinds == ("colour", "other", "part")


def test_csv_without_kind_column_and_with_a_byte_order_mark(tmp_path):
    bank = load_bank(write(tmp_path / "mine.csv", b"\xef\xbb\xbftext\nwater\n\nbeak\n"))
    assert (bank.texts, bank.kinds) == (("water", "beak"), ("other", "other"))


def test_duplicates_are_dropped_and_named_and_the_first_kind_wins(tmp_path):
    one = write(tmp_path / "one.csv", "text,kind\nWater,material\nbeak,part\nwater ,scene\n")
    two = write(tmp_path / "two.txt", "BEAK\nwhite  water\nwhite water\ncafe\u0301\ncaf\u00e9\n")
    bank = load_bank([one, str(two)])
    assert bank.texts == ("Water", "beak", "white water", "caf\u00e9")
    assert bank.kinds == ("material", "part", "other", "other")
    assert bank.duplicates == (
        ("water", "Water"),
        ("BEAK", "beak"),
        ("white water", "white water"),
        ("caf\u00e9", "caf\u00e9"),
    )


def test_own_bank_before_builtin_keeps_its_kind(tmp_path):
    own = write(tmp_path / "own.csv", "text,kind\nwatermark,other\nzebra crossing paint,artefact\n")
    bank = load_bank([own, "builtin"])
    assert bank.texts[:2] == ("watermark", "zebra crossing paint")
    assert bank.kinds[:2] == ("other", "artefact")
    assert bank.duplicates == (("watermark", "watermark"),)
    assert len(bank.texts) == len(load_bank("builtin").texts) + 1


@pytest.mark.parametrize(
    ("name", "content", "what", "line"),
    [
        ("a.csv", "text,kind\nwater,material\nbeak,organ\n", "Unknown kind 'organ'", "line 3"),
        (
            "a.csv",
            "name,kind\nwater,material\n",
            "column 'text' is missing; the header has: name, kind",
            "line 1",
        ),
        ("a.csv", "text;kind\nwater;material\n", "the header has: text;kind", "line 1"),
        ("a.csv", "", "the header has: nothing", "line 1"),
        ("a.csv", "text,kind\nred, white and blue,colour\n", "3 cells, the header has 2", "line 2"),
        ("a.csv", "text,kind\nwater\n", "1 cells, the header has 2", "line 2"),
        ("a.csv", "text,kind\nwater,material\n ,material\n", "no text", "line 3"),
        ("a.csv", 'text,kind\nwater,material\n"beak,part\n', "not valid CSV", "line 3"),
        ("a.csv", b"text,kind\nwater,material\n\xe9tang,scene\n", "not UTF-8", "line 3"),
        ("a.txt", b"water\nbeak\nfur\nd\xe9j\xe0\n", "not UTF-8", "line 4"),
        ("a.txt", "water".encode("utf-16"), "not UTF-8", "line 1"),
        ("a.csv", "text,kind\n", "holds no texts", "a.csv"),
        ("a.txt", "# nothing but remarks\n\n", "holds no texts", "a.txt"),
        ("a.json", "[]", "must be a .txt or a .csv", "a.json"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, name, content, what, line):
    path = write(tmp_path / name, content)
    with pytest.raises(ConfigError) as caught:
        load_bank(["builtin", path])
    assert what in caught.value.what
    assert str(path) in caught.value.where
    assert line in caught.value.where
    assert caught.value.fix


def test_a_missing_file_a_folder_and_an_empty_list_are_refused(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for spec, what in [
        (tmp_path / "absent.txt", "cannot be read"),
        (tmp_path / "folder.txt", "cannot be read"),
        ("buildin", "must be a .txt or a .csv"),
        ([], "list of text banks is empty"),
    ]:
        with pytest.raises(ConfigError, match=what):
            load_bank(spec)


# --- the bank itself ----------------------------------------------------------------------------------------


def test_text_ids_depend_on_the_text_alone():
    bank = TextBank(("red, white and blue", "water"), ("colour", "material"), PLAIN)
    assert bank.text_ids.dtype == np.int64
    assert bank.text_ids.tolist() == [1163262059306717712, 8151995460059950929]
    assert bank.text_ids.tolist()[::-1] == [stable_id("water"), stable_id("red, white and blue")]


def test_fingerprint_is_the_hash_of_texts_kinds_and_templates():
    bank = TextBank(("beak", "été"), ("part", "other"), {"part": ("a {}", "{}"), "other": ("{}",)})
    content = (
        '{"kinds": ["part", "other"], "templates": {"other": ["{}"], "part": ["a {}", "{}"]}, '
        '"texts": ["beak", "\\u00e9t\\u00e9"]}'
    )
    assert bank.fingerprint == hashlib.sha256(content.encode()).hexdigest()


def test_fingerprint_tells_banks_apart_and_ignores_what_was_dropped():
    base = TextBank(("beak", "wing"), ("part", "part"), PLAIN)
    others = [
        TextBank(("wing", "beak"), ("part", "part"), PLAIN),
        TextBank(("beak", "wings"), ("part", "part"), PLAIN),
        TextBank(("beak", "wing"), ("part", "object"), PLAIN),
        TextBank(("beak", "wing"), ("part", "part"), PLAIN | {"part": ("a {}",)}),
    ]
    assert len({bank.fingerprint for bank in [base, *others]}) == 5
    same = TextBank(("beak", "wing"), ("part", "part"), dict(reversed(PLAIN.items())), (("Wing", "wing"),))
    assert same.fingerprint == base.fingerprint


def test_a_bank_crosses_a_process_border():
    bank = load_bank("builtin")
    assert pickle.loads(pickle.dumps(bank)) == bank


@pytest.mark.parametrize(
    ("texts", "kinds", "templates", "what"),
    [
        ((), (), PLAIN, "bank is empty"),
        (("beak", "wing"), ("part",), PLAIN, "2 texts but 1 kinds"),
        (("beak",), ("organ",), PLAIN, "Unknown kind 'organ'"),
        (("beak", "Beak "), ("part", "part"), PLAIN, "in the bank twice"),
        (("beak", "beak"), ("part", "other"), PLAIN, "in the bank twice"),
        (("beak", "  "), ("part", "part"), PLAIN, "text without words"),
        (("beak",), ("part",), {"object": ("{}",)}, "no templates for kind 'part'"),
        (("beak",), ("part",), PLAIN | {"part": ()}, "no templates for kind 'part'"),
        (("beak",), ("part",), PLAIN | {"scene": ("a place",)}, "holds it 0 times"),
    ],
)
def test_an_impossible_bank_is_refused(texts, kinds, templates, what):
    with pytest.raises(ConfigError, match=what):
        TextBank(texts, kinds, templates)


# --- templates ----------------------------------------------------------------------------------------------


def test_one_group_of_templates_serves_all_kinds(tmp_path):
    path = write(tmp_path / "a.csv", "text,kind\nbeak,part\nwater,material\n")
    for given in (["una foto de {}", "{}"], ("una foto de {}", "{}")):
        assert load_bank(path, given).templates == dict.fromkeys(KINDS, ("una foto de {}", "{}"))
    assert load_bank(path, "una foto de {}").templates["scene"] == ("una foto de {}",)


def test_templates_by_kind_leave_the_others_at_their_default(tmp_path):
    path = write(tmp_path / "a.csv", "text,kind\nbeak,part\nwater,material\n")
    templates = load_bank(path, {"part": ["the {} of a bird"]}).templates
    assert templates["part"] == ("the {} of a bird",)
    assert {kind: templates[kind] for kind in KINDS if kind != "part"} == {
        kind: DEFAULT_TEMPLATES[kind] for kind in KINDS if kind != "part"
    }


@pytest.mark.parametrize(
    ("templates", "what"),
    [
        (["a photo"], "holds it 0 times"),
        (["{}", "a {} beside a {}"], "holds it 2 times"),
        (["a {0}"], "holds it 0 times"),
        ([], "no templates for kind"),
        ({"part": []}, "no templates for kind 'part'"),
        ({"organ": ["a {}"]}, "Unknown kind 'organ'"),
    ],
)
def test_a_bad_template_is_refused(templates, what):
    with pytest.raises(ConfigError, match=what) as caught:
        load_bank("builtin", templates)
    assert caught.value.fix


def prompts_of(texts: Sequence[str], template: str) -> list[str]:
    encoder = PromptEncoder()
    embed_bank(TextBank(tuple(texts), ("other",) * len(texts), {"other": (template,)}), encoder)
    return encoder.prompts


def test_article_follows_the_sound():
    words = ["apple", "beak", "umbrella", "unicycle", "unfinished wall", "hourglass", "x-ray film"]
    words += ["utility pole", "ewe", "upper body", "one-way sign", "onion", "used tire", "usher", "Otter"]
    words += ["horse", "once-over"]
    assert prompts_of(words, "A photo of a(n) {}.") == [
        "A photo of an apple.",
        "A photo of a beak.",
        "A photo of an umbrella.",
        "A photo of a unicycle.",
        "A photo of an unfinished wall.",
        "A photo of an hourglass.",
        "A photo of an x-ray film.",
        "A photo of a utility pole.",
        "A photo of a ewe.",
        "A photo of an upper body.",
        "A photo of a one-way sign.",
        "A photo of an onion.",
        "A photo of a used tire.",
        "A photo of an usher.",
        "A photo of an Otter.",
        "A photo of a horse.",
        "A photo of a once-over.",
    ]


def test_a_plain_article_stands_as_written_and_other_braces_are_no_holes():
    assert prompts_of(["abelha"], "uma foto com a {}.") == ["uma foto com a abelha."]
    assert prompts_of(["{}", "{0} {x}"], "{a} a(n) {} {b}") == ["{a} a {} {b}", "{a} a {0} {x} {b}"]


def test_default_templates_give_sentences_for_each_kind():
    texts = ("owl", "antler", "orange", "uneven", "wood", "office", "emblem", "running")
    encoder = PromptEncoder()
    embed_bank(TextBank(texts, KINDS, DEFAULT_TEMPLATES), encoder)
    assert len(set(encoder.prompts)) == sum(len(group) for group in DEFAULT_TEMPLATES.values())
    for prompt in (
        "a photo of an owl.",
        "something with an antler",
        "an orange object",
        "an uneven surface",
        "something made of wood",
        "an office in the background",
        "a photo with an emblem.",
        "a photo, running.",
    ):
        assert prompt in encoder.prompts


# --- embeddings ---------------------------------------------------------------------------------------------


def test_two_texts_three_templates_do_not_mix():
    bank = TextBank(("beak", "wing"), ("part", "part"), {"part": ("{}", "a {}", "the {}")})
    encoder = TableEncoder(
        {
            "beak": [3, 0, 0, 0, 0],
            "a beak": [0, 0.5, 0, 0, 0],
            "the beak": [0, 0, 7, 0, 0],
            "wing": [0, 0, 0, 2, 0],
            "a wing": [0, 0, 0, 5, 0],
            "the wing": [0, 0, 0, 0, 4],
        }
    )
    third, fifth = 3**-0.5, 5**-0.5
    expected = np.array([[third, third, third, 0, 0], [0, 0, 0, 2 * fifth, fifth]], dtype=np.float32)
    embeddings = embed_bank(bank, encoder)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=1e-7)


def slow_embeddings(bank: TextBank, encoder: PromptEncoder) -> np.ndarray:
    """Text by text, straight from the words of the docstring."""
    rows = []
    for text, kind in zip(bank.texts, bank.kinds, strict=True):
        units = []
        for template in bank.templates[kind]:
            row = encoder.row(template.replace("{}", text))
            units.append(row / np.sqrt(sum(value * value for value in row)))
        mean = sum(units) / len(units)
        rows.append(mean / np.sqrt(sum(value * value for value in mean)))
    return np.array(rows)


@pytest.mark.parametrize("width", [7, 5])  # 5 is also T
@pytest.mark.parametrize("batch_size", [1, 2, 3, 11, 13])
def test_kinds_with_different_numbers_of_templates_in_any_batching(batch_size, width):
    bank = TextBank(
        ("beak", "red", "wing", "fog", "blue"),
        ("part", "colour", "part", "other", "colour"),
        {"part": ("{}", "a {}"), "colour": ("something {}", "{} thing", "in {}"), "other": ("{}",)},
    )
    encoder = PromptEncoder(width)
    embeddings = embed_bank(bank, encoder, batch_size=batch_size)
    assert len(encoder.prompts) == 11
    np.testing.assert_allclose(embeddings, slow_embeddings(bank, encoder), atol=1e-6)


def test_batches_are_no_larger_than_asked():
    bank = TextBank(("a", "b", "c"), ("other",) * 3, {"other": ("{}", "x {}", "y {}")})
    encoder = TableEncoder({f"{head}{text}": [1, 2] for head in ("", "x ", "y ") for text in "abc"})
    embed_bank(bank, encoder, batch_size=4)
    assert encoder.batches == [4, 4, 1]
    with pytest.raises(ValueError, match="batch_size"):
        embed_bank(bank, encoder, batch_size=0)


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({"a": [1, 0], "b": [0, 0], "x a": [1, 0], "x b": [1, 0]}, "'b'"),
        ({"a": [1, 0], "b": [1, np.nan], "x a": [1, 0], "x b": [1, 0]}, "'b'"),
        ({"a": [1, 0], "b": [1, 0], "x a": [np.inf, 0], "x b": [1, 0]}, "'x a'"),
        ({"a": [2, 0], "b": [1, 0], "x a": [-3, 0], "x b": [1, 0]}, "'a'"),  # the prompts cancel out
    ],
)
def test_an_embedding_without_direction_is_refused_by_name(table, where):
    bank = TextBank(("a", "b"), ("other", "other"), {"other": ("{}", "x {}")})
    with pytest.raises(ModelError, match="without a direction") as caught:
        embed_bank(bank, TableEncoder(table))
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("encode", "shape"),
    [
        (lambda prompts: np.ones((len(prompts) + 1, 3)), r"\(3, 3\) for 2"),
        (lambda prompts: np.ones(3), r"\(3,\) for 2"),
        (lambda prompts: np.ones((len(prompts), 3 if "a" in prompts else 5)), r"\(1, 5\) for 1"),
    ],
)
def test_an_encoder_that_gives_other_rows_than_asked_is_refused(encode, shape):
    bank = TextBank(("a", "b", "c"), ("other",) * 3, {"other": ("{}",)})
    with pytest.raises(ModelError, match=shape):
        embed_bank(bank, encode, batch_size=2)


# --- near-duplicates and truncation -------------------------------------------------------------------------


def test_near_duplicates_by_hand():
    bank = TextBank(("sofa", "red", "couch", "settee"), ("object",) * 4, PLAIN)
    embeddings = np.array([[1, 0], [0, 1], [0.8, 0.6], [0.96, 0.28]], dtype=np.float32)
    # cosines: sofa-couch .8, sofa-settee .96, red-couch .6, red-settee .28, couch-settee .936
    found = near_duplicates(bank, embeddings, threshold=0.9)
    assert [pair[:2] for pair in found] == [("sofa", "settee"), ("couch", "settee")]
    np.testing.assert_allclose([pair[2] for pair in found], [0.96, 0.936], atol=1e-6)
    assert near_duplicates(bank, embeddings) == []


@pytest.mark.parametrize("block", [1, 3, 4, 11, 1024])
def test_near_duplicates_agree_with_all_pairs_in_any_block(block):
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(11, 3))
    embeddings[[2, 7, 10]] = embeddings[4] + 0.02 * rng.normal(size=(3, 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    bank = TextBank(tuple("abcdefghijk"), ("other",) * 11, PLAIN)
    cosines = {
        (bank.texts[i], bank.texts[j]): float(embeddings[i] @ embeddings[j])
        for i in range(11)
        for j in range(i + 1, 11)
    }
    expected = sorted((pair for pair in cosines if cosines[pair] >= 0.9), key=lambda pair: -cosines[pair])
    found = near_duplicates(bank, embeddings, threshold=0.9, block=block)
    assert {("c", "e"), ("c", "h"), ("e", "h"), ("e", "k"), ("h", "k"), ("c", "k")} <= set(expected)
    assert [pair[:2] for pair in found] == expected
    np.testing.assert_allclose([pair[2] for pair in found], [cosines[pair] for pair in expected], atol=1e-12)


def test_near_duplicates_refuse_embeddings_of_another_bank():
    bank = TextBank(("a", "b"), ("other", "other"), PLAIN)
    for shape in [(3, 2), (2,)]:
        with pytest.raises(ValueError, match="2 texts"):
            near_duplicates(bank, np.ones(shape))


def test_truncated_texts_count_the_longest_prompt():
    bank = TextBank(
        ("beak", "big red beak", "fog"),
        ("part", "part", "scene"),
        {"part": ("{}", "a {} of it"), "scene": ("one two three {} four",)},
    )

    def words_and_two_marks(prompt: str) -> int:
        return len(prompt.split()) + 2

    # longest prompts: 4 + 2, 6 + 2, 5 + 2
    assert truncated_texts(bank, words_and_two_marks, context_length=8) == []
    assert truncated_texts(bank, words_and_two_marks, context_length=7) == ["big red beak"]
    assert truncated_texts(bank, words_and_two_marks, context_length=6) == ["big red beak", "fog"]


# --- the built-in bank --------------------------------------------------------------------------------------


def builtin_rows() -> list[list[str]]:
    with BUILTIN.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_builtin_bank_has_enough_concepts_of_each_kind():
    header, *rows = builtin_rows()
    assert header == ["text", "kind"]
    assert len(rows) >= 1_600
    count = Counter(kind for _, kind in rows)
    assert set(count) == set(KINDS)
    least = {"object": 700, "part": 250, "colour": 70, "texture": 100, "material": 90, "scene": 150}
    least |= {"artefact": 120, "other": 150}
    assert {kind: n for kind, n in least.items() if count[kind] < n} == {}


def test_builtin_bank_is_sorted_and_each_line_is_one_clean_concept():
    rows = builtin_rows()[1:]
    assert rows == sorted(rows, key=lambda row: (row[1], row[0]))
    texts = [text for text, _ in rows]
    assert [text for text, n in Counter(texts).items() if n > 1] == []
    assert [text for text in texts if text != " ".join(text.split()) or text != text.lower()] == []
    assert [text for text in texts if not text.isascii() or len(text.split()) > 6 or len(text) < 3] == []
    bank = load_bank("builtin")
    assert bank.duplicates == ()
    assert list(bank.texts) == texts
    assert len(set(bank.text_ids.tolist())) == len(texts)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            "object",
            {"dog", "bird", "car", "hammer", "chair", "pizza", "flower", "violin", "lighthouse", "person"},
        ),
        (
            "part",
            {"beak", "wing", "fur", "fin", "antlers", "whiskers", "talons", "wheel", "headlight", "leaf"},
        ),
        ("colour", {"red", "yellow", "black and white", "rainbow-colored"}),
        ("texture", {"striped", "spotted", "woven", "scaly", "checkered"}),
        ("material", {"wood", "brushed metal", "glass", "water", "leather"}),
        ("scene", {"forest", "beach", "kitchen", "snow field", "city street"}),
        (
            "artefact",
            {"watermark", "copyright text", "barcode", "black border", "logo", "timestamp", "lens flare"},
        ),
        ("artefact", {"hospital tag", "ruler", "handwritten note", "motion blur", "low resolution"}),
        ("other", {"close-up", "silhouette", "crowd", "reflection", "running", "rain"}),
    ],
)
def test_builtin_bank_knows_the_common_concepts(kind, texts):
    bank = load_bank("builtin")
    of_kind = {text for text, its_kind in zip(bank.texts, bank.kinds, strict=True) if its_kind == kind}
    assert texts - of_kind == set()


def test_builtin_bank_does_not_count_a_plural_beside_its_singular():
    texts = set(load_bank("builtin").texts)
    assert {text for text in texts if f"{text}s" in texts or f"{text}es" in texts} == set()


def test_reading_a_bank_loads_no_torch_and_no_ray():
    code = (
        "import sys, textcam.texts as t; t.load_bank('builtin'); print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
