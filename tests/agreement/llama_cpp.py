"""llama.cpp through the library in the package xllamacpp: logits in the one setting whose figures can be compared, weights
as the file has them, an F32 cache, no flash attention, one thread.

The package wraps a server and hands out no logits, but its library exports llama.cpp's functions. The structures below are
those of llama.cpp b11549 (xllamacpp 2026.10.11549); the defaults that the library fills in are compared with that version's, so
that a library with another layout is refused and not misread.
"""
import ctypes as c
import glob
import importlib.util
import os

import numpy as np

VERSION = "2026.10.11549"


class ModelParams(c.Structure):
    _fields_ = [("devices", c.c_void_p), ("tensor_buft_overrides", c.c_void_p), ("n_gpu_layers", c.c_int32), ("split_mode", c.c_int32),
                ("load_mode", c.c_int32), ("lazy_mode", c.c_int32), ("main_gpu", c.c_int32), ("tensor_split", c.c_void_p),
                ("progress", c.c_void_p), ("progress_data", c.c_void_p), ("kv_overrides", c.c_void_p), ("vocab_only", c.c_bool),
                ("check_tensors", c.c_bool), ("use_extra_bufts", c.c_bool), ("no_host", c.c_bool), ("no_alloc", c.c_bool),
                ("load_mtp", c.c_bool)]


class ContextParams(c.Structure):
    _fields_ = [(n, c.c_uint32) for n in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_per_seq")] + \
               [(n, c.c_int32) for n in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type", "attention_type",
                                         "flash_attn_type")] + \
               [(n, c.c_float) for n in ("rope_freq_base", "rope_freq_scale", "yarn_ext", "yarn_attn", "yarn_fast", "yarn_slow")] + \
               [("yarn_orig_ctx", c.c_uint32), ("defrag_thold", c.c_float), ("cb_eval", c.c_void_p), ("cb_eval_data", c.c_void_p),
                ("type_k", c.c_int32), ("type_v", c.c_int32), ("abort", c.c_void_p), ("abort_data", c.c_void_p), ("pointer", c.c_void_p)] + \
               [(n, c.c_bool) for n in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")] + \
               [("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("ctx_other", c.c_void_p)]


class Batch(c.Structure):
    _fields_ = [("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p), ("pos", c.POINTER(c.c_int32)),
                ("n_seq_id", c.POINTER(c.c_int32)), ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8))]


LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
SILENT = LOG(lambda level, text, data: None)
lib = None


def library():
    """The library, opened once; raises where it is another version."""
    global lib
    if lib:
        return lib
    spec = importlib.util.find_spec("xllamacpp")
    if not spec:
        raise ImportError("no xllamacpp: pip install xllamacpp==" + VERSION)
    lib = c.CDLL(glob.glob(os.path.join(os.path.dirname(spec.origin), "*.so"))[0])
    pointers = ["llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_adapter_lora_init", "llama_get_memory"]
    for name in pointers:
        getattr(lib, name).restype = c.c_void_p
    lib.llama_get_logits.restype = c.POINTER(c.c_float)
    lib.llama_model_default_params.restype = ModelParams
    lib.llama_context_default_params.restype = ContextParams
    lib.llama_batch_init.restype = Batch
    lib.llama_log_set(SILENT, None)
    p = lib.llama_context_default_params()
    seen = (p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.flash_attn_type, p.yarn_ext, p.type_k, p.type_v, p.embeddings, p.no_perf, p.op_offload, p.swa_full,
            p.kv_unified, p.samplers, p.n_samplers)
    if seen != (512, 2048, 512, 1, -1, -1.0, 1, 1, False, True, True, True, False, None, 0):
        raise ImportError("another llama.cpp than that of xllamacpp " + VERSION)
    lib.llama_backend_init()
    return lib


class Model:
    """A model in a GGUF file, with adapters: a list of (path, scale)."""

    def __init__(self, path, adapters=(), n_ctx=512):
        l = library()
        params = l.llama_model_default_params()
        params.use_extra_bufts = False  # no repacking of weights: the file's own blocks
        self.model = l.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            raise ValueError(path + ": llama.cpp does not load it")
        self.vocab = l.llama_model_get_vocab(c.c_void_p(self.model))
        self.n_vocab = l.llama_vocab_n_tokens(c.c_void_p(self.vocab))
        p = l.llama_context_default_params()
        p.n_ctx = p.n_batch = p.n_ubatch = n_ctx
        p.n_threads = p.n_threads_batch = 1
        p.flash_attn_type = 0
        p.type_k = p.type_v = 0  # F32
        self.ctx = l.llama_init_from_model(c.c_void_p(self.model), p)
        if not self.ctx:
            raise ValueError(path + ": llama.cpp makes no context")
        if adapters:
            handles = (c.c_void_p * len(adapters))()
            scales = (c.c_float * len(adapters))(*[s for _, s in adapters])
            for i, (adapter, _) in enumerate(adapters):
                handles[i] = l.llama_adapter_lora_init(c.c_void_p(self.model), os.fsencode(adapter))
                if not handles[i]:
                    raise ValueError(adapter + ": llama.cpp does not load it")
            if l.llama_set_adapters_lora(c.c_void_p(self.ctx), handles, c.c_size_t(len(adapters)), scales):
                raise ValueError("llama.cpp does not apply the adapters")

    def decode(self, tokens, start):
        """Logits [len(tokens), vocabulary] of tokens that stand from position `start` on."""
        l, n = library(), len(tokens)
        b = l.llama_batch_init(n, 0, 1)
        b.n_tokens = n
        for i, t in enumerate(tokens):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = t, start + i, 1, 1
            b.seq_id[i][0] = 0
        if l.llama_decode(c.c_void_p(self.ctx), b):
            raise ValueError("llama.cpp does not decode")
        out = np.ctypeslib.as_array(l.llama_get_logits(c.c_void_p(self.ctx)), (n, self.n_vocab)).copy()
        l.llama_batch_free(b)
        return out

    def clear(self):
        l = library()
        l.llama_memory_clear(c.c_void_p(l.llama_get_memory(c.c_void_p(self.ctx))), c.c_bool(True))

    def logits(self, tokens):
        self.clear()
        return self.decode(tokens, 0)

    def greedy(self, tokens, n, ends=()):
        """Up to n further tokens, each the most probable one, until one of `ends` (left out)."""
        self.clear()
        row, out = self.decode(tokens, 0)[-1], []
        while len(out) < n:
            best = int(row.argmax())
            if best in ends:
                break
            out.append(best)
            row = self.decode([best], len(tokens) + len(out) - 1)[-1]
        return out

    def tokenize(self, text, special=True):
        l, raw = library(), text.encode()
        out = (c.c_int32 * (len(raw) + 16))()
        n = l.llama_tokenize(c.c_void_p(self.vocab), raw, len(raw), out, len(out), c.c_bool(False), c.c_bool(special))
        return list(out[:n])
