"""Training of a tiny model, from a YAML and rendered clips to a checkpoint.

The work folder keeps the weights of every finished stage and the state of the current one
(run_state), so an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig, VisionConfig
from llava_st_ros.errors import CheckpointError, ConfigError, DataError
from llava_st_ros.files.checksums import UNSEALED, seal
from llava_st_ros.files.schema import build
from llava_st_ros.files.tensor_file import read_tensors
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Box, Task
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.simulation.questions import all_texts
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES
from llava_st_ros.text.answer_format import FIXED_WORDS
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import make_question, num_templates
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer
from llava_st_ros.training.loop import loop, run_state
from llava_st_ros.training.loop.batches import Batch, Shard, default_workers
from llava_st_ros.training.loop.time_budget import TimeBudget
from llava_st_ros.training.objective import propagate_to_neighbors, stop_propagation
from llava_st_ros.training.tiny.conversations import ConversationEncoder, Lanes
from llava_st_ros.training.tiny.dense_alignment import (
    DenseBatches,
    DenseHeads,
    DenseStep,
    ObjectVocabulary,
)
from llava_st_ros.training.tiny.event_alignment import EventHeads
from llava_st_ros.training.tiny.event_stage import EventBatches, EventStep
from llava_st_ros.training.tiny.initialize import initialize
from llava_st_ros.training.tiny.matmul_precision import fast_matmul
from llava_st_ros.training.tiny.packer_alignment import PackerBatches, PackerHeads, PackerStep
from llava_st_ros.training.tiny.provenance import claim_work_folder, clips_provenance
from llava_st_ros.training.tiny.settings import VIDEOS_FOLDER, read_settings
from llava_st_ros.training.tiny.stages import (
    ConversationBatches,
    ConversationStage,
    ConversationStep,
    VisualData,
    check_batch,
    count_parameters,
)
from llava_st_ros.training.tiny.variants import PAPER, Variant
from llava_st_ros.training.tiny.vision_features import (
    compute_features,
    features_file,
    open_features,
)

OBJECT_VOCABULARY = ObjectVocabulary(tuple(COLORS), tuple(SHAPES), tuple(SIZES))


@dataclass(frozen=True)
class _AlignmentStage:
    """The settings of a stage that aligns visual tokens.

    Attributes:
        kind: Its kind in the YAML.
        batch: Examples in a batch, over all processes.
        clips: Use only the first clips of the store; None: all.
    """

    kind: ClassVar[str]

    batch: int
    clips: int | None = None

    def __post_init__(self) -> None:
        check_batch(self.batch, self.clips)


@dataclass(frozen=True)
class DenseStage(_AlignmentStage):
    """The settings of dense alignment; its examples are frames.

    Attributes:
        words: Whether word embeddings and coordinate tables are trained too. Without them, a tower
            is adapted to other footage and the decoder still knows its tokens.
    """

    kind: ClassVar[str] = "dense_alignment"

    words: bool = True


class PackerStage(_AlignmentStage):
    """The settings of packer alignment; its examples are clips."""

    kind: ClassVar[str] = "packer_alignment"


@dataclass(frozen=True)
class EventStage(_AlignmentStage):
    """The settings of event alignment without questions; its examples are clips and windows.

    Attributes:
        window_share: The probability that an example is a window of a video.
    """

    kind: ClassVar[str] = "event_alignment"

    window_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.window_share <= 1:
            raise ConfigError(f"window_share is {self.window_share}; expected a value in [0, 1]")


Stage = DenseStage | PackerStage | EventStage | ConversationStage
STAGE_KINDS: Mapping[str, type[Stage]] = {
    stage.kind: stage for stage in (DenseStage, PackerStage, EventStage, ConversationStage)
}
PreparedStage = tuple[nn.Module, Callable[[int], Batch]]  # the step, and make_batch


def train(
    config_path: Path,
    data: Path,
    work: Path,
    out: Path | None,
    workers: int | None = 0,
    variant: Variant = PAPER,
    device: str = "auto",
    budget: TimeBudget | None = None,
    grow: int = 1,
    initial: Path | None = None,
) -> None:
    """Train a model.

    Args:
        config_path: The training YAML.
        data: Folder of the clips.
        work: The work folder.
        out: Checkpoint folder to write. None: only the stages' weights are kept, in ``work``, as
            for a variant, which is no checkpoint.
        workers: Processes that make batches (see loop.LoopConfig). They do not affect the result.
            None: as many as keep the device busy (see batches.default_workers).
        variant: Changes the network.
        device: See loop.make_accelerator.
        budget: The time of this call; None: no limit.
        grow: Batches of the recipe in a step, for a GPU (see draws and LoopConfig.grown).
        initial: A checkpoint of the same model to start from; None: from scratch.

    Raises:
        ConfigError: ``initial`` is a checkpoint of another model.
        TrainingInterrupted: A signal, or the budget is used up. A second call resumes.
    """
    budget = budget or TimeBudget()
    settings = read_settings(config_path)
    stages = {name: read_stage(name, values) for name, values in settings["stages"].items()}
    work.mkdir(parents=True, exist_ok=True)
    accelerator = loop.make_accelerator(device)
    if workers is None:
        workers = default_workers(accelerator.device)
    store = ClipStore(data)
    videos = open_videos(data / VIDEOS_FOLDER, settings["data"])
    tokenizer = learn_tokenizer(settings["model"])
    provenance = {
        "seed": settings["seed"],
        "model": settings["model"],
        "tokenizer": tokenizer.digest,
        **clips_provenance("clips", store),
        **clips_provenance("videos", videos),
    }
    config = model_config(settings["model"], tokenizer)
    weights = None if initial is None else load_initial(initial, config, tokenizer)
    provenance["initial"] = None if weights is None else weights_digest(weights)
    claim_work_folder(work, provenance, accelerator)
    torch.manual_seed(settings["seed"])
    model = variant.model(config)
    if weights is None:
        initialize(model, settings["seed"])
    else:
        model.load_state_dict(weights)
    model.to(accelerator.device)
    size, processes = count_parameters(model) / 1e6, accelerator.num_processes
    accelerator.print(
        f"{size:.2f}M parameters, {len(store)} clips, {processes} x {accelerator.device.type}"
    )

    trainer = _StageTrainer(
        model, store, videos, tokenizer, work, accelerator, variant, budget, grow
    )
    finished = trainer.finished(list(stages))
    for number, (name, (loop_config, stage)) in enumerate(stages.items()):
        if name in finished[:-1]:
            continue  # the weights of a later stage contain its result
        seed = settings["seed"] + number
        loop_config = dataclasses.replace(loop_config, seed=seed, workers=workers)
        trainer.run(name, stage, loop_config.grown(grow))
    if accelerator.is_main_process and out is not None:
        save_checkpoint(out, model.cpu(), config, tokenizer, "float16")
    accelerator.wait_for_everyone()


def open_videos(folder: Path, data: Mapping[str, Any]) -> ClipStore | None:
    """Open the videos of a training YAML's section ``data``; None if it has none.

    Raises:
        DataError: The folder has too few videos, or others.
    """
    if not data["videos"]:
        return None
    store = ClipStore(folder)
    frames = len(store.frames(0))
    if len(store) < data["videos"] or frames != data["video_frames"]:
        raise DataError(
            f"{folder} has {len(store)} videos of {frames} frames; the training YAML asks for "
            f"{data['videos']} of {data['video_frames']}",
            "run llava-st train simulate with this YAML, into another folder if the frames differ",
        )
    return store


def load_initial(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Load the weights of a checkpoint to start from; its calibration is not used.

    Raises:
        CheckpointError: The checkpoint is unreadable.
        ConfigError: It is of another geometry or has another tokenizer.
    """
    checkpoint = load_checkpoint(folder)
    names = [f.name for f in dataclasses.fields(config) if f.name != "calibration"]
    other = [n for n in names if getattr(checkpoint.config, n) != getattr(config, n)]
    if checkpoint.tokenizer is None or checkpoint.tokenizer.digest != tokenizer.digest:
        other.append("tokenizer")
    if other:
        raise ConfigError(
            f"{folder} is a checkpoint of another model ({', '.join(other)})",
            "choose one that was trained with the same section model",
        )
    return checkpoint.model.state_dict()


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_stage(name: str, values: Mapping[str, Any]) -> tuple[loop.LoopConfig, Stage]:
    """Read a stage of the YAML: the fields of LoopConfig and those of its kind.

    Raises:
        ConfigError: The kind is missing or unknown, or a setting is.
    """
    settings = dict(values)
    if "kind" not in settings:
        raise ConfigError(f"stage {name} has no kind; expected one of {', '.join(STAGE_KINDS)}")
    kind = settings.pop("kind")
    if not isinstance(kind, str) or kind not in STAGE_KINDS:
        raise ConfigError(
            f"stage {name}: kind is {kind!r}; expected one of {', '.join(STAGE_KINDS)}"
        )
    of_loop = {key for key in settings if key in loop.LoopConfig.__dataclass_fields__}
    of_loop_values = {key: settings.pop(key) for key in of_loop}
    where = f"stage {name}"
    try:
        loop_config = build(loop.LoopConfig, of_loop_values, where, ConfigError)
        return loop_config, build(STAGE_KINDS[kind], settings, where, ConfigError)
    except ConfigError as error:
        if error.problem.startswith(where):
            raise
        raise ConfigError(f"{where}: {error.problem}", error.remedy) from error


