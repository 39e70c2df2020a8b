"""llama.cpp through its C interface, by `ctypes` alone: logits at every position, which no Python binding gives.

The library is the one in the wheel of xllamacpp. Its structs are passed by value, so their layout belongs to one
version, which is pinned; what the library itself says of them is compared before anything is run. Neither torch nor
transformers is imported, nor the package that holds the library.
"""

import ctypes as C
import platform
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.errors import ModelError

PACKAGE = "xllamacpp"
VERSION = "2026.10.11549"
"""Of the package: build b11549 of llama.cpp."""
INSTALL = f"pip install '{PACKAGE}=={VERSION}'"
BATCH = 512
"""Tokens that are read at a time, llama.cpp's own default of a step (n_ubatch)."""
ERROR_LEVEL = 4
"""Of a line of the log (GGML_LOG_LEVEL_ERROR)."""

Logits = npt.NDArray[np.float32]
_P, _I32, _U32, _F32, _BOOL, _SIZE = C.c_void_p, C.c_int32, C.c_uint32, C.c_float, C.c_bool, C.c_size_t


class _ModelParams(C.Structure):
    """struct llama_model_params"""

    _fields_ = (
        ("devices", _P),
        ("tensor_buft_overrides", _P),
        ("n_gpu_layers", _I32),
        ("split_mode", C.c_int),
        ("load_mode", C.c_int),
        ("lazy_mode", C.c_int),
        ("main_gpu", _I32),
        ("tensor_split", _P),
        ("progress_callback", _P),
        ("progress_callback_user_data", _P),
        ("kv_overrides", _P),
        ("vocab_only", _BOOL),
        ("check_tensors", _BOOL),
        ("use_extra_bufts", _BOOL),
        ("no_host", _BOOL),
        ("no_alloc", _BOOL),
        ("load_mtp", _BOOL),
    )


class _ContextParams(C.Structure):
    """struct llama_context_params"""

    _fields_ = (
        ("n_ctx", _U32),
        ("n_batch", _U32),
        ("n_ubatch", _U32),
        ("n_seq_max", _U32),
        ("n_rs_seq", _U32),
        ("n_outputs_max", _U32),
        ("n_outputs_max_per_seq", _U32),
        ("n_threads", _I32),
        ("n_threads_batch", _I32),
        ("ctx_type", C.c_int),
        ("rope_scaling_type", C.c_int),
        ("pooling_type", C.c_int),
        ("attention_type", C.c_int),
        ("flash_attn_type", C.c_int),
        ("rope_freq_base", _F32),
        ("rope_freq_scale", _F32),
        ("yarn_ext_factor", _F32),
        ("yarn_attn_factor", _F32),
        ("yarn_beta_fast", _F32),
        ("yarn_beta_slow", _F32),
        ("yarn_orig_ctx", _U32),
        ("defrag_thold", _F32),
        ("cb_eval", _P),
        ("cb_eval_user_data", _P),
        ("type_k", C.c_int),
        ("type_v", C.c_int),
        ("moe_cache_size", _SIZE),
        ("abort_callback", _P),
        ("abort_callback_data", _P),
        ("embeddings", _BOOL),
        ("offload_kqv", _BOOL),
        ("no_perf", _BOOL),
        ("op_offload", _BOOL),
        ("swa_full", _BOOL),
        ("kv_unified", _BOOL),
        ("samplers", _P),
        ("n_samplers", _SIZE),
        ("ctx_other", _P),
    )


