"""Words and places to token ids: a byte-level BPE with LLaVA-ST's structural and coordinate tokens.

The vocabulary is [text | time | height | width] (LLaVA-ST, section 3.2). Text ends with the chat
tokens, then the structural tokens in the order in which the published code adds them; the
coordinate tokens follow without a gap, so that each is its table's row plus an offset.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from llava_st_ros.atomic_files import write_text
from llava_st_ros.config import ModelConfig, SpecialTokens
from llava_st_ros.coordinates import COORDINATE, Axis, CoordinateVocabulary
from llava_st_ros.errors import CheckpointError

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
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # one of them
# Qwen2's own split: contractions, words with one leading mark, single digits, marks, line ends.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Token ids of trusted text, of users' words, and back. Raises CheckpointError at the start
    unless every structural token is one id and the coordinate tokens lie in their order."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, source: str = "tokenizer") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        ids = {token.content: number for number, token in added.items()}
        missing = [t for t in (CHAT_START, CHAT_END, *STRUCTURE.values()) if t not in ids]
        if missing:
            raise CheckpointError(
                f"{source}: no token {', '.join(missing)}"
                "; expected the chat and structural tokens, each added as one token",
                "take the tokenizer files that belong to the checkpoint",
            )
        self.chat_start, self.chat_end = ids[CHAT_START], ids[CHAT_END]
        self.special = SpecialTokens(**{field: ids[name] for field, name in STRUCTURE.items()})
        rows: dict[Axis, list[int]] = {axis: [] for axis in Axis}
        for name, number in sorted(ids.items(), key=lambda item: item[1]):
            match = COORDINATE.fullmatch(name)
            if match:
                axis, row = Axis.of_kind(match[1]), int(match[2])
                if row != len(rows[axis]):
                    raise _disorder(f"{source}: {name} as row {len(rows[axis])}")
                rows[axis].append(number)
        together = [number for axis in Axis for number in rows[axis]]
        if not all(rows.values()) or len(rows[Axis.HEIGHT]) != len(rows[Axis.WIDTH]):
            counts = ", ".join(f"{len(ids)} {axis.kind}" for axis, ids in rows.items())
            raise _disorder(f"{source}: {counts} tokens")
        if together != list(range(together[0], together[0] + len(together))):
            raise _disorder(f"{source}: coordinate tokens with gaps or out of their order")
        if together[0] <= max(vars(self.special).values()):
            raise _disorder(f"{source}: coordinate tokens before the structural ones")
        self.coordinates = CoordinateVocabulary(
            together[0], len(rows[Axis.TIME]), len(rows[Axis.HEIGHT])
        )
        self._added = frozenset(added)
        # The same BPE without any added token: no structure can come out of a user's words.
        self._plain = tokenizers.Tokenizer(tokenizer.model)
        if tokenizer.normalizer is not None:
            self._plain.normalizer = tokenizer.normalizer
        self._plain.pre_tokenizer = tokenizer.pre_tokenizer
        self._plain.decoder = tokenizer.decoder

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """From ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` as Qwen2 ships them.

        Tokens that only ``added_tokens.json`` or ``tokenizer_config.json`` names are added, and
        must get the ids that these files give them. Raises CheckpointError.
        """
        return cls(_read_files(Path(folder)), str(folder))

    @classmethod
    def load_if_any(cls, folder: str | Path) -> Tokenizer | None:
        """As ``load``; None where the folder has none of a tokenizer's files."""
        found = any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)
        return cls.load(folder) if found else None

    @classmethod
    def load_completed(cls, folder: str | Path, num_temporal: int, num_spatial: int) -> Tokenizer:
        """As ``load``, with the structural and coordinate tokens that the files lack added at the
        end in the published order, as the stage of training that brings them adds them."""
        tokenizer = _read_files(Path(folder))
        tokens = [*STRUCTURE.values(), *CoordinateVocabulary(0, num_temporal, num_spatial).tokens()]
        tokenizer.add_special_tokens([_special(t) for t in tokens])
        return cls(tokenizer, str(folder))

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and a ``tokenizer_config.json`` for transformers."""
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
        """The number of text ids, and so the id of ``<TEMP-000>``."""
        return self.coordinates.text_rows

    @property
    def digest(self) -> str:
        """A hash that two tokenizers share if they give the same ids to the same text."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def check_fits(self, config: ModelConfig) -> None:
        """Raise CheckpointError unless the tokenizer belongs to a model of this geometry."""
        for what, found, expected in (
            ("id of <TEMP-000>", self.vocab_size, config.language.vocab_size),
            ("time tokens", self.coordinates.time_rows, config.num_temporal_tokens),
            ("height and width tokens", self.coordinates.space_rows, config.num_spatial_tokens),
            ("structural token ids", self.special, config.special_tokens),
        ):
            if found != expected:
                raise CheckpointError(
                    f"the tokenizer's {what}: {found}"
                    f"; expected {expected}, as lm_head.weight and config.json say",
                    "use the tokenizer that belongs to the weights",
                )

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text: special tokens in it are recognized."""
        return self._tokenizer.encode(_utf8(text), add_special_tokens=False).ids

    def encode_user(self, text: str) -> list[int]:
        """Ids of anybody's text: whatever it spells, no special token comes out."""
        ids = self._plain.encode(_utf8(text), add_special_tokens=False).ids
        return [number for number in ids if number not in self._added]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens kept; ids outside the vocabulary are left out."""
        known = [int(i) for i in ids if 0 <= int(i) < self.coordinates.size]
        return self._tokenizer.decode(known, skip_special_tokens=False)

    @cached_property
    def texts(self) -> tuple[str | None, ...]:
        """What each id below ``vocab_size`` adds to a text; None for special tokens and gaps.

        An incomplete UTF-8 sequence reads as U+FFFD.
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
    """A byte-level BPE of ``texts``; at most ``vocab_size`` ids before ``<TEMP-000>``.

    Special tokens in the texts part them and are not learnt as words.
    Few texts give fewer merges and so a smaller vocabulary: read it off ``Tokenizer.vocab_size``.
    """
    structure = [CHAT_START, CHAT_END, *STRUCTURE.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(structure) or num_temporal < 1 or num_spatial < 1:
        raise CheckpointError(
            f"a vocabulary of {vocab_size} with {num_temporal} time and {num_spatial} place tokens"
            f"; expected at least {len(alphabet) + len(structure)} and a row of each",
            "ask for a larger one",
        )
    tokenizer = _byte_level(tokenizers.Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(structure),
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    between = re.compile(
        "|".join([COORDINATE.pattern.replace("(", "(?:"), *map(re.escape, structure)])
    )
    tokenizer.train_from_iterator((w for text in texts for w in between.split(text)), trainer)
    coordinates = [*CoordinateVocabulary(0, num_temporal, num_spatial).tokens()]
    tokenizer.add_special_tokens([_special(t) for t in structure + coordinates])
    return Tokenizer(tokenizer)


def _read_files(folder: Path) -> tokenizers.Tokenizer:
    whole, vocabulary, merges = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if whole.is_file():
            tokenizer = tokenizers.Tokenizer.from_str(whole.read_text(encoding="utf-8"))
        elif vocabulary.is_file() and merges.is_file():
            model = models.BPE.from_file(str(vocabulary), str(merges))
            tokenizer = _byte_level(tokenizers.Tokenizer(model))
        else:
            raise CheckpointError(
                f"{folder}: no tokenizer.json and no vocab.json with merges.txt"
                "; expected one of the two",
                "copy the tokenizer files into the checkpoint's folder",
            )
        _add_tokens(tokenizer, _declared_tokens(folder), folder)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"{folder}: {error}; expected readable tokenizer files", "fetch or save them again"
        ) from error
    return tokenizer


def _byte_level(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Qwen2's normaliser, split and decoder around a BPE model."""
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
    """Token -> id as the side files of ``tokenizer.json`` or ``vocab.json`` give them."""
    declared: dict[str, int] = {}
    path = folder / "added_tokens.json"
    if path.is_file():
        declared.update(_mapping(path))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        for number, token in _mapping(path).get("added_tokens_decoder", {}).items():
            declared[token["content"]] = int(number)
    return declared


def _mapping(path: Path) -> Mapping[str, Any]:
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: {type(loaded).__name__}; expected an object")
    return loaded


def _add_tokens(tokenizer: tokenizers.Tokenizer, declared: Mapping[str, int], folder: Path) -> None:
    present = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    for token, number in sorted(declared.items(), key=lambda item: item[1]):
        if token not in present:
            tokenizer.add_special_tokens([_special(token)])
        if tokenizer.token_to_id(token) != number:
            raise CheckpointError(
                f"{folder}: {token} gets id {tokenizer.token_to_id(token)}"
                f"; expected id {number}, as added_tokens.json or tokenizer_config.json says",
                "take tokenizer files that belong together",
            )


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _disorder(found: str) -> CheckpointError:
    return CheckpointError(
        f"{found}; expected <TEMP-000>.., <HEIGHT-000>.., <WIDTH-000>.. in this order without a "
        "gap, after all structural tokens, as many heights as widths",
        "take the tokenizer files that belong to the checkpoint",
    )


def _utf8(text: str) -> str:
    """Lone surrogates have no UTF-8: they become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bytes_of_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary, to the byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}
