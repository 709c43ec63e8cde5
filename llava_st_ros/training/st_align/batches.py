"""Batches of ST-Align's records, ready for the model."""

from __future__ import annotations

from dataclasses import dataclass

from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import DataError, FrameError, QueryError
from llava_st_ros.text.prompt import LabeledPrompt, PromptBuilder
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.st_align.bad_records import BadRecords
from llava_st_ros.training.st_align.format import Record
from llava_st_ros.training.st_align.media import Media, read_media
from llava_st_ros.training.st_align.mix import Mix


@dataclass(frozen=True)
class RecordBatch:
    """Records side by side: what is said, what it is about, and where it comes from."""

    conversations: tuple[LabeledPrompt, ...]
    media: tuple[Media, ...]
    sources: tuple[str, ...]


class RecordBatches:
    """``batches(number)``: this process's part of a batch of ``size`` records.

    Where the record of a place turns out bad (its media, or its length), the place takes the next
    good one of the epoch: which records a batch holds depends on its number and the files alone,
    not on the processes or on what was read before.
    """

    def __init__(
        self,
        mix: Mix,
        bad: BadRecords,
        builder: PromptBuilder,
        config: ModelConfig,
        *,
        size: int,
        max_tokens: int | None = None,
        shard: Shard = FULL_SHARD,
    ) -> None:
        self.mix, self.bad, self.size, self.shard = mix, bad, size, shard
        self._builder, self._config = builder, config
        self._max_tokens = max_tokens or config.language.max_position_embeddings

    def __call__(self, number: int) -> RecordBatch:
        places = [number * self.size + item for item in self.shard.items(self.size)]
        conversations, media, sources = zip(*(self._item(place) for place in places))
        return RecordBatch(conversations, media, sources)

    def _item(self, place: int) -> tuple[LabeledPrompt, Media, str]:
        for skip in range(self.mix.epoch_length):
            record = self.mix.at(place, skip)
            if record.source in self.bad:
                continue
            try:
                conversation = self.encode(record)
                media = read_media(record, self._config.num_frames, self._config.image_size)
            except (DataError, FrameError, QueryError) as error:
                self.bad.add(record.source, error)
                continue
            return conversation, media, record.source
        raise self.bad.too_many("a good record in the epoch")

    def encode(self, record: Record) -> LabeledPrompt:
        """Token ids and labels of a record; every turn sees those before it, as published.

        Raises DataError where it is too long.
        """
        turns = [(asked, reply.formatted(self._config)) for asked, reply in record.turns]
        conversation = self._builder.build_labeled(turns)
        length = len(conversation.labels_mask)
        if length > self._max_tokens:
            raise DataError(
                f"{length} tokens; expected at most {self._max_tokens}", "shorten the conversation"
            )
        return conversation
