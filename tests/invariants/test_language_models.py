"""Language models through the one loop: no whole logits, packed rows, stored labels; one result however they come."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
)

from potstill.data.chat_tokens import Tokenised
from potstill.data.packing import PackedRows, pack
from potstill.divergences import GeneralisedJSD
from potstill.errors import ModelError
from potstill.features import capture_features, features_at
from potstill.labels import Fitted, LabelSource, LabelStore, StoredTeacher
from potstill.labels.hidden import Hidden
from potstill.labels.labelling import label_rows
from potstill.labels.low_rank import LowRank
from potstill.labels.row_encoders import TokensOfRows
from potstill.labels.top_k import TopK
from potstill.losses import Attention, HardLabels, HiddenStates, MixedLoss, Relations, Shapes, SoftTargets
from potstill.progress import Progress, unseen
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant, Linear
from potstill.signals import Batch, Signals, Teacher
from potstill.students import model_shape
from potstill.targets import HiddenTargets
from potstill.tasks.causal_lm import CausalLM, ask_for_hidden_states, head_of, require_known_head
from potstill.teachers import FrozenTeacher
from potstill.training.batches import ShuffledRows
from potstill.training.engine import start_engine
from potstill.training.loop import Job, fit
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess

CPU = torch.device("cpu")
VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}


def tiny(seed: int, *, layers: int = 2, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"num_hidden_layers": layers}, tie_word_embeddings=tied))
    with torch.no_grad():
        # Far from uniform, so that there is something to learn.
        model.model.norm.weight.mul_(8)
    return model


def tokenised(count: int, seed: int) -> list[Tokenised]:
    """Prompts of 2 to 5 tokens, which are not trained, and responses of 3 to 9."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        prompt, response = generator.integers(2, 6), generator.integers(3, 10)
        ids = generator.integers(1, VOCABULARY, prompt + response).astype(np.int32)
        found.append(Tokenised(f"{seed}-{number}", ids, np.arange(len(ids)) >= prompt))
    return found


def rows(count: int = 24, seed: int = 1, *, packing: bool = True) -> PackedRows:
    return pack(tokenised(count, seed), max_length=30, pad_id=0, packing=packing)


def online(seed: int = 9) -> FrozenTeacher:
    return FrozenTeacher(tiny(seed), CPU, ask_for_hidden_states)


def kl(weight: float = 1.0) -> MixedLoss:
    return MixedLoss([SoftTargets(weight=Constant(value=weight), temperature=Constant(value=1.0)).build()])


def job(*, steps: int = 18, teacher: Teacher | None = None, seed: int = 0, **settings: Any) -> Job:
    soft = SoftTargets(weight=Constant(value=0.7), temperature=Linear(start=2.0, end=1.0))
    asked = {"batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 5, "epochs": 1}
    optimiser = OptimiserSettings(**(asked | settings))
    return Job(
        name="train/student",
        model=tiny(seed),
        batches=ShuffledRows(rows(), optimiser, 3),
        validation=rows(7, 2),
        ask=ask_for_hidden_states,
        loss=MixedLoss([soft.build(), HardLabels(weight=Constant(value=0.3)).build()]),
        teacher=teacher or online(),
        criterion=kl(),
        validation_teacher=online(),
        total_steps=steps,
        seed=3,
        settings=optimiser,
    )


def over(rows: PackedRows, of: Job) -> Job:
    """The same job over other rows."""
    return replace(of, batches=ShuffledRows(rows, of.settings, of.seed))


def steps_of(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == kind]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "generalised_jsd"])
def test_a_student_of_the_teachers_shape_is_driven_to_its_teacher(tmp_path: Path, divergence: str) -> None:
    """On a few rows: the loss of the last step is a small part of the first one's."""
    soft = SoftTargets.model_validate({"weight": 1.0, "temperature": 1.0, "divergence": {"kind": divergence}})
    small = over(rows(4), job(steps=150, learning_rate=2e-2, evaluate_every=150))
    small = replace(small, loss=MixedLoss([soft.build()]))
    fit(small, tmp_path, OneProcess(CPU), Progress())
    taken = [line["loss"] for line in steps_of(tmp_path)]
    assert taken[0] > 0.2 and taken[-1] < 0.03 * taken[0]


