"""What may come next in an answer: the tasks' grammars, for constrained decoding.

The canonical answers of ``language.answer_format`` as rules. A rule says either which ids are
forced (fixed words, the time tokens of a tube) or among which the model chooses (a coordinate that
keeps the box and the span in order, a word of a caption, the end). Fixed words are encoded just as
training encodes them: each stretch between two coordinate tokens on its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.records import Task
from llava_st_ros.text.answer_format import (
    ELC_OPENER,
    NO_MATCH_TEXT,
    REC_OPENER,
    STVG_OPENER,
    TUBE_OPENER,
    TVG_OPENER,
)
from llava_st_ros.text.choices import Coordinates, IdRange, IdSet, NoMatchChoice, Words
from llava_st_ros.text.tasks import Question
from llava_st_ros.text.tokenizer import Tokenizer

Choice = IdRange | IdSet
Rules = Generator["tuple[int, ...] | Choice", int, None]
EVEN_ODDS = 0.5  # a refusal's probability at which it is as likely as an answer
MAX_SENTENCE_TOKENS = 64
MAX_TEXT_TOKENS = 256
MAX_SILENT_TOKENS = 4  # spaces and marks before the first letter or digit
MAX_PARTS = 16  # segments of a DVC answer, phrases of a DGC answer


class Walk:
    """One answer being written under a grammar.

    While ``forced`` is not empty, these ids come next, in order; else the next id is one of
    ``allowed``. ``done`` once the answer is complete; one of ``ends`` completes it where allowed.
    """

    def __init__(self, rules: Rules, ends: frozenset[int]) -> None:
        self._rules, self.ends = rules, ends
        self._choice: Choice | None = None
        self.forced: tuple[int, ...] = ()
        self.done = False
        self._step(None)

    @property
    def allowed(self) -> Choice | None:
        """None while tokens are forced and when the answer is done."""
        return None if self.forced else self._choice

    def advance(self, tokens: Sequence[int]) -> None:
        """Take the next ids. ValueError for one that is neither forced nor allowed."""
        for token in tokens:
            if self.forced:
                if token != self.forced[0]:
                    raise ValueError(f"id {token} where {self.forced[0]} is forced")
                self.forced = self.forced[1:]
                self.done = not self.forced and self._choice is None
            elif self._choice is None or token not in self._choice:
                raise ValueError(f"id {token}, which may not come here")
            elif token in self.ends:
                self.done, self._choice = True, None
            else:
                self._step(token)

    def _step(self, token: int | None) -> None:
        """Run the rules up to the next choice, gathering what is forced on the way."""
        self._choice = None
        forced: list[int] = []
        try:
            rule = self._rules.send(token)  # type: ignore[arg-type]
            while isinstance(rule, tuple):
                forced += rule
                rule = next(self._rules)
            self._choice = rule
        except StopIteration:
            pass
        self.forced = tuple(forced)
        self.done = not forced and self._choice is None


class Grammar:
    """The rules of one task's answers. Cheap to make: word lists are shared by the tokenizer.

    ``span`` are the first and last time token where the question gives them: both for SVG, only
    the first counts for ELC. The answer is "Nothing matches." where its probability is
    ``no_match_threshold`` or more.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        config: ModelConfig,
        *,
        span: tuple[int, int] | None = None,
        no_match_threshold: float = EVEN_ODDS,
    ) -> None:
        self._task, self._tokenizer, self._config, self._span = task, tokenizer, config, span
        self._no_match_threshold = no_match_threshold
        self._times_offset = config.coordinates.offset(Axis.TIME)
        self._ends = frozenset((*config.end_token_ids, tokenizer.chat_end))
        self._words = Words.of(tokenizer)
        self._literals: dict[str, tuple[int, ...]] = {}  # a tube says the same ones at every time

    @classmethod
    def for_question(
        cls,
        question: Question,
        tokenizer: Tokenizer,
        config: ModelConfig,
        no_match_threshold: float = EVEN_ODDS,
    ) -> Grammar:
        """With the times that the question gives."""
        last = config.num_frames - 1
        times = [round(value * last) for value in question.temporal_inputs]
        span = (times[0], times[-1]) if times else None
        return cls(
            question.task, tokenizer, config, span=span, no_match_threshold=no_match_threshold
        )

    def begin(self) -> Walk:
        """A new answer."""
        rules = {
            Task.STVG: self._stvg,
            Task.SVG: self._svg,
            Task.ELC: self._elc,
            Task.TVG: self._tvg,
            Task.TR: self._free,
            Task.REC: self._rec,
            Task.REG: self._free,
            Task.DGC: self._dgc,
            Task.DVC: self._dvc,
        }[self._task]
        return Walk(rules(), self._ends)

    def after(self, ids: Sequence[int]) -> Walk:
        """The walk that has taken ``ids``. ValueError where the grammar does not allow them."""
        walk = self.begin()
        walk.advance(ids)
        return walk

    def _stvg(self) -> Rules:
        if (yield from self._nothing_or(STVG_OPENER)):
            return
        first, last = yield from self._times()
        yield from self._tube("}. " + TUBE_OPENER, range(first, last + 1))

    def _svg(self) -> Rules:
        if (yield from self._nothing_or(TUBE_OPENER)):
            return
        if self._span is not None:
            yield from self._tube("", range(self._span[0], self._span[1] + 1))
            return
        time = yield from self._time()
        more, end = self._literal("], "), self._literal("]")
        shared = 0
        while shared < len(end) and more[shared] == end[shared]:
            shared += 1
        # The token that tells another box from the end: the rest of "]" or an end token.
        closers = end[shared : shared + 1] or tuple(self._ends)
        choice = self._words.none.plus(more[shared], *closers)
        while True:
            yield self._literal(": [")
            yield from self._corners()
            if time == self._config.num_frames - 1:
                yield end
                return
            yield more[:shared]
            token = yield choice
            if token != more[shared]:
                yield end[shared + 1 :]
                return
            time += 1
            yield (*more[shared + 1 :], self._times_offset + time)

    def _elc(self) -> Rules:
        yield self._literal(ELC_OPENER)
        start = None if self._span is None else self._span[0]
        end = yield from self._time(start or 0)
        yield self._literal(",")
        box_list = self._literal(" " + TUBE_OPENER)
        token = yield from self._sentence(self._words.plain.plus(box_list[0]), box_list[0])
        yield box_list if token is None else box_list[1:]
        if start is None:
            start = yield from self._time(0, end)
            yield from self._tube(None, range(start, end + 1))
        else:
            yield from self._tube("", range(start, end + 1))

    def _tvg(self) -> Rules:
        if (yield from self._nothing_or(TVG_OPENER)):
            return
        yield from self._times()
        yield self._literal("}")

    def _rec(self) -> Rules:
        if (yield from self._nothing_or(REC_OPENER)):
            return
        yield from self._corners()
        yield self._literal("]")

    def _nothing_or(self, opener: str) -> Generator[tuple | Choice, int, bool]:
        """That nothing matches, or the answer's opening words; True for the former."""
        nothing, opening = self._literal(NO_MATCH_TEXT), self._literal(opener)
        token = yield NoMatchChoice(nothing[0], opening[0], self._no_match_threshold)
        chosen = nothing if token == nothing[0] else opening
        yield chosen[1:]
        return chosen is nothing

    def _free(self) -> Rules:
        """Words up to an end token."""
        words = self._words
        ending, said = words.any.plus(*self._ends), False
        for place in range(MAX_TEXT_TOKENS):
            if said:
                token = yield ending
            else:
                token = yield words.any if place < MAX_SILENT_TOKENS else words.saying
            said = said or words.says_something(token)

    def _dgc(self) -> Rules:
        """Phrases, each with its box, then perhaps some last words."""
        words = self._words
        for number in range(MAX_PARTS):
            ends = self._ends if number else ()
            silent, speaking = words.plain.plus(*ends), words.plain_or_opening.plus(*ends)
            said = False
            for place in range(MAX_SENTENCE_TOKENS):
                if number and place == 0:
                    token = yield words.closing
                elif not said:
                    token = yield silent if place < MAX_SILENT_TOKENS else words.saying
                else:
                    token = yield speaking
                    if token in words.opening:
                        break
                said = said or words.says_something(token)
            else:
                yield self._literal(" [")
            yield from self._corners()
        yield self._literal("]")

    def _dvc(self) -> Rules:
        yield self._literal("{")
        another = self._literal(" {")
        choice = self._words.plain.plus(another[0], *self._ends)
        for number in range(MAX_PARTS):
            yield from self._times()
            yield self._literal("},")
            token = yield from self._sentence(choice, another[0])
            if number == MAX_PARTS - 1:
                return
            if token is None:
                yield self._words.none.plus(another[0], *self._ends)
            yield another[1:]

    def _sentence(self, after: IdSet, next_part: int) -> Generator[tuple | Choice, int, int | None]:
        """Words that end with a full stop. Behind it, ``after`` may come.

        Returns ``next_part`` when that was chosen, None when the sentence grew too long and was
        closed. An end token among ``after`` ends the walk and does not come back here.
        """
        words = self._words
        token = yield words.spaced
        said = words.says_something(token)
        stopped = said and words.ends_sentence(token)
        for place in range(1, MAX_SENTENCE_TOKENS):
            if stopped:
                token = yield after
                if token == next_part:
                    return token
            elif said or place < MAX_SILENT_TOKENS:
                token = yield words.plain
            else:
                token = yield words.saying
            said = said or words.says_something(token)
            stopped = said and words.ends_sentence(token)
        if not stopped:
            yield self._literal(".")
        return None

    def _times(self) -> Generator[Choice, int, tuple[int, int]]:
        first = yield from self._time()
        last = yield from self._time(first)
        return first, last

    def _time(self, first: int = 0, last: int | None = None) -> Generator[Choice, int, int]:
        offset = self._times_offset
        stop = self._config.num_frames if last is None else last + 1
        token = yield Coordinates(offset + first, offset + stop)
        return token - offset

    def _tube(self, lead: str | None, times: Iterable[int]) -> Rules:
        """A box for each time; with ``lead`` None the first time has been said already."""
        for number, time in enumerate(times):
            if number or lead is not None:
                yield self._literal("], " if number else lead or "")
                yield (self._times_offset + time,)
            yield self._literal(": [")
            yield from self._corners()
        yield self._literal("]")

    def _corners(self) -> Rules:
        """x1, y1, then x2 and y2 not before them."""
        heights, widths = (self._config.coordinates.ids(axis) for axis in (Axis.HEIGHT, Axis.WIDTH))
        x1 = yield Coordinates(widths.start, widths.stop)
        y1 = yield Coordinates(heights.start, heights.stop)
        yield Coordinates(x1, widths.stop)
        yield Coordinates(y1, heights.stop)

    def _literal(self, text: str) -> tuple[int, ...]:
        if text not in self._literals:
            self._literals[text] = tuple(self._tokenizer.encode_user(text))
        return self._literals[text]


class Unconstrained:
    """Any token at any time, until an end token."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self._everything = IdRange(0, config.vocabulary)
        self._ends = frozenset((*config.end_token_ids, tokenizer.chat_end))

    def begin(self) -> Walk:
        return Walk(self._rules(), self._ends)

    def _rules(self) -> Rules:
        while True:
            yield self._everything
