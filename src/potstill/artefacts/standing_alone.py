"""What makes a shipped folder stand alone: a script that asks the model, what to install for it, and checksums.

The script knows nothing of this package. Its form is that of the model: what reads texts does not read documents.
"""

from pathlib import Path

from potstill.artefacts.checksums import write_checksums
from potstill.artefacts.manifest import Manifest
from potstill.run_dir import write_text

SCRIPT = "predict.py"
REQUIREMENTS = "requirements.txt"

_OPEN = {
    "onnx": """\
slower = ["SkipLayerNormFusion"]  # its kernel for processors
session = onnxruntime.InferenceSession(str(here / "{model_file}"), disabled_optimizers=slower)


def ask(read):
    ids = {{"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": read.type_ids}}
    return session.run(["logits"], {{name: np.array([ids[name]], dtype=np.int64) for name in about["inputs"]}})[0][0]
""",
    "openvino": """\
model = openvino.Core().compile_model(here / "{model_file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})


def ask(read):
    ids = {{"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": read.type_ids}}
    return model({{name: np.array([ids[name]], dtype=np.int64) for name in about["inputs"]}})["logits"][0]
""",
    "executorch": """\
program = Runtime.get().load_program(here / "{model_file}")
forward = program.load_method("forward")


def ask(read):
    ids = {{"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": read.type_ids}}
    return forward.execute([torch.tensor([ids[name]]) for name in about["inputs"]])[0][0].numpy()
""",
}
_OPEN_BOTH = {
    "onnx": """\
slower = ["SkipLayerNormFusion"]  # its kernel for processors


def opened(name):
    session = onnxruntime.InferenceSession(str(here / name), disabled_optimizers=slower)
    names = [each.name for each in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))


""",
    "openvino": """\
core = openvino.Core()


def opened(name):
    model = core.compile_model(here / name, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [each.get_any_name() for each in model.outputs]

    def answer(inputs):
        found = model(inputs)
        return {name: found[name].copy() for name in names}

    return answer


""",
}
_IMPORTS = {
    "onnx": "import onnxruntime",
    "openvino": "import openvino",
    "executorch": "import torch\nfrom executorch.runtime import Runtime",
}
_NEEDS = {
    "executorch": (
        "On a device ExecuTorch with its XNNPACK backend answers from `{model_file}`: `forward({inputs})`, integers of "
        "64 bits, one text of at most {max_length} tokens at a time, gives its logits. In Python ExecuTorch is linked "
        "with PyTorch, whose memory is in the peak above; transformers is not needed."
    )
}
"""Where it is more than the runtime."""
_PACKAGES = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "executorch": ("executorch", "torch")}

_HEAD = '''\
"""Reads lines of JSON, {form}, and writes one for each. Needs: pip install -r requirements.txt"""

import json
import sys
from pathlib import Path

import numpy as np
{imports}
from tokenizers import Tokenizer

here = Path(__file__).parent
about = json.loads((here / "artefact.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(here / "tokenizer.json"))
tokenizer.encode_special_tokens = True  # what stands in a text stays text
tokenizer.no_padding()
tokenizer.enable_truncation(about["max_length"], stride=about["overlap"], direction=about["truncation_side"])
'''