def compile_parts(model: LlavaST) -> None:
    """Compile the parts that take most of the time (torch.compile needs a C++ compiler).

    Each of the two shapes, clips and single frames, is compiled separately. Code for dynamic shapes
    is slower, and torch 2.13 computes wrong strides for attention's gradient in it.

    Code for the batches of earlier stages is discarded: torch keeps at most eight versions of a
    function, and would run later stages without compiling them.
    """
    torch.compiler.reset()
    for part in ("vision_tower", "vision_resampler", ""):
        model.model.get_submodule(part).compile(dynamic=False)


def question_texts() -> Iterator[str]:
    """Yield every template of every task with a phrase, to train the tokenizer on."""
    box = Box(0.1, 0.1, 0.5, 0.5)
    for task in Task:
        for template in range(num_templates(task)):
            yield make_question(
                task, "the red ball", span=(0.0, 0.5), box=box, template=template
            ).text


def learn_tokenizer(model: Mapping[str, Any]) -> Tokenizer:
    """Train a byte-level BPE tokenizer on the simulator's words and the tasks' templates."""
    texts = [*all_texts(), *question_texts()]
    texts += [*FIXED_WORDS] * 50
    texts += ["system\nYou are a helpful assistant.\nuser\nassistant\n"] * 50
    return train_tokenizer(
        texts, model["text_vocabulary"], model["num_temporal_tokens"], model["num_spatial_tokens"]
    )


