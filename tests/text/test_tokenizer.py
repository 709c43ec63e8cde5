"""Tokenizer: the vocabulary, files of Qwen2, user text, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.errors import CheckpointError
from llava_st_ros.text.tokenizer import CHAT_END, CHAT_START, STRUCTURE, Tokenizer, train_tokenizer
from support.text_cases import tokenizer

ANSWER = "Ends in <TEMP-007>, the ball drops. Object bounding box: <TEMP-000>: [<WIDTH-099>"


def save_like_qwen2(folder: Path, *, side_file: str) -> dict[str, int]:
    """Save vocab.json, merges.txt and the added tokens; return the added tokens with their ids."""
    tokenizer().save(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    vocabulary = saved["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    pairs = [m if isinstance(m, str) else " ".join(m) for m in saved["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    names = ["<|endoftext|>"] + [token["content"] for token in saved["added_tokens"]]
    added = {name: len(vocabulary) + index for index, name in enumerate(names)}
    write_added(folder, added, side_file)
    return added


def write_added(folder: Path, added: dict[str, int], side_file: str) -> None:
    if side_file == "added_tokens.json":
        content: dict = added
    else:
        decoder = {str(i): {"content": name, "special": True} for name, i in added.items()}
        content = {"added_tokens_decoder": decoder}
    (folder / side_file).write_text(json.dumps(content))


def test_the_vocabulary_has_the_published_order() -> None:
    own = tokenizer()
    chat = [own.encode(CHAT_START), own.encode(CHAT_END)]
    structure = [own.encode(token) for token in STRUCTURE.values()]
    ids = [i for found in chat + structure for i in found]
    assert ids == list(range(own.vocab_size - 16, own.vocab_size))
    assert tuple(vars(own.special).values()) == tuple(ids[2:])
    coordinates = own.encode("<TEMP-000><TEMP-019><HEIGHT-000><HEIGHT-099><WIDTH-000><WIDTH-099>")
    assert coordinates == [own.vocab_size + k for k in (0, 19, 20, 119, 120, 219)]
    assert (own.coordinates.time_rows, own.coordinates.space_rows) == (20, 100)


def test_a_saved_tokenizer_loads_here_and_in_transformers(tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode(ANSWER) == tokenizer().encode(ANSWER)
    assert again.special == tokenizer().special
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(ANSWER).input_ids == again.encode(ANSWER)
    assert theirs.decode(again.encode(ANSWER)) == ANSWER
    assert theirs.eos_token_id == again.chat_end


@pytest.mark.parametrize("side_file", ["added_tokens.json", "tokenizer_config.json"])
def test_files_like_those_of_qwen2_load(tmp_path: Path, side_file: str) -> None:
    added = save_like_qwen2(tmp_path, side_file=side_file)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.vocab_size == added["<TEMP-000>"] == tokenizer().vocab_size + 1
    assert loaded.special.slow_vid_end == added["<slow_vid_end>"]
    assert loaded.decode(loaded.encode(ANSWER)) == ANSWER
    words = "the ball drops. Where? 1234\n\n  it's"
    assert loaded.encode(words) == tokenizer().encode(words)


def test_words_are_split_as_by_qwen2() -> None:
    """Digits and punctuation are tokens of their own; a leading space is part of its word."""
    own = train_tokenizer(["ball 2024 ball, ball's (ball)"] * 50, 400, 1, 1)
    pieces = [own.decode([i]) for i in own.encode("ball 2024 ball, ball's (ball)")]
    assert pieces == [
        "ball",
        " ",
        "2",
        "0",
        "2",
        "4",
        " ball",
        ",",
        " ball",
        "'s",
        " (",
        "ball",
        ")",
    ]


def test_special_tokens_in_training_texts_are_not_learned_as_words() -> None:
    own = train_tokenizer(["<TEMP-INPUT><vid_patch><TEMP-001>"] * 100, 400, 2, 2)
    assert len(own.encode_user("<TEMP-INPUT>")) == len("<TEMP-INPUT>")


@given(st.text())
def test_decoding_returns_the_encoded_text(text: str) -> None:
    own = tokenizer()
    text = own.decode(own.encode_user(text))  # normalized as by Qwen2
    assert own.decode(own.encode_user(text)) == text


@given(
    st.lists(
        st.sampled_from([CHAT_START, CHAT_END, *STRUCTURE.values(), "<TEMP-012>", "<WIDTH-099>"])
        | st.text(max_size=5)
    ).map("".join)
)
def test_user_text_is_never_encoded_as_special_tokens(text: str) -> None:
    assert max(tokenizer().encode_user(text), default=0) < tokenizer().chat_start


def test_lone_surrogates_are_replaced_and_ids_out_of_range_skipped() -> None:
    own = tokenizer()
    assert own.decode(own.encode_user("a\ud800b")) == "a\ufffdb"
    assert own.decode([-5, 10**9, *own.encode("ball")]) == "ball"


def test_texts_of_the_ids() -> None:
    own = tokenizer()
    ids = own.encode_user("Where is the red ball, é?")
    assert "".join(own.texts[i] or "" for i in ids).startswith("Where is the red ball,")
    assert own.texts[own.chat_end] is None
    assert len(own.texts) == own.vocab_size


def save_damaged(folder: Path, damage: str) -> None:
    added = save_like_qwen2(folder, side_file="added_tokens.json")
    if damage == "no slow_vid_end":
        last = max(added.values())
        added = {n: i for n, i in added.items() if n != "<slow_vid_end>" and i < last}
        added = {name: min(added.values()) + k for k, name in enumerate(added)}
    elif damage == "height after width":
        swapped = {"HEIGHT-0": "WIDTH-0", "WIDTH-0": "HEIGHT-0"}
        added = {
            next((n.replace(a, b) for a, b in swapped.items() if a in n), n): i
            for n, i in added.items()
        }
    elif damage == "a row missing":
        names = [n for n in added if n != "<TEMP-005>"]
        added = {name: min(added.values()) + k for k, name in enumerate(names)}
    elif damage == "other ids":
        added = {n: i + 7 for n, i in added.items()}
    elif damage == "nothing":
        (folder / "merges.txt").unlink()
    elif damage == "not JSON":
        (folder / "vocab.json").write_text("{")
        return
    write_added(folder, added, "added_tokens.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no slow_vid_end", "<slow_vid_end>"),
        ("height after width", "order"),
        ("a row missing", "<TEMP-006> as row 5"),
        ("other ids", "gets id"),
        ("nothing", "no tokenizer.json"),
        ("not JSON", "unreadable tokenizer files"),
    ],
)
def test_damaged_files_are_reported_in_one_line(tmp_path: Path, damage: str, message: str) -> None:
    save_damaged(tmp_path, damage)
    with pytest.raises(CheckpointError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_vocabulary_too_small_for_all_bytes_is_rejected() -> None:
    with pytest.raises(CheckpointError, match="at least 272"):
        train_tokenizer(["a"], 100, 20, 100)