def with_features(of: Job, teacher_seed: int = 9) -> Job:
    """The same job with losses on features beside its loss on answers, and a teacher that shows them."""
    teacher = tiny(teacher_seed)
    with torch.no_grad():
        for layer in teacher.model.layers:
            # It looks at some tokens more than at others.
            layer.self_attn.q_proj.weight.mul_(30)
            layer.self_attn.k_proj.weight.mul_(30)
    shapes = Shapes(*(model_shape(each.config, 1, 1, 0) for each in (of.model, teacher)))
    torch.manual_seed(5)
    losses = [*of.loss.losses, *(loss.build(shapes) for loss in (HiddenStates(), Attention(), Relations(heads=2)))]
    loss = MixedLoss(losses)
    return replace(of, loss=loss, teacher=FrozenTeacher(teacher, CPU, ask_for_hidden_states, loss.teacher_reads))


def test_features_beside_answers_drive_a_student_of_the_teachers_shape_to_its_teacher(tmp_path: Path) -> None:
    small = over(rows(4), job(steps=200, learning_rate=2e-2, evaluate_every=200))
    small = with_features(replace(small, loss=kl()))
    fit(small, tmp_path, OneProcess(CPU), Progress())
    taken = steps_of(tmp_path)
    for name in ("loss", "soft_targets", "hidden_states", "attention", "relations"):
        assert taken[-1][name] < 0.1 * taken[0][name], name


@pytest.mark.parametrize("features", [False, True])
def test_no_logits_of_all_positions_are_kept_for_the_backward_pass(features: bool) -> None:
    small = with_features(job()) if features else job()
    batch = small.batches.rows.collate([0, 1, 2])
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.extend(tensor.shape[-1:])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with capture_features(small.model, small.loss.student_reads) as taken:
            said = ask_for_hidden_states(small.model, batch)
        said = replace(said, features=features_at(taken, batch))
        total = small.loss(said, small.teacher(batch), batch, progress=0.5).total
        assert total.requires_grad and kept and VOCABULARY not in kept
        # As they would be seen here.
        assert said.head is not None and said.hidden is not None
        said.head.logits(said.hidden[0]).logsumexp(dim=-1)
        assert VOCABULARY in kept


@pytest.mark.parametrize("features", [False, True])
def test_accumulation_changes_memory_and_nothing_else(tmp_path: Path, features: bool) -> None:
    whole, pieces = job(), job(micro_batch_size=1)
    if features:
        whole, pieces = with_features(whole), with_features(pieces)
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    fit(pieces, tmp_path / "pieces", OneProcess(CPU), Progress())
    for one, other in zip(steps_of(tmp_path / "whole"), steps_of(tmp_path / "pieces"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    torch.testing.assert_close(weights(whole.model), weights(pieces.model), rtol=1e-3, atol=1e-4)


def test_packing_changes_nothing_but_the_padding() -> None:
    """The loss and every gradient of all rows, in float64."""
    student, teacher = tiny(0).double(), tiny(9).double()
    found = []
    for source in (rows(packing=True), rows(packing=False)):
        student.zero_grad()
        batch = source.collate(range(len(source.rows)))
        said = FrozenTeacher(teacher, CPU, ask_for_hidden_states)(batch)
        loss = MixedLoss([SoftTargets().build(), HardLabels().build()])
        total = loss(ask_for_hidden_states(student, batch), said, batch, progress=0.5).total
        total.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in student.parameters() if p.grad is not None])
        found.append((total.item(), gradient, batch.inputs["input_ids"].numel()))
    (packed, packed_gradient, size), (single, single_gradient, single_size) = found
    assert size < single_size
    assert packed == pytest.approx(single, rel=1e-10)
    torch.testing.assert_close(packed_gradient, single_gradient, rtol=1e-9, atol=1e-10)