def model_config(model: Mapping[str, Any], tokenizer: Tokenizer) -> ModelConfig:
    """Return the geometry in a training YAML's section ``model``, with a tokenizer's vocabulary."""
    return ModelConfig(
        image_size=model["image_size"],
        patch_size=model["patch_size"],
        vision=VisionConfig(**model["vision"]),
        language=LanguageConfig(vocab_size=tokenizer.vocab_size, **model["language"]),
        packer=PackerConfig(**model["packer"]),
        special_tokens=tokenizer.special,
        num_temporal_tokens=model["num_temporal_tokens"],
        num_spatial_tokens=model["num_spatial_tokens"],
        num_frames=model["num_frames"],
        compat=model["compat"],
        end_token_ids=tuple(tokenizer.encode("<|im_end|>")),
    )


class _StageTrainer:
    """Trains a model stage by stage."""

    def __init__(
        self,
        model: LlavaST,
        store: ClipStore,
        videos: ClipStore | None,
        tokenizer: Tokenizer,
        work: Path,
        accelerator: Accelerator,
        variant: Variant,
        budget: TimeBudget,
        grow: int,
    ) -> None:
        self.budget, self.grow = budget, grow
        self.model, self.store, self.videos = model, store, videos
        self.tokenizer, self.work = tokenizer, work
        self.accelerator, self.variant = accelerator, variant
        self.shard = Shard(accelerator.process_index, accelerator.num_processes)
        self._event_heads: Path | None = None  # of the last stage that trained them

    def finished(self, names: list[str]) -> list[str]:
        """Return the stages up to the last one whose weights are stored.

        The event heads of the last of them that trained some are used from here on.
        """
        stored = [i for i, name in enumerate(names) if self._weights_file(name).exists()]
        done = names[: max(stored, default=-1) + 1]
        for name in done:
            if self._event_heads_file(name).exists():
                self._event_heads = self._event_heads_file(name)
        return done

    def run(self, name: str, stage: Stage, config: loop.LoopConfig) -> None:
        """Train a stage, or load its weights if it is finished."""
        weights = self._weights_file(name)
        if weights.exists():
            self.accelerator.print(f"{name}: done before, read from {weights}")
            again = "delete it to train the stage again"
            state = read_tensors(weights, CheckpointError, again, framework="pt")
            self._load_state(self.model, state, weights)
        else:
            self.budget.check(f"stage {name} is not trained yet")
            self._train(name, stage, config, weights)
        self.accelerator.wait_for_everyone()
        if self._event_heads_file(name).exists():
            self._event_heads = self._event_heads_file(name)

    def _train(self, name: str, stage: Stage, config: loop.LoopConfig, weights: Path) -> None:
        # New heads are equal whether the stages before were trained in this run or an earlier one.
        torch.manual_seed(config.seed)
        propagate_to_neighbors(self.model)
        compile_parts(self.model)
        settings = {
            "kind": stage.kind,
            **dataclasses.asdict(stage),
            "clips": stage.clips or len(self.store),
        }
        if self.grow > 1:
            settings["grow"] = self.grow
        with fast_matmul(self.accelerator.device):
            step, make_batch = self.variant.adapt(*self._prepare(name, stage, config.seed))
            loop.run(
                name, step, make_batch, config, self.work, self.accelerator, settings, self.budget
            )
        stop_propagation(self.model)
        if self.accelerator.is_main_process:
            self._save_event_heads(name, step)
            _save_sealed(self.model, weights)
            run_state.discard(self.work, name)

    def _prepare(self, name: str, stage: Stage, seed: int) -> PreparedStage:
        """Return the step that the stage trains, and its batches."""
        if stage.batch * self.grow < self.shard.world_size:
            raise ConfigError(
                f"stage {name}: a batch of {stage.batch * self.grow} is too small for "
                f"{self.shard.world_size} processes",
                "launch fewer processes or enlarge the batch",
            )
        store = self.store if stage.clips is None else self.store.first(stage.clips)
        if isinstance(stage, DenseStage):
            return self._prepare_dense(store, stage, seed)
        if isinstance(stage, PackerStage):
            return self._prepare_packers(store, stage, seed)
        if isinstance(stage, EventStage):
            return self._prepare_events(store, stage, seed)
        return self._prepare_conversations(store, stage, seed)

    def _prepare_dense(self, store: ClipStore, stage: DenseStage, seed: int) -> PreparedStage:
        config = self.model.config
        heads = DenseHeads(config, OBJECT_VOCABULARY, self.tokenizer.encode)
        batches = DenseBatches(
            store, config, OBJECT_VOCABULARY, stage.batch, seed, self.shard, self.grow
        )
        return DenseStep(self.model, heads, words=stage.words), batches

    def _prepare_packers(self, store: ClipStore, stage: PackerStage, seed: int) -> PreparedStage:
        config = self.model.config
        heads = PackerHeads(config, self.tokenizer.encode)
        batches = PackerBatches(
            store,
            self._features(self.store, "vision_features"),
            config,
            stage.batch,
            seed,
            self.shard,
            self.grow,
        )
        return PackerStep(self.model, heads), batches

    def _prepare_events(self, store: ClipStore, stage: EventStage, seed: int) -> PreparedStage:
        config = self.model.config
        if config.compat == "released":
            raise ConfigError(
                "event alignment reads the fast tokens, which prompts of compat released lack",
                "remove the stage, or set compat: paper",
            )
        clips = VisualData(store, self._features(self.store, "vision_features"))
        videos = self._videos_for(stage.window_share)
        batches = EventBatches(
            clips, videos, config, stage.window_share, stage.batch, seed, self.shard, self.grow
        )
        builder = PromptBuilder(self.tokenizer, config)
        return EventStep(self.model, self._heads_so_far(), builder), batches

    def _prepare_conversations(
        self, store: ClipStore, stage: ConversationStage, seed: int
    ) -> PreparedStage:
        config = self.model.config
        builder = PromptBuilder(self.tokenizer, config)
        encoder = ConversationEncoder(builder, config, Lanes(stage.lanes, stage.lane_tokens))
        clips = VisualData(store, self._features(self.store, "vision_features"))
        videos = self._videos_for(stage.window_share)
        batches = ConversationBatches(clips, videos, encoder, stage, seed, self.shard, self.grow)
        return ConversationStep(self.model, self._heads_so_far(), stage), batches

    def _videos_for(self, window_share: float) -> VisualData | None:
        """Return the videos that a stage takes windows from, None if it takes none."""
        if not window_share:
            return None
        if self.videos is None:
            raise ConfigError(
                "a stage has a window_share, but the training YAML has no videos",
                "set data: videos, then run llava-st train simulate",
            )
        return VisualData(self.videos, self._features(self.videos, "video_features"))

    def _heads_so_far(self) -> EventHeads:
        """Return the event heads as the last stage that trained them left them, or new ones."""
        heads = EventHeads(self.model.config)
        if self._event_heads is not None:
            state = read_tensors(self._event_heads, CheckpointError, framework="pt")
            self._load_state(heads, state, self._event_heads)
        return heads

    def _save_event_heads(self, name: str, step: nn.Module) -> None:
        """Save the event heads for the next stage.

        New heads would pass no gradient to the decoder at first, while its learning rate is high.
        """
        if isinstance(step, EventStep) or (
            isinstance(step, ConversationStep) and step.stage.event_weight > 0
        ):
            _save_sealed(step.heads, self._event_heads_file(name))

    @staticmethod
    def _load_state(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
        expected = {name: value.shape for name, value in module.state_dict().items()}
        if {name: value.shape for name, value in state.items()} != expected:
            raise CheckpointError(
                f"{path} has the tensors of another model", "use another work folder"
            )
        module.load_state_dict(state)

    def _weights_file(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    def _event_heads_file(self, name: str) -> Path:
        return self.work / f"{name}.heads.safetensors"

    def _features(self, store: ClipStore, name: str) -> np.ndarray:
        """The vision features of clips or videos, float16 [clips, F, N, Dv].

        The main process computes them once: the vision tower is frozen after dense alignment.
        """
        path = features_file(self.work, name, self.model, store)
        if not path.exists() and self.accelerator.is_main_process:
            # One of several processes may not leave the others waiting.
            budget = self.budget if self.accelerator.num_processes == 1 else None
            compute_features(self.model, store, path, budget)
        self.accelerator.wait_for_everyone()
        return open_features(path)


def _save_sealed(module: nn.Module, path: Path) -> None:
    """Write a module's state with its checksum."""
    with atomic_file(path) as part:
        save_file(dict(module.state_dict()), part, metadata=UNSEALED)
        seal(part)