_DECISIONS = {
    "single_label": """\
    logits = ask(read).astype(np.float64) / about["temperature"]
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = int(chances.argmax())
    print(json.dumps({"label": about["labels"][best], "probability": float(chances[best])}))
""",
    "multi_label": """\
    chances = 1 / (1 + np.exp(-ask(read).astype(np.float64) / about["temperature"]))
    named = dict(zip(about["labels"], chances.tolist()))
    print(json.dumps({"labels": [name for name in named if named[name] > 0.5], "probabilities": named}))
""",
    "regression": """\
    print(json.dumps({"value": float(ask(read)[0])}))
""",
}
_TEXTS = """

for line in sys.stdin:
    row = json.loads(line)
    read = tokenizer.encode(row["text"], row.get("text_pair"))
"""
_DOCUMENTS = """
step = about["max_length"] - tokenizer.num_special_tokens_to_add(False) - about["overlap"]

for line in sys.stdin:
    row = json.loads(line)
    first = tokenizer.encode(row["tokens"], is_pretokenized=True)
    windows, tags = [first, *first.overflowing], {}
    for number, window in enumerate(windows):
        pieces = [place for place, special in enumerate(window.special_tokens_mask) if not special]
        # Of the pieces that two windows share, each answers the half that it shows more around.
        low = about["overlap"] // 2 if number else 0
        high = len(pieces) if number == len(windows) - 1 else step + about["overlap"] // 2
        best = ask(window).argmax(axis=-1)
        for place in pieces[low:high]:
            tags.setdefault(window.word_ids[place], about["labels"][best[place]])
    print(json.dumps({"tags": [tags.get(word) for word in range(len(row["tokens"]))]}))
"""
_TARGETS = """\
encoder, decoder = opened(about["encoder_file"]), opened(about["model_file"])


def write(source):
    ids = np.array([source], dtype=np.int64)
    mask = np.ones_like(ids)
    # keys and values: of the source, and of the tokens before, which are none at first
    cross = encoder({"input_ids": ids, "attention_mask": mask})
    past = {
        name.replace("cross", "past"): np.zeros((*each.shape[:2], 0, each.shape[3]), dtype=each.dtype)
        for name, each in cross.items()
    }
    written = [about["start_token"]]
    while len(written) <= about["max_target_length"]:
        last = np.array([written[-1:]], dtype=np.int64)
        found = decoder({"input_ids": last, "attention_mask": mask, **cross, **past})
        written.append(int(found.pop("logits")[0, -1].argmax()))
        past = {name.replace("present", "past"): each for name, each in found.items()}
        if written[-1] in about["end_tokens"]:
            break
    return tokenizer.decode(written[1:], skip_special_tokens=True)


for line in sys.stdin:
    row = json.loads(line)
    read = tokenizer.encode(row["text"])
    print(json.dumps({"text": write(read.ids or about["end_tokens"][:1])}))
"""


_SERVED = {
    "llama_cpp": """\
llama-server -m {model_file}
curl http://localhost:8080/v1/chat/completions -d '{{"messages": [{{"role": "user", "content": "a text"}}]}}'

# or with Ollama
ollama create my-model -f Modelfile
""",
}


def commands_for(manifest: Manifest) -> str | None:
    """The commands that start a server and ask it; None of a folder that is asked in another way."""
    served = _SERVED.get(manifest.runtime)
    return served and served.format(model_file=manifest.model_file)


def script_for(manifest: Manifest) -> str | None:
    """A script that answers rows of JSON; None of a folder whose card says how it is asked."""
    if manifest.runtime not in _OPEN:
        return None
    documents = manifest.answers == "tags"
    form = '{"tokens": ["a", "text"]}' if documents else '{"text": "..."}'
    head = _HEAD.format(form=form, imports=_IMPORTS[manifest.runtime])
    if manifest.encoder_file:
        return head + _OPEN_BOTH[manifest.runtime] + _TARGETS
    opened = _OPEN[manifest.runtime].format(model_file=manifest.model_file)
    return head + opened + (_DOCUMENTS if documents else _TEXTS + _DECISIONS[manifest.answers])


def needs_of(manifest: Manifest) -> str:
    """What the script needs, and what else answers from the folder."""
    told = _NEEDS.get(manifest.runtime, "It needs neither PyTorch nor transformers.")
    return told.format(
        model_file=manifest.model_file, inputs=", ".join(manifest.inputs), max_length=manifest.max_length
    )


def stand_alone(folder: Path, manifest: Manifest, card: str) -> None:
    """Write into a shipped folder all that goes with its model, the checksums of all files last."""
    write_text(folder / "MODEL_CARD.md", card)
    script = script_for(manifest)
    if script is not None:
        write_text(folder / SCRIPT, script)
    if commands_for(manifest) is None:
        write_text(folder / REQUIREMENTS, requirements(manifest))
    write_checksums(folder)


def requirements(manifest: Manifest) -> str:
    """The libraries that answer from the folder, in the versions in which it was judged."""
    from importlib.metadata import version

    names = (
        (*_PACKAGES[manifest.runtime], "tokenizers", "numpy")
        if manifest.runtime in _PACKAGES
        else ("torch", "transformers", "safetensors")
    )
    # The build of torch depends on the machine.
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in names)
