"""Variants: what each lacks, that each trains, and the comparison end to end."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llava_st_ros.cli.__main__ import main
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import ConfigError
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Modality
from llava_st_ros.simulation.clip_store import render_shards
from llava_st_ros.training.loop.losses import weighted_sum
from llava_st_ros.training.objective import coordinate_tables
from llava_st_ros.training.tiny import ablations
from llava_st_ros.training.tiny.ablations import AblationResult, as_records, read_ablation_config
from llava_st_ros.training.tiny.conversations import Lanes, collate
from llava_st_ros.training.tiny.dense_alignment import DenseHeads, DenseStep
from llava_st_ros.training.tiny.event_alignment import NUM_LABELS, EventHeads
from llava_st_ros.training.tiny.pipeline import OBJECT_VOCABULARY
from llava_st_ros.training.tiny.stages import (
    ConversationBatch,
    ConversationStage,
    ConversationStep,
    embed,
)
from llava_st_ros.training.tiny.variants import VARIANTS, Variant, WithoutLape
from support.paths import ROOT
from support.tiny_conversations import Tiny, video_samples
from support.tiny_model import tiny_model, tiny_video_prompt
from support.tiny_run import FRAMES, SETTINGS, SIZE

pytestmark = pytest.mark.slow

TINY = Tiny()


def network(variant: Variant, seed: int = 0) -> LlavaST:
    """A variant with random weights of visible size; parameters they share are equal."""
    config = dataclasses.replace(TINY.config, compat=variant.compat)
    model = variant.model(config).eval()
    model.load_state_dict(tiny_model(config, seed).state_dict(), strict=False)
    return model


def clip_batch() -> ConversationBatch:
    config = TINY.config
    conversations = collate([TINY.encode(video_samples()[:2])])
    labels = torch.zeros(1, config.num_fast_tokens, NUM_LABELS, dtype=torch.int8)
    labels[:, ::3] = 1
    return ConversationBatch(conversations, TINY.features, labels, ("here",))


def features() -> torch.Tensor:
    torch.manual_seed(5)
    config = TINY.config
    return torch.randn(
        config.num_frames, config.tokens_per_frame, config.language.hidden_size, requires_grad=True
    )


def test_every_variant_can_be_trained() -> None:
    stage = ConversationStage(1, 1.0, 1, 10, {"STVG": 1.0}, event_weight=1.0, attention_weight=1.0)
    for name, variant in VARIANTS.items():
        model = network(variant)
        step: torch.nn.Module = ConversationStep(model, EventHeads(model.config), stage)
        step, batches = variant.adapt(step, lambda _: clip_batch())
        before = {n: p.detach().clone() for n, p in step.named_parameters() if p.requires_grad}
        terms = step(batches(0))
        loss = weighted_sum(terms, [term.denominator for term in terms.values()])
        loss.backward()
        torch.optim.SGD(step.parameters(), lr=0.1).step()
        moved = {n for n, p in step.named_parameters() if n in before and (p != before[n]).any()}
        assert any("layers.0" in n for n in moved), name
        assert ("event_loss" in terms) == (variant.unused_stream != "fast"), name
        own = {n for n in moved if "visual_positions" in n}
        assert len(own) == (len(Axis) if variant.model is WithoutLape else 0), name


@torch.no_grad()
def test_visual_tokens_without_lape_do_not_depend_on_the_coordinate_tables() -> None:
    for variant, depends in ((VARIANTS["paper"], True), (VARIANTS["without_lape"], False)):
        model, seen = network(variant), features()
        before = [*model.pack(seen, range(len(seen))), model.image_tokens(seen)]
        for table in coordinate_tables(model):
            table.weight.add_(1.0)
        after = [*model.pack(seen, range(len(seen))), model.image_tokens(seen)]
        assert [not torch.equal(a, b) for a, b in zip(before, after)] == [depends] * 3


@torch.no_grad()
def test_visual_positions_without_lape_come_from_their_own_tables() -> None:
    model = network(VARIANTS["without_lape"])
    assert isinstance(model, WithoutLape)
    seen = features()
    before = model.image_tokens(seen)
    model.visual_positions["spatial_width"].weight.add_(torch.randn(12, 32))
    assert not torch.equal(model.image_tokens(seen), before)
    rows = model.positional_embedding([3, 0])
    own = model.visual_positions["temporal"].weight
    torch.testing.assert_close(rows[0] - rows[1], (own[3] - own[0]).expand(81, -1))
    # Coordinate tokens are unchanged.
    plain = network(VARIANTS["paper"])
    ids = torch.arange(model.config.vocabulary)
    assert torch.equal(model.embed_tokens(ids), plain.embed_tokens(ids))


def test_dense_alignment_trains_the_separate_positions() -> None:
    for name in ("paper", "without_lape"):
        model = network(VARIANTS[name])
        heads = DenseHeads(model.config, OBJECT_VOCABULARY, TINY.tokenizer.encode)
        step, _ = VARIANTS[name].adapt(DenseStep(model, heads), lambda _: None)
        trained = [n for n, p in step.named_parameters() if p.requires_grad]
        assert len([n for n in trained if "visual_positions" in n]) == 3 * (name != "paper")
        assert len([n for n in trained if "put_embeddings" in n]) == 6


@pytest.mark.parametrize(
    ("name", "fast", "slow"),
    [
        ("paper", True, True),
        ("released", False, True),
        ("without_fast", False, True),
        ("without_slow", True, False),
    ],
)
def test_only_the_streams_of_a_variant_reach_the_prompt(name: str, fast: bool, slow: bool) -> None:
    """Checked by the gradient of each block of an embedded prompt to the clip's features."""
    model, seen = network(VARIANTS[name]), features()
    prompt = tiny_video_prompt(model.config)
    visual = model.pack(seen, range(len(seen)))
    embedded = model.embed_prompt(prompt.token_ids, visual, prompt.inputs)
    assert len(embedded) == len(prompt.token_ids)
    split = 3 + model.config.num_fast_tokens
    blocks = (embedded[3:split], embedded[split : split + model.config.num_slow_tokens])
    for block, reaches in zip(blocks, (fast, slow)):
        gradient = torch.autograd.grad(block.sum(), seen, retain_graph=True, allow_unused=True)[0]
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reaches
    without = model.embed_tokens(torch.from_numpy(prompt.token_ids))[3:split]
    assert torch.equal(blocks[0], without) == (not fast)  # the placeholders' own embeddings


