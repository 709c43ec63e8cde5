"""Batches of ST-Align records, tokenized and with their frames."""

from __future__ import annotations

from dataclasses import dataclass

from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import DataError, FrameError, QueryError
from llava_st_ros.text.prompt import LabeledPrompt, PromptBuilder
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.st_align.bad_records import BadRecordLog
from llava_st_ros.training.st_align.format import Record
from llava_st_ros.training.st_align.frames import SampledFrames, read_frames
from llava_st_ros.training.st_align.sampler import RecordSampler


@dataclass(frozen=True)
class RecordBatch:
    """B records: their conversations, the frames of each, and where each comes from."""

    conversations: tuple[LabeledPrompt, ...]
    frames: tuple[SampledFrames, ...]
    sources: tuple[str, ...]


class RecordBatches:
    """Makes this process's part of any batch of ``size`` records: ``batches(number)``.

    A record whose media cannot be read or whose conversation is too long is logged as bad; the
    next good one of the epoch takes its position. The contents of a batch therefore depend on its
    number and the files alone, not on the number of processes or on earlier batches.

    Args:
        sampler: The order of the records.
        bad_records: Where bad records are reported.
        builder: Tokenizes conversations.
        config: The model's geometry: frames per window, image size, context length.
        size: Records per batch, over all processes.
        max_tokens: The longest conversation that is accepted; the model's context by default.
        shard: Which records of a batch this process makes.
    """

    def __init__(
        self,
        sampler: RecordSampler,
        bad_records: BadRecordLog,
        builder: PromptBuilder,
        config: ModelConfig,
        *,
        size: int,
        max_tokens: int | None = None,
        shard: Shard = FULL_SHARD,
    ) -> None:
        self.sampler, self.bad_records, self.size, self.shard = sampler, bad_records, size, shard
        self._builder, self._config = builder, config
        self._max_tokens = max_tokens or config.language.max_position_embeddings

    def __call__(self, number: int) -> RecordBatch:
        positions = [number * self.size + item for item in self.shard.items(self.size)]
        conversations, frames, sources = zip(*(self._item(position) for position in positions))
        return RecordBatch(conversations, frames, sources)

    def _item(self, position: int) -> tuple[LabeledPrompt, SampledFrames, str]:
        for skip in range(self.sampler.epoch_length):
            record = self.sampler.record_at(position, skip)
            if record.source in self.bad_records:
                continue
            try:
                conversation = self.encode(record)
                frames = read_frames(record, self._config.num_frames, self._config.image_size)
            except (DataError, FrameError, QueryError) as error:
                self.bad_records.add(record.source, error)
                continue
            self.bad_records.note(record.source, frames.notes)
            return conversation, frames, record.source
        raise self.bad_records.as_error("no good record in the epoch")

    def encode(self, record: Record) -> LabeledPrompt:
        """Tokenize a record; every turn sees the turns before it, as in the published training.

        Raises:
            DataError: The conversation has more than ``max_tokens`` tokens.
        """
        turns = [(question, answer.formatted(self._config)) for question, answer in record.turns]
        conversation = self._builder.build_labeled(turns)
        length = len(conversation.labels_mask)
        if length > self._max_tokens:
            raise DataError(
                f"the conversation has {length} tokens; expected at most {self._max_tokens}"
            )
        return conversation
