"""Grammars of the tasks' answers, for constrained decoding.

The rules describe the canonical answers of ``text.answer_format``. A rule yields either forced ids
(fixed words, the time tokens of a tube) or the set that the model selects from (a coordinate, a
word of a caption, an end token). Fixed words are tokenized as in training: each piece between two
coordinate tokens on its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from llava_st_ros.calibration import QueryCalibration
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.records import Modality, Task
from llava_st_ros.text.answer_format import (
    ELC_OPENER,
    NO_MATCH_TEXT,
    REC_OPENER,
    STVG_OPENER,
    TUBE_OPENER,
    TVG_OPENER,
)
from llava_st_ros.text.tasks import Question
from llava_st_ros.text.token_sets import (
    CoordinateRange,
    NoMatchChoice,
    TokenRange,
    TokenSet,
    WordSets,
)
from llava_st_ros.text.tokenizer import Tokenizer

Allowed = TokenRange | TokenSet
Rules = Generator["tuple[int, ...] | Allowed", int, None]
EVEN_ODDS = 0.5  # the no_match_threshold at which the more probable of the two is selected
MAX_SENTENCE_TOKENS = 64
MAX_TEXT_TOKENS = 256
MAX_LEADING_TOKENS = 4  # spaces and punctuation before the first letter or digit
MAX_PARTS = 16  # segments of a DVC answer, phrases of a DGC answer


class GrammarState:
    """The state of one answer under a grammar.

    Attributes:
        forced: The ids that must come next, in order; empty if the model selects the next id.
        is_complete: The answer is complete.
        end_ids: The ids that complete the answer where they are allowed.
    """

    def __init__(self, rules: Rules, end_ids: frozenset[int]) -> None:
        self._rules, self.end_ids = rules, end_ids
        self._allowed: Allowed | None = None
        self.forced: tuple[int, ...] = ()
        self.is_complete = False
        self._step(None)

    @property
    def allowed(self) -> Allowed | None:
        """The set to select the next id from; None while ids are forced and once it is complete."""
        return None if self.forced else self._allowed

    def advance(self, tokens: Sequence[int]) -> None:
        """Append ids to the answer.

        Raises:
            ValueError: An id is neither forced nor allowed.
        """
        for token in tokens:
            if self.forced:
                if token != self.forced[0]:
                    raise ValueError(f"got id {token} where {self.forced[0]} is forced")
                self.forced = self.forced[1:]
                self.is_complete = not self.forced and self._allowed is None
            elif self._allowed is None or token not in self._allowed:
                raise ValueError(f"id {token} is not allowed here")
            elif token in self.end_ids:
                self.is_complete, self._allowed = True, None
            else:
                self._step(token)

    def _step(self, token: int | None) -> None:
        """Run the rules up to the next selection and collect the ids forced before it."""
        self._allowed = None
        forced: list[int] = []
        try:
            rule = next(self._rules) if token is None else self._rules.send(token)
            while isinstance(rule, tuple):
                forced += rule
                rule = next(self._rules)
            self._allowed = rule
        except StopIteration:
            pass
        self.forced = tuple(forced)
        self.is_complete = not forced and self._allowed is None


class Grammar:
    """The grammar of one task's answers.

    Cheap to construct: the word sets are cached per tokenizer.

    Args:
        task: The task.
        tokenizer: The checkpoint's tokenizer.
        config: The checkpoint's geometry.
        span: The first and last time token given in the question. SVG uses both, ELC the first.
        no_match_threshold: Answer "no match" when its probability is at or above this; 1 for never.
        calibration: How probabilities are corrected; by default as for one-shot queries.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        config: ModelConfig,
        *,
        span: tuple[int, int] | None = None,
        no_match_threshold: float = EVEN_ODDS,
        calibration: QueryCalibration | None = None,
    ) -> None:
        self._task, self._tokenizer, self._config, self._span = task, tokenizer, config, span
        self._no_match_threshold = no_match_threshold
        on_image = task.modality is Modality.IMAGE
        of_query = calibration or config.calibration.one_shot
        self._calibration = of_query.image if on_image else of_query.video
        self._time_offset = config.coordinates.offset(Axis.TIME)
        self._end_ids = frozenset((*config.end_token_ids, tokenizer.chat_end))
        self._words = WordSets.for_tokenizer(tokenizer)
        self._literals: dict[str, tuple[int, ...]] = {}

    @classmethod
    def for_question(
        cls,
        question: Question,
        tokenizer: Tokenizer,
        config: ModelConfig,
        no_match_threshold: float = EVEN_ODDS,
        calibration: QueryCalibration | None = None,
    ) -> Grammar:
        """Make the grammar of a question's answers, with the times given in the question."""
        last = config.num_frames - 1
        times = [round(value * last) for value in question.temporal_inputs]
        span = (times[0], times[-1]) if times else None
        return cls(
            question.task,
            tokenizer,
            config,
            span=span,
            no_match_threshold=no_match_threshold,
            calibration=calibration,
        )

    def start(self) -> GrammarState:
        """Return the state at the start of an answer."""
        rules = {
            Task.STVG: self._stvg,
            Task.SVG: self._svg,
            Task.ELC: self._elc,
            Task.TVG: self._tvg,
            Task.TR: self._free_text,
            Task.REC: self._rec,
            Task.REG: self._free_text,
            Task.DGC: self._dgc,
            Task.DVC: self._dvc,
        }[self._task]
        return GrammarState(rules(), self._end_ids)

    def state_after(self, ids: Sequence[int]) -> GrammarState:
        """Return the state after ``ids``.

        Raises:
            ValueError: The grammar does not allow them.
        """
        state = self.start()
        state.advance(ids)
        return state

    def _stvg(self) -> Rules:
        if (yield from self._no_match_or(STVG_OPENER)):
            return
        first, last = yield from self._times()
        yield from self._tube("}. " + TUBE_OPENER, range(first, last + 1))

    def _svg(self) -> Rules:
        if (yield from self._no_match_or(TUBE_OPENER)):
            return
        if self._span is not None:
            yield from self._tube("", range(self._span[0], self._span[1] + 1))
            return
        time = yield from self._time()
        more, end = self._literal("], "), self._literal("]")
        shared = 0
        while shared < len(end) and more[shared] == end[shared]:
            shared += 1
        # The first token in which "another box" and "end" differ: the rest of "]" or an end token.
        closers = end[shared : shared + 1] or tuple(self._end_ids)
        allowed = self._words.empty.union(more[shared], *closers)
        while True:
            yield self._literal(": [")
            yield from self._corners()
            if time == self._config.num_frames - 1:
                yield end
                return
            yield more[:shared]
            token = yield allowed
            if token != more[shared]:
                yield end[shared + 1 :]
                return
            time += 1
            yield (*more[shared + 1 :], self._time_offset + time)

    def _elc(self) -> Rules:
        yield self._literal(ELC_OPENER)
        start = None if self._span is None else self._span[0]
        end = yield from self._time(start or 0)
        yield self._literal(",")
        tube_opener = self._literal(" " + TUBE_OPENER)
        token = yield from self._sentence(self._words.plain.union(tube_opener[0]), tube_opener[0])
        yield tube_opener if token is None else tube_opener[1:]
        if start is None:
            start = yield from self._time(0, end)
            yield from self._tube(None, range(start, end + 1))
        else:
            yield from self._tube("", range(start, end + 1))

    def _tvg(self) -> Rules:
        if (yield from self._no_match_or(TVG_OPENER)):
            return
        yield from self._times()
        yield self._literal("}")

    def _rec(self) -> Rules:
        if (yield from self._no_match_or(REC_OPENER)):
            return
        yield from self._corners()
        yield self._literal("]")

    def _no_match_or(self, opener: str) -> Generator[tuple | Allowed, int, bool]:
        """Yield "no match" or the opening words of an answer; return True for "no match"."""
        no_match, opening = self._literal(NO_MATCH_TEXT), self._literal(opener)
        token = yield NoMatchChoice(
            no_match[0], opening[0], self._no_match_threshold, self._calibration
        )
        chosen = no_match if token == no_match[0] else opening
        yield chosen[1:]
        return chosen is no_match

    def _free_text(self) -> Rules:
        """Yield words up to an end token, at least one with a letter or a digit."""
        words = self._words
        words_or_end, has_content = words.printable.union(*self._end_ids), False
        for number in range(MAX_TEXT_TOKENS):
            if has_content:
                token = yield words_or_end
            elif number < MAX_LEADING_TOKENS:
                token = yield words.printable
            else:
                token = yield words.alphanumeric
            has_content = has_content or words.has_alphanumeric(token)

    def _dgc(self) -> Rules:
        """Yield phrases, each with its box, and optional closing words."""
        for number in range(MAX_PARTS):
            yield from self._phrase(first=number == 0)
            yield from self._corners()
        yield self._literal("]")

    def _phrase(self, *, first: bool) -> Rules:
        """Yield words up to the "[" of the next box; all but the first close the box before."""
        words = self._words
        end_ids = () if first else self._end_ids
        leading = words.plain.union(*end_ids)
        following = words.plain_or_box_openers.union(*end_ids)
        has_content = False
        for number in range(MAX_SENTENCE_TOKENS):
            if number == 0 and not first:
                token = yield words.box_closers
            elif not has_content:
                token = yield leading if number < MAX_LEADING_TOKENS else words.alphanumeric
            else:
                token = yield following
                if token in words.box_openers:
                    return
            has_content = has_content or words.has_alphanumeric(token)
        yield self._literal(" [")

    def _dvc(self) -> Rules:
        yield self._literal("{")
        next_segment = self._literal(" {")
        allowed = self._words.plain.union(next_segment[0], *self._end_ids)
        for number in range(MAX_PARTS):
            yield from self._times()
            yield self._literal("},")
            token = yield from self._sentence(allowed, next_segment[0])
            if number == MAX_PARTS - 1:
                return
            if token is None:
                yield self._words.empty.union(next_segment[0], *self._end_ids)
            yield next_segment[1:]

    def _sentence(
        self, following: TokenSet, next_part: int
    ) -> Generator[tuple | Allowed, int, int | None]:
        """Yield words up to a period, after which ``following`` is allowed.

        Returns ``next_part`` if it was selected, None if the sentence reached its maximum length
        and was closed. An end token in ``following`` completes the answer and does not return here.
        """
        words = self._words
        token = yield words.spaced
        has_content = words.has_alphanumeric(token)
        ended = has_content and words.ends_sentence(token)
        for number in range(1, MAX_SENTENCE_TOKENS):
            if ended:
                token = yield following
                if token == next_part:
                    return token
            elif has_content or number < MAX_LEADING_TOKENS:
                token = yield words.plain
            else:
                token = yield words.alphanumeric
            has_content = has_content or words.has_alphanumeric(token)
            ended = has_content and words.ends_sentence(token)
        if not ended:
            yield self._literal(".")
        return None

    def _times(self) -> Generator[Allowed, int, tuple[int, int]]:
        first = yield from self._time()
        last = yield from self._time(first)
        return first, last

    def _time(self, first: int = 0, last: int | None = None) -> Generator[Allowed, int, int]:
        offset = self._time_offset
        stop = self._config.num_frames if last is None else last + 1
        token = yield CoordinateRange(offset + first, offset + stop)
        return token - offset

    def _tube(self, lead: str | None, times: Iterable[int]) -> Rules:
        """Yield a box for each time; with ``lead`` None the first time token is already written."""
        for number, time in enumerate(times):
            if number or lead is not None:
                yield self._literal("], " if number else lead or "")
                yield (self._time_offset + time,)
            yield self._literal(": [")
            yield from self._corners()
        yield self._literal("]")

    def _corners(self) -> Rules:
        """Yield x1, y1, x2 >= x1 and y2 >= y1."""
        heights, widths = (self._config.coordinates.ids(axis) for axis in (Axis.HEIGHT, Axis.WIDTH))
        x1 = yield CoordinateRange(widths.start, widths.stop)
        y1 = yield CoordinateRange(heights.start, heights.stop)
        yield CoordinateRange(x1, widths.stop)
        yield CoordinateRange(y1, heights.stop)

    def _literal(self, text: str) -> tuple[int, ...]:
        if text not in self._literals:
            self._literals[text] = tuple(self._tokenizer.encode_user(text))
        return self._literals[text]


class Unconstrained:
    """The grammar that allows any token until an end token."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self._vocabulary = TokenRange(0, config.vocabulary)
        self._end_ids = frozenset((*config.end_token_ids, tokenizer.chat_end))

    def start(self) -> GrammarState:
        """Return the state at the start of an answer."""
        return GrammarState(self._rules(), self._end_ids)

    def _rules(self) -> Rules:
        while True:
            yield self._vocabulary
