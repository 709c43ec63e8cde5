"""The tokenizer: a byte-level BPE with LLaVA-ST's structural and coordinate tokens.

The vocabulary is [text | time | height | width] (LLaVA-ST, section 3.2). The text part ends with
the chat tokens and the structural tokens, in the order in which the published code adds them. The
coordinate tokens follow without a gap: the id of each is its row plus an offset.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from llava_st_ros.atomic_files import write_text
from llava_st_ros.config import ModelConfig, SpecialTokens
from llava_st_ros.coordinates import COORDINATE, Axis, CoordinateVocabulary
from llava_st_ros.errors import CheckpointError, reason_of
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.limits import JSON_BYTES
from llava_st_ros.files.raw import read_text

CHAT_START, CHAT_END = "<|im_start|>", "<|im_end|>"
STRUCTURE = {  # field of SpecialTokens -> token, in the published order
    "im_start": "<im_start>",
    "im_end": "<im_end>",
    "im_patch": "<im_patch>",
    "vid_start": "<vid_start>",
    "vid_end": "<vid_end>",
    "vid_patch": "<vid_patch>",
    "slow_vid_start": "<slow_vid_start>",
    "slow_vid_end": "<slow_vid_end>",
    **{
        f"{axis.table}_{side}": token
        for axis in Axis
        for side, token in (("input", axis.input_token), ("output", axis.output_token))
    },
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # either one
# The pre-tokenizer of Qwen2: contractions, words, single digits, punctuation, line breaks.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Converts trusted text and user text to token ids, and back.

    Args:
        tokenizer: A tokenizer of the tokenizers library.
        source: Its name in error messages.

    Attributes:
        chat_start: Id of ``<|im_start|>``.
        chat_end: Id of ``<|im_end|>``.
        special: Ids of the structural tokens.
        coordinates: Ids of the coordinate tokens.

    Raises:
        CheckpointError: A structural token is missing, or the coordinate tokens are not in order.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, source: str = "tokenizer") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        ids = {token.content: number for number, token in added.items()}
        missing = [t for t in (CHAT_START, CHAT_END, *STRUCTURE.values()) if t not in ids]
        if missing:
            raise CheckpointError(
                f"{source} has no token {', '.join(missing)}",
                "use the tokenizer files of the checkpoint",
            )
        self.chat_start, self.chat_end = ids[CHAT_START], ids[CHAT_END]
        self.special = SpecialTokens(**{field: ids[name] for field, name in STRUCTURE.items()})
        self.coordinates = _coordinate_vocabulary(ids, source)
        if self.coordinates.text_rows <= max(vars(self.special).values()):
            raise _token_order_error(f"{source} has coordinate tokens before structural tokens")
        self._added = frozenset(added)
        # The same BPE without added tokens, so that user text cannot produce special tokens.
        self._plain = tokenizers.Tokenizer(tokenizer.model)
        if tokenizer.normalizer is not None:
            self._plain.normalizer = tokenizer.normalizer
        self._plain.pre_tokenizer = tokenizer.pre_tokenizer
        self._plain.decoder = tokenizer.decoder

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Load ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` as published by Qwen2.

        Tokens listed only in ``added_tokens.json`` or ``tokenizer_config.json`` are added.

        Raises:
            CheckpointError: The files are missing or corrupt, or an added token gets another id
                than the one listed.
        """
        return cls(_read_files(Path(folder)), str(folder))

    @classmethod
    def load_optional(cls, folder: str | Path) -> Tokenizer | None:
        """Load a tokenizer as ``load`` does; return None if the folder has no tokenizer files."""
        found = any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)
        return cls.load(folder) if found else None

    @classmethod
    def load_completed(cls, folder: str | Path, num_temporal: int, num_spatial: int) -> Tokenizer:
        """Load a tokenizer and add the missing structural and coordinate tokens.

        They are added at the end, in the published order.
        """
        tokenizer = _read_files(Path(folder))
        tokens = [*STRUCTURE.values(), *CoordinateVocabulary(0, num_temporal, num_spatial).tokens()]
        tokenizer.add_special_tokens([_special(t) for t in tokens])
        return cls(tokenizer, str(folder))

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json``, and ``tokenizer_config.json`` for transformers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": CHAT_END,
            "additional_special_tokens": [CHAT_START, CHAT_END],
            "clean_up_tokenization_spaces": False,
        }
        for name, content in (
            ("tokenizer.json", self._tokenizer.to_str()),
            ("tokenizer_config.json", json.dumps(settings, indent=1)),
        ):
            write_text(folder / name, content)

    @property
    def vocab_size(self) -> int:
        """The number of text ids, which is the id of ``<TEMP-000>``."""
        return self.coordinates.text_rows

    @property
    def digest(self) -> str:
        """A SHA-256 hash of the tokenizer's definition."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def check_fits(self, config: ModelConfig) -> None:
        """Raise CheckpointError if the tokenizer does not match the geometry of a checkpoint."""
        for item, actual, expected in (
            ("id of <TEMP-000>", self.vocab_size, config.language.vocab_size),
            ("time tokens", self.coordinates.time_rows, config.num_temporal_tokens),
            ("height and width tokens", self.coordinates.space_rows, config.num_spatial_tokens),
            ("structural token ids", self.special, config.special_tokens),
        ):
            if actual != expected:
                raise CheckpointError(
                    f"the tokenizer's {item}: {actual}; expected {expected}, "
                    "as in lm_head.weight and config.json",
                    "use the tokenizer files of the checkpoint",
                )

    def encode(self, text: str) -> list[int]:
        """Return the ids of trusted text; special tokens in it are recognized."""
        return self._tokenizer.encode(_utf8(text), add_special_tokens=False).ids

    def encode_user(self, text: str) -> list[int]:
        """Return the ids of user text; never those of special tokens."""
        ids = self._plain.encode(_utf8(text), add_special_tokens=False).ids
        return [number for number in ids if number not in self._added]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included; skip ids outside the vocabulary."""
        in_vocabulary = [int(i) for i in ids if 0 <= int(i) < self.coordinates.size]
        return self._tokenizer.decode(in_vocabulary, skip_special_tokens=False)

    @cached_property
    def texts(self) -> tuple[str | None, ...]:
        """The text of each id below ``vocab_size``; None for special tokens and unused ids.

        Incomplete UTF-8 sequences are replaced by U+FFFD.
        """
        byte = _bytes_of_alphabet()
        result: list[str | None] = [None] * self.vocab_size
        for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if number < self.vocab_size and number not in self._added:
                raw = bytes(byte[c] for c in token if c in byte)
                result[number] = raw.decode("utf-8", "replace")
        return tuple(result)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, num_temporal: int, num_spatial: int
) -> Tokenizer:
    """Train a byte-level BPE.

    Args:
        texts: The training texts; they are split at special tokens, which are not learned as words.
        vocab_size: The maximum number of text ids. Few texts give fewer; see
            ``Tokenizer.vocab_size``.
        num_temporal: Rows of the temporal table.
        num_spatial: Rows of each spatial table.

    Raises:
        CheckpointError: The vocabulary has no room for bytes and structural tokens, or a table has
            no rows.
    """
    structure = [CHAT_START, CHAT_END, *STRUCTURE.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(structure) or num_temporal < 1 or num_spatial < 1:
        raise CheckpointError(
            f"a vocabulary of {vocab_size} with {num_temporal} temporal and {num_spatial} spatial "
            f"tokens; expected at least {len(alphabet) + len(structure)} with one of each"
        )
    tokenizer = _byte_level(tokenizers.Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(structure),
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    special = re.compile(
        "|".join([COORDINATE.pattern.replace("(", "(?:"), *map(re.escape, structure)])
    )
    tokenizer.train_from_iterator((w for text in texts for w in special.split(text)), trainer)
    coordinates = [*CoordinateVocabulary(0, num_temporal, num_spatial).tokens()]
    tokenizer.add_special_tokens([_special(t) for t in structure + coordinates])
    return Tokenizer(tokenizer)


def _coordinate_vocabulary(ids: Mapping[str, int], source: str) -> CoordinateVocabulary:
    """Find the coordinate tokens among added tokens and check their order."""
    rows: dict[Axis, list[int]] = {axis: [] for axis in Axis}
    for name, number in sorted(ids.items(), key=lambda item: item[1]):
        match = COORDINATE.fullmatch(name)
        if match:
            axis, row = Axis.of_kind(match[1]), int(match[2])
            if row != len(rows[axis]):
                raise _token_order_error(f"{source} has {name} as row {len(rows[axis])}")
            rows[axis].append(number)
    if not all(rows.values()) or len(rows[Axis.HEIGHT]) != len(rows[Axis.WIDTH]):
        counts = ", ".join(f"{len(numbers)} {axis.kind}" for axis, numbers in rows.items())
        raise _token_order_error(f"{source} has {counts} tokens")
    numbers = [number for axis in Axis for number in rows[axis]]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise _token_order_error(
            f"{source} has gaps between its coordinate tokens, or another order"
        )
    return CoordinateVocabulary(numbers[0], len(rows[Axis.TIME]), len(rows[Axis.HEIGHT]))


def _read_files(folder: Path) -> tokenizers.Tokenizer:
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    complete, vocabulary, merges = (folder / name for name in names)
    try:
        if complete.is_file():
            text = read_text(complete, CheckpointError, max_bytes=JSON_BYTES)
            tokenizer = tokenizers.Tokenizer.from_str(text)
        elif vocabulary.is_file() and merges.is_file():
            model = models.BPE.from_file(str(vocabulary), str(merges))
            tokenizer = _byte_level(tokenizers.Tokenizer(model))
        else:
            raise CheckpointError(
                f"{folder} has no tokenizer.json, and no vocab.json with merges.txt",
                "copy the tokenizer files into the checkpoint folder",
            )
        _add_tokens(tokenizer, _declared_tokens(folder), folder)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"{folder}: unreadable tokenizer files: {reason_of(error)}",
            "download or save them again",
        ) from error
    return tokenizer


def _byte_level(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Wrap a BPE model in the normalizer, pre-tokenizer and decoder of Qwen2."""
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _declared_tokens(folder: Path) -> dict[str, int]:
    """Return the ids of the tokens listed next to ``tokenizer.json`` or ``vocab.json``."""
    declared: dict[str, int] = {}
    path = folder / "added_tokens.json"
    if path.is_file():
        declared.update(read_json(path, CheckpointError, nan=True))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        values = read_json(path, CheckpointError, nan=True)
        for number, token in values.get("added_tokens_decoder", {}).items():
            declared[token["content"]] = int(number)
    return declared


def _add_tokens(tokenizer: tokenizers.Tokenizer, declared: Mapping[str, int], folder: Path) -> None:
    present = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    for token, number in sorted(declared.items(), key=lambda item: item[1]):
        if token not in present:
            tokenizer.add_special_tokens([_special(token)])
        if tokenizer.token_to_id(token) != number:
            raise CheckpointError(
                f"{folder}: {token} gets id {tokenizer.token_to_id(token)}; "
                f"expected {number}, as in added_tokens.json or tokenizer_config.json",
                "use tokenizer files of one checkpoint",
            )


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _token_order_error(problem: str) -> CheckpointError:
    return CheckpointError(
        f"{problem}; expected <TEMP-000>.., <HEIGHT-000>.., <WIDTH-000>.. in this order, without "
        "gaps, after the structural tokens, and as many heights as widths",
        "use the tokenizer files of the checkpoint",
    )


def _utf8(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bytes_of_alphabet() -> dict[str, int]:
    """Return the byte of each character of a byte-level vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unprintable = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(unprintable)}