class _Batch(C.Structure):
    """struct llama_batch"""

    _fields_ = (
        ("n_tokens", _I32),
        ("token", C.POINTER(_I32)),
        ("embd", _P),
        ("pos", C.POINTER(_I32)),
        ("n_seq_id", C.POINTER(_I32)),
        ("seq_id", C.POINTER(C.POINTER(_I32))),
        ("logits", C.POINTER(C.c_int8)),
    )


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    # void llama_backend_init(void)
    "llama_backend_init": (None, []),
    # void llama_log_set(ggml_log_callback log_callback, void * user_data)
    "llama_log_set": (None, [_P, _P]),
    # struct llama_model_params llama_model_default_params(void)
    "llama_model_default_params": (_ModelParams, []),
    # struct llama_context_params llama_context_default_params(void)
    "llama_context_default_params": (_ContextParams, []),
    # struct llama_model * llama_model_load_from_file(const char * path_model, struct llama_model_params params)
    "llama_model_load_from_file": (_P, [C.c_char_p, _ModelParams]),
    # void llama_model_free(struct llama_model * model)
    "llama_model_free": (None, [_P]),
    # struct llama_context * llama_init_from_model(struct llama_model * model, struct llama_context_params params)
    "llama_init_from_model": (_P, [_P, _ContextParams]),
    # void llama_free(struct llama_context * ctx)
    "llama_free": (None, [_P]),
    # const struct llama_vocab * llama_model_get_vocab(const struct llama_model * model)
    "llama_model_get_vocab": (_P, [_P]),
    # int32_t llama_vocab_n_tokens(const struct llama_vocab * vocab)
    "llama_vocab_n_tokens": (_I32, [_P]),
    # bool llama_vocab_is_eog(const struct llama_vocab * vocab, llama_token token)
    "llama_vocab_is_eog": (_BOOL, [_P, _I32]),
    # llama_memory_t llama_get_memory(const struct llama_context * ctx)
    "llama_get_memory": (_P, [_P]),
    # void llama_memory_clear(llama_memory_t mem, bool data)
    "llama_memory_clear": (None, [_P, _BOOL]),
    # struct llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max)
    "llama_batch_init": (_Batch, [_I32, _I32, _I32]),
    # void llama_batch_free(struct llama_batch batch)
    "llama_batch_free": (None, [_Batch]),
    # int32_t llama_decode(struct llama_context * ctx, struct llama_batch batch)
    "llama_decode": (_I32, [_P, _Batch]),
    # float * llama_get_logits(struct llama_context * ctx)
    "llama_get_logits": (C.POINTER(_F32), [_P]),
    # int32_t llama_tokenize(const struct llama_vocab * vocab, const char * text, int32_t text_len,
    #                        llama_token * tokens, int32_t n_tokens_max, bool add_special, bool parse_special)
    "llama_tokenize": (_I32, [_P, C.c_char_p, _I32, _P, _I32, _BOOL, _BOOL]),
    # size_t ggml_row_size(enum ggml_type type, int64_t ne)
    "ggml_row_size": (_SIZE, [C.c_int, C.c_int64]),
    # size_t ggml_quantize_chunk(enum ggml_type type, const float * src, void * dst, int64_t start, int64_t nrows,
    #                            int64_t n_per_row, const float * imatrix)
    "ggml_quantize_chunk": (_SIZE, [C.c_int, _P, _P, C.c_int64, C.c_int64, C.c_int64, _P]),
}
# void (*ggml_log_callback)(enum ggml_log_level level, const char * text, void * user_data)
_LOG = C.CFUNCTYPE(None, C.c_int, C.c_char_p, _P)
_complaints: list[str] = []


def _listen(level: int, text: bytes, _: Any) -> None:
    if level == ERROR_LEVEL:
        _complaints.append(text.decode(errors="replace").strip())


# Held for as long as the library may call it.
_LISTENER = _LOG(_listen)