class StopsAt:
    def __init__(self, calls: int) -> None:
        self.left = calls
        self.teacher = online()

    def __call__(self, batch: Batch) -> Signals:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.teacher(batch)


@pytest.mark.parametrize("calls", [3, 11, 27])
def test_training_broken_anywhere_resumes_to_bitwise_the_same(tmp_path: Path, calls: int) -> None:
    whole = job(micro_batch_size=2)
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        fit(job(micro_batch_size=2, teacher=StopsAt(calls)), tmp_path / "broken", OneProcess(CPU), Progress())
    resumed = job(micro_batch_size=2)
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert [s["loss"] for s in steps_of(tmp_path / "whole")] == [s["loss"] for s in steps_of(tmp_path / "broken")]
    assert torch.equal(weights(whole.model), weights(resumed.model))


def stored(folder: Path, encoding: Any, source: PackedRows, grid: tuple[float, ...] = (1.0, 1.5, 2.0)) -> StoredTeacher:
    """The teacher's labels for the rows of `source`, made from rows that were packed in another way."""
    teacher = tiny(9)
    alone = PackedRows(source.examples, source.unpacked().rows, 0)

    def hidden_of(batch: Batch) -> torch.Tensor:
        target = FrozenTeacher(teacher, CPU, ask_for_hidden_states)(batch).target
        assert isinstance(target, HiddenTargets)
        return target.hidden

    head = head_of(teacher)
    codec = encoding.fit(hidden_of(alone.collate(range(len(alone.rows)))), head, grid)
    encoder = TokensOfRows(Fitted(encoding, codec, VOCABULARY, grid, ()), head)
    folder.mkdir()
    about = LabelSource(teacher="t", tokenizer="k", data="d", labels=(), max_length=30, precision="float32")
    label_rows(folder, alone, hidden_of, encoder, about, batch_size=5, batches_per_shard=2, advance=unseen)
    return StoredTeacher(LabelStore(folder), CPU)


@pytest.mark.parametrize(
    ("encoding", "near"),
    [(Hidden(head=16), 3e-3), (TopK(k=VOCABULARY), 3e-3), (LowRank(head=16, rank=16), 3e-3), (TopK(k=16), 0.3)],
    ids=["hidden", "top_k of all", "low_rank of full rank", "top_k"],
)
def test_training_from_the_store_is_training_from_the_model(tmp_path: Path, encoding: Any, near: float) -> None:
    from_model, from_store = job(), job(teacher=stored(tmp_path / "store", encoding, rows()))
    fit(from_model, tmp_path / "model", OneProcess(CPU), Progress())
    fit(from_store, tmp_path / "labels", OneProcess(CPU), Progress())
    pairs = zip(steps_of(tmp_path / "model"), steps_of(tmp_path / "labels"), strict=True)
    assert all(one["soft_targets"] == pytest.approx(other["soft_targets"], rel=near, abs=near) for one, other in pairs)


def test_a_temperature_that_the_store_does_not_carry_stops_with_its_grid(tmp_path: Path) -> None:
    hot = SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=4.0))
    labels = stored(tmp_path / "store", TopK(k=8), rows())
    with pytest.raises(ValueError, match=r"temperature 4 is outside of the stored grid 1, 1\.5, 2"):
        fit(replace(job(teacher=labels), loss=MixedLoss([hot.build()])), tmp_path / "run", OneProcess(CPU), Progress())