@torch.no_grad()
@pytest.mark.parametrize("name", list(VARIANTS))
def test_training_batches_embed_like_embed_prompt(name: str) -> None:
    """With coordinate inputs in the prompt."""
    model = network(VARIANTS[name])
    conversation = TINY.encode(video_samples()[1:2], lanes=Lanes(1, 10))
    batch = collate([conversation])
    turn = conversation.turns[0]
    assert turn.inputs[Axis.WIDTH] and turn.inputs[Axis.TIME]
    ours = embed(model, batch, TINY.features, Modality.VIDEO)[0]
    visual = model.pack(model.project(TINY.features[0]), range(TINY.config.num_frames))
    torch.testing.assert_close(ours, model.embed_prompt(batch.ids[0], visual, turn.inputs))


def test_an_unwritten_stream_is_not_in_the_graph() -> None:
    """Its packer gets no gradient, not a zero one, which would be subject to weight decay."""
    for name, is_trained in (("paper", True), ("released", False)):
        model = network(VARIANTS[name])
        batch = collate([TINY.encode(video_samples()[:1])])
        embed(model, batch, TINY.features, Modality.VIDEO).sum().backward()
        packer = model.model.vision_resampler.token_packer_fast
        assert all((p.grad is not None) == is_trained for p in packer.parameters())