def unfit() -> str | None:
    """Why the library cannot be used that is installed; None where it is as this module knows it, or not there."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        return None
    if found == VERSION:
        return None
    return f"{PACKAGE} {found} is installed, and structs of {VERSION} alone are known here. Run: {INSTALL}"


@cache
def library() -> Any:
    """The library, with its functions declared.

    Raises:
        ModelError: it is not installed, or another version.
    """
    spec = PathFinder.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"llama.cpp is not installed. Run: {INSTALL}")
    if (why := unfit()) is not None:
        raise ModelError(why)
    found = C.CDLL(str(next(Path(spec.origin).parent.glob(f"{PACKAGE}*.so"))))
    for name, (gives, takes) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = gives, takes
    for what in _differences(found):
        raise ModelError(f"{spec.origin}: {what}, so this is not the library of {PACKAGE} {VERSION}. Run: {INSTALL}")
    found.llama_log_set(C.cast(_LISTENER, _P), None)
    found.llama_backend_init()
    return found


_MODEL_DEFAULTS = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "main_gpu": 0,
    "vocab_only": False,
    "use_extra_bufts": True,
}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_threads": 4,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "type_k": 1,
    "type_v": 1,
    "offload_kqv": True,
    "embeddings": False,
    "n_samplers": 0,
}


def _differences(found: Any) -> Iterator[str]:
    """What of the structs is not as it is declared here, by their defaults and by where the library stops writing."""
    for name, kind, known in (
        ("llama_model_default_params", _ModelParams, _MODEL_DEFAULTS),
        ("llama_context_default_params", _ContextParams, _CONTEXT_DEFAULTS),
    ):
        defaults = getattr(found, name)()
        for field, value in known.items():
            if getattr(defaults, field) != value:
                yield f"{name}: {field} is {getattr(defaults, field)} by default, not {value}"
        # Other processors have other rules for how a struct is returned.
        if platform.machine() == "x86_64":
            written, size = _written(found, name, C.sizeof(kind)), C.sizeof(kind)
            if not size - C.alignment(kind) < written <= size:
                yield f"{name} has {written} bytes, not {size}"


def _written(found: Any, name: str, size: int) -> int:
    """How many bytes the library writes of a struct that it returns into memory of its caller."""
    function = C.CFUNCTYPE(_P, _P)(C.cast(getattr(found, name), _P).value or 0)
    results = []
    for fill in (0x55, 0xAA):
        memory = (C.c_ubyte * (size + 256))(*([fill] * (size + 256)))
        function(C.addressof(memory))
        results.append(bytes(memory))
    return max(place for place, (one, other) in enumerate(zip(*results, strict=True)) if one == other) + 1


class LlamaModel:
    """A GGUF file that llama.cpp has loaded, on the processor; one text at a time.

    `tokens` is the longest text that it can read. `exact` keeps keys and values in float32, where llama.cpp's own
    default, which is what is served, rounds them to half precision.
    """

    def __init__(self, file: Path, *, threads: int, tokens: int, exact: bool = False, only_tokens: bool = False):
        self._library = library()
        self._file = file
        self._context: Any = None
        self._model = self._loaded(only_tokens)
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocabulary: int = self._library.llama_vocab_n_tokens(self._vocabulary)
        self.room = tokens
        self._past = 0
        if not only_tokens:
            self._context = self._opened(threads, exact)
            self._batch = self._library.llama_batch_init(BATCH, 0, 1)

    def _loaded(self, only_tokens: bool) -> Any:
        _complaints.clear()
        params = self._library.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = 0, only_tokens
        model = self._library.llama_model_load_from_file(str(self._file).encode(), params)
        if not model:
            raise ModelError(f"{self._file}: llama.cpp cannot load it: {_first_complaint()}")
        return model

    def _opened(self, threads: int, exact: bool) -> Any:
        params = self._library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = self.room, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if exact:
            # GGML_TYPE_F32, and attention as it is written down.
            params.type_k = params.type_v = params.flash_attn_type = 0
        context = self._library.llama_init_from_model(self._model, params)
        if not context:
            raise ModelError(f"{self._file}: llama.cpp cannot read {self.room} tokens: {_first_complaint()}")
        return context

    def logits(self, ids: Sequence[int], wanted: Sequence[bool] | None = None) -> Logits:
        """The logits after each of the tokens of a text, or after those that are wanted: tokens x vocabulary."""
        self.forget()
        asked = [True] * len(ids) if wanted is None else list(wanted)
        parts = [
            self._read(ids[start : start + BATCH], asked[start : start + BATCH]) for start in range(0, len(ids), BATCH)
        ]
        return np.concatenate(parts)

    def greedy(
        self, prompt: Sequence[int], new_tokens: int, stop: Collection[int] = ()
    ) -> tuple[list[int], list[float]]:
        """The likeliest tokens after a prompt up to a stop token, which is included, with the seconds that each took;
        the first includes the reading of the prompt."""
        written: list[int] = []
        seconds: list[float] = []
        for token, took, _ in self.steps(prompt, new_tokens, stop):
            written.append(token)
            seconds.append(took)
        return written, seconds

    def steps(
        self, prompt: Sequence[int], new_tokens: int, stop: Collection[int] = ()
    ) -> Iterator[tuple[int, float, Logits]]:
        """The same token by token, each with its seconds and the logits that it is the likeliest of."""
        self.forget()
        unread = list(prompt)
        for _ in range(new_tokens):
            started = time.perf_counter()
            for start in range(0, len(unread), BATCH):
                part = unread[start : start + BATCH]
                last = self._read(part, [False] * (len(part) - 1) + [True])[-1]
            unread = [int(last.argmax())]
            yield unread[0], time.perf_counter() - started, last
            if unread[0] in stop:
                return

    def forget(self) -> None:
        """A new text begins."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._past = 0

    def _read(self, ids: Sequence[int], wanted: Sequence[bool]) -> Logits:
        batch, count = self._batch, len(ids)
        assert self._past + count <= self.room, "a text is longer than the model was opened for"
        for place, (token, asked) in enumerate(zip(ids, wanted, strict=True)):
            batch.token[place], batch.pos[place], batch.logits[place] = token, self._past + place, asked
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.n_tokens = count
        if code := self._library.llama_decode(self._context, batch):
            raise ModelError(f"{self._file}: llama.cpp cannot answer (code {code}): {_first_complaint()}")
        self._past += count
        rows = sum(wanted)
        if not rows:
            return np.empty((0, self.vocabulary), dtype=np.float32)
        # In the order of the batch; the next call overwrites them.
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (rows, self.vocabulary)).copy()

    def tokenize(self, text: str, *, around: bool = False) -> list[int]:
        """The tokens of a text, special ones by their names; with `around` also those that stand around each text."""
        raw = text.encode()
        found = (_I32 * (len(raw) + 16))()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), found, len(found), around, True)
        return list(found[: max(0, count)])

    def ends_with(self, token: int) -> bool:
        """Whether servers stop at this token."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        """Out of memory; it cannot be asked any more."""
        if self._context is not None:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
        self._context = self._model = None


def quantised(rows: npt.NDArray[np.float32], kind: int) -> npt.NDArray[np.uint8]:
    """Rows of a matrix as ggml stores them in a type, by its number, without an importance matrix."""
    found = np.ascontiguousarray(rows, dtype=np.float32)
    count, width = found.shape
    stored = np.empty((count, library().ggml_row_size(kind, width)), dtype=np.uint8)
    library().ggml_quantize_chunk(kind, found.ctypes.data, stored.ctypes.data, 0, count, width, None)
    return stored


def _first_complaint() -> str:
    return _complaints[0] if _complaints else "it does not say why"