def test_the_best_checkpoint_is_the_one_nearest_to_the_teacher(tmp_path: Path) -> None:
    done = fit(job(), tmp_path, OneProcess(CPU), Progress())
    validations = {line["step"]: line["validation_loss"] for line in steps_of(tmp_path, "validation")}
    assert done.best_step == min(validations, key=lambda step: validations[step])
    source = rows(7, 2)
    batch = source.collate(range(len(source.rows)))
    student, teacher = job(seed=0).model, tiny(9)
    with torch.no_grad():
        p, q = (
            torch.log_softmax(m(**batch.inputs, use_cache=False).logits[batch.mask], -1) for m in (teacher, student)
        )
    before = (p.exp() * (p - q)).sum(-1).mean().item()
    assert 0 < validations[done.best_step] < before


def test_accuracy_is_the_share_of_tokens_that_are_likeliest(tmp_path: Path) -> None:
    """A student that is its teacher, on rows whose responses the teacher would choose itself."""
    model = tiny(9)
    examples = []
    for example in tokenised(6, 4):
        ids = example.ids.copy()
        for place in np.flatnonzero(example.trained):
            with torch.no_grad():
                said = model(input_ids=torch.tensor(ids[None, :place].astype(np.int64)), use_cache=False).logits
            ids[place] = int(said[0, -1].argmax())
        examples.append(Tokenised(example.id, ids, example.trained))
    own = pack(examples, max_length=30, pad_id=0)
    perfect = replace(job(steps=1, seed=9, learning_rate=1e-12), validation=own)
    done = fit(perfect, tmp_path, OneProcess(CPU), Progress())
    assert done.best_validation_accuracy == 1.0
    assert done.best_validation_loss == pytest.approx(0, abs=1e-6)


def test_two_processes_train_as_one_also_where_one_has_no_rows(tmp_path: Path) -> None:
    """From stored labels, with a last step of each epoch that leaves the second process without a row."""
    settings: dict[str, Any] = {"batch_size": 2, "micro_batch_size": 2}
    labels = stored(tmp_path / "store", Hidden(head=16), rows())
    assert len(rows().rows) % 2 == 1
    fit(job(teacher=labels, **settings), tmp_path / "one", OneProcess(CPU), Progress())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "tests.invariants.test_language_models"]
    done = subprocess.run(
        [*command, str(tmp_path / "two"), str(tmp_path / "store"), json.dumps(settings)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, key in (("step", "loss"), ("validation", "validation_loss")):
        for one, other in zip(steps_of(tmp_path / "one", kind), steps_of(tmp_path / "two", kind), strict=True):
            assert one[key] == pytest.approx(other[key], rel=1e-3)


FAMILIES = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama, untied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "gemma2, soft cap": lambda: Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0),
    "cohere, logit scale": lambda: CohereConfig(**SIZES, logit_scale=0.25),
    "granite, logits scaling": lambda: GraniteConfig(**SIZES, logits_scaling=4.0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_each_family_makes_its_logits(family: str) -> None:
    torch.manual_seed(0)
    model = CausalLM().new_model(FAMILIES[family]())
    require_known_head(model, family)
    assert model.training


def test_a_head_that_does_something_else_is_refused() -> None:
    class Shifted(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 1.5
            return out

    model: PreTrainedModel = Shifted(LlamaConfig(**SIZES))
    with pytest.raises(ModelError, match=r"teacher: its logits are not those of its output layer .* 'llama'"):
        require_known_head(model, "teacher")


def test_generalised_jsd_reads_its_settings_from_a_recipe() -> None:
    loss = SoftTargets.model_validate({"divergence": {"kind": "generalised_jsd", "beta": 0.2}})
    assert loss.divergence == GeneralisedJSD(beta=0.2)
    assert SoftTargets.model_validate({"divergence": "reverse_kl"}).divergence.kind == "reverse_kl"


if __name__ == "__main__":
    folder, store, changed = sys.argv[1:]
    with start_engine() as engine:
        teacher = StoredTeacher(LabelStore(Path(store)), CPU)
        fit(job(teacher=teacher, **json.loads(changed)), Path(folder), engine, Progress())