def test_auxiliary_losses_do_not_refer_to_an_unused_stream() -> None:
    config, original = TINY.config, clip_batch()
    fast = config.num_fast_tokens
    for name, variant in VARIANTS.items():
        _, batches = variant.adapt(torch.nn.Identity(), lambda _: clip_batch())
        batch = batches(0)
        targets = batch.conversations.attention_targets
        expected = original.conversations.attention_targets.clone()
        if variant.unused_stream == "fast":
            expected[:, :fast] = False
        if variant.unused_stream == "slow":
            expected[:, fast:] = False
        assert torch.equal(targets, expected) and targets.any(-1).all(), name
        assert (batch.labels is None) == (variant.unused_stream == "fast"), name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    list(render_shards(folder, "train", 3, num_frames=FRAMES, size=SIZE, workers=1))
    return folder


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiling takes minutes and does not change results."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def test_ablation_from_rendered_clips_to_the_table(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"seeds": [2, 3], "variants": ["without_slow", "without_lape"], "clips": 1}
    settings = {**SETTINGS, "ablation": plan}
    config = tmp_path / "ablation.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    arguments = ["train", "ablate", "--config", str(config), "--data", str(data)]
    arguments += ["--work", str(tmp_path / "work"), "--json", "--threads", "1", "--seeds", "3"]
    assert main(arguments) == 0
    records = json.loads(capsys.readouterr().out)
    assert {(r["variant"], *r["seeds"]) for r in records} == {
        ("without_slow", "3"),
        ("without_lape", "3"),
    }
    assert [folder.name for folder in (tmp_path / "work").iterdir()] == ["seed-3"]
    # Shared stages are trained once, and their files are linked.
    seed = tmp_path / "work" / "seed-3"
    packers = "packer_alignment.safetensors"
    assert os.path.samefile(seed / "shared" / packers, seed / "without_slow" / packers)
    assert not os.path.samefile(seed / "shared" / packers, seed / "without_lape" / packers)
    steps = [json.loads(x) for x in (seed / "without_lape/log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in steps] == list(SETTINGS["stages"])
    steps = [json.loads(x) for x in (seed / "without_slow/log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in steps] == ["clips"]
    assert main([a for a in arguments if a != "--json"]) == 0  # everything is done: only the table
    assert "without_lape" in capsys.readouterr().out
    assert main([*arguments[:-1], "4"]) == 2
    assert "ablation.yaml has the seeds 2, 3, not 4\n" in capsys.readouterr().err


def test_records_are_means_over_seeds() -> None:
    row = ablations.MetricRow("REC", "Acc@0.5", 0.5, 0.4, 0.6, 10)
    other = dataclasses.replace(row, value=0.7)
    found = as_records([AblationResult("paper", 1, (row,)), AblationResult("paper", 2, (other,))])
    assert found == [
        {
            "task": "REC",
            "metric": "Acc@0.5",
            "variant": "paper",
            "mean": pytest.approx(0.6),
            "seeds": {"1": 0.5, "2": 0.7},
        }
    ]


@pytest.mark.parametrize(
    "section",
    [None, {}, {"seeds": []}, {"seeds": [1], "variants": ["without_all"]}, {"seeds": [1], "n": 3}],
)
def test_invalid_ablation_section_is_rejected(section: Any) -> None:
    with pytest.raises(ConfigError, match="ablation"):
        read_ablation_config({"ablation": section})


def test_committed_ablation_yaml_is_tiny_yaml_with_fewer_steps() -> None:
    from llava_st_ros.training.tiny.pipeline import read_stage
    from llava_st_ros.training.tiny.settings import read_settings

    settings = read_settings(ROOT / "config/training/ablation.yaml")
    assert read_ablation_config(settings).variants == tuple(VARIANTS)
    assert len(read_ablation_config(settings).seeds) == 2
    tiny = read_settings(ROOT / "config/training/tiny.yaml")
    # Windows of streams came after the ablation.
    assert list(settings["stages"]) == [name for name in tiny["stages"] if name != "streaming"]
    for name, values in settings["stages"].items():
        assert "minutes" not in values
        read_stage(name, values)
        # As in docs/training.md: the settings of tiny.yaml, with fewer steps and clips.
        shorter = {**tiny["stages"][name], "steps": values["steps"]}
        assert values == {k: v for k, v in shorter.items() if k != "clips"}
        assert values["steps"] < tiny["stages"][name]["steps"]
    smaller = {"patch_size": 18, "text_vocabulary": 640}
    assert settings["model"] == {**tiny["model"], **smaller}
