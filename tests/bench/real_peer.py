"""The other side of a row of tests/bench/real.lua: real_peer.py WHAT DIR FORMAT THREADS [BATCH], as real_side.lua.

update and generate are transformers' with PEFT's adapter (f32; bf16: a base in bf16 with the adapter in f32; autocast: an f32 base under
bf16 autocast), decode and prompt llama.cpp's on DIR/FORMAT.gguf (llama-cpp-python)."""
import ctypes
import json
import os
import resource
import sys
import time
import warnings

warnings.simplefilter("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def ids(row, n, vocab):
    return [(row * 977 + i * i * 31 + 7) % vocab for i in range(1, n + 1)]


class Update:
    """A step of fused AdamW on the adapter; the head sees the states of the answers alone, as mocl's does."""

    def __init__(self, path, form, threads, rows):
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        self.torch, self.autocast = torch, form == "autocast"
        base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if form == "bf16" else torch.float32, attn_implementation="sdpa")
        self.model = PeftModel.from_pretrained(base, path + "/adapter", is_trainable=True)
        vocab = base.config.vocab_size
        self.tokens = torch.tensor([ids(i, 64, vocab) + ids(100 + i, 48, vocab) for i in range(1, 17)])
        self.trunk, self.head = self.model.base_model.model.model, self.model.base_model.model.lm_head
        self.opt = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0, fused=True)

    def run(self, n):
        torch = self.torch
        for _ in range(n):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
                hidden = self.trunk(input_ids=self.tokens, use_cache=False).last_hidden_state[:, 63:111]
                logits = self.head(hidden).float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.tokens[:, 64:].flatten())
            self.opt.zero_grad(set_to_none=True)
            loss.backward()
            self.opt.step()
        return {"check": loss.item()}


class Generate:
    def __init__(self, path, form, threads, rows):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if form == "bf16" else torch.float32)
        self.tokens = torch.tensor([ids(i, 8, self.model.config.vocab_size) for i in range(1, rows + 1)])

    def once(self, n):
        clock, cpu = time.monotonic(), time.process_time()
        with self.torch.inference_mode():
            out = self.model.generate(self.tokens, attention_mask=self.torch.ones_like(self.tokens), max_new_tokens=n, min_new_tokens=n, do_sample=False,
                                      pad_token_id=0)
        return time.monotonic() - clock, time.process_time() - cpu, int(out[0, 8])

    def run(self, n):
        clock, cpu, _ = self.once(2)
        clock_all, cpu_all, first = self.once(2 + n)
        return {"seconds": clock_all - clock, "cpu": cpu_all - cpu, "check": first}


class Llama:
    """llama.cpp by its C interface: sequences side by side in one batch, the largest logit of each. Its cache is f32 beside F32 weights,
    which needs flash attention off, and f16 beside the others."""

    def __init__(self, path, form, threads, rows):
        import llama_cpp as api
        import numpy

        self.api, self.numpy, self.rows, room = api, numpy, rows, 640
        api.llama_backend_init()
        self.log = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self.log, ctypes.c_void_p(0))
        self.model = api.llama_model_load_from_file(f"{path}/{form}.gguf".encode(), api.llama_model_default_params())
        p = api.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = room if rows == 1 else 128 * rows, 512, 512, rows
        p.n_threads = p.n_threads_batch = threads
        if form == "F32":
            p.type_k = p.type_v = 0
            p.flash_attn_type = 0
        self.context = api.llama_init_from_model(self.model, p)
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(512, 0, 1)

    def decode(self, entries):
        """entries: (token, position, row, is its logit wanted)"""
        b = self.batch
        b.n_tokens = len(entries)
        for i, (token, position, row, wanted) in enumerate(entries):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, wanted
            b.seq_id[i][0] = row
        if self.api.llama_decode(self.context, b):
            raise RuntimeError("llama_decode failed")
        at = [i for i, e in enumerate(entries) if e[3]]
        rows = [self.numpy.ctypeslib.as_array(self.api.llama_get_logits_ith(self.context, i), (self.vocab,)) for i in at]
        return [int(r.argmax()) for r in rows]

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)


class Decode(Llama):
    def run(self, n):
        self.clear()
        prompts = [(t, i, row, i == 7) for row in range(self.rows) for i, t in enumerate(ids(row + 1, 8, self.vocab))]
        last = []
        for at in range(0, len(prompts), 512):
            last += self.decode(prompts[at:at + 512])
        first = last[0]
        for step in range(2 + n):
            if step == 2:
                clock, cpu = time.monotonic(), time.process_time()
            last = self.decode([(t, 8 + step, row, True) for row, t in enumerate(last)])
        return {"seconds": time.monotonic() - clock, "cpu": time.process_time() - cpu, "check": first}


class Prompt(Llama):
    def run(self, n):
        for _ in range(n):
            self.clear()
            tokens = ids(1, 512, self.vocab)
            first = self.decode([(t, i, 0, i == 511) for i, t in enumerate(tokens)])[0]
        return {"check": first}


KINDS = {"update": Update, "generate": Generate, "decode": Decode, "prompt": Prompt}


def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def main():
    what, path, form, threads, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int((sys.argv[5:] or ["1"])[0])
    side = KINDS[what](path, form, threads, rows)
    before = resident()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line == "quit\n":
            break
        clock, cpu = time.monotonic(), time.process_time()
        answer = side.run(int(line.split()[1]))
        if "seconds" not in answer:
            answer |= {"seconds": time.monotonic() - clock, "cpu": time.process_time() - cpu}
        print(json.dumps(answer | {"bytes": max(0, highest() - before)}), flush=True)


main()
