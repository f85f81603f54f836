"""bench_torch.py SHAPE OUT - the same work as bench.lua with PyTorch, transformers and PEFT on the same GPU:
decode with a KV cache, a log-probability pass, a LoRA update. f32 with TF32 off, as mocl computes, and bf16,
as these libraries are used. Writes one JSON; a part that cannot run says why in it."""
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

shape, out = sys.argv[1:3]
SHAPES = {
    "tiny": dict(config=dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                             num_key_value_heads=4, intermediate_size=48, max_position_embeddings=64),
                 prompt=6, answer=5, decode=[1, 2], update=2, matrix=96, copy=1 << 14),
    "1b": dict(config=dict(vocab_size=32000, hidden_size=2048, num_hidden_layers=22, num_attention_heads=32,
                           num_key_value_heads=4, intermediate_size=5632, max_position_embeddings=2048),
               prompt=128, answer=64, decode=[1, 8, 64], update=8, matrix=8192, copy=1 << 28),
    "7b": dict(config=dict(vocab_size=32000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                           num_key_value_heads=32, intermediate_size=11008, max_position_embeddings=2048),
               prompt=32, answer=32, decode=[1, 8, 64], update=8, matrix=8192, copy=1 << 28),
}
s = SHAPES[shape]
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False


def sync():
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(f, repeats=3):
    f()
    sync()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        sync()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def prompts(n):
    return torch.tensor([[((i + 1) * 7919 + (t + 1) * 104729) % s["config"]["vocab_size"] for t in range(s["prompt"])]
                         for i in range(n)], device=device)


def measure(dtype):
    r = {}
    x = torch.zeros(s["copy"], device=device, dtype=torch.float32)
    y = torch.zeros_like(x)
    t = seconds(lambda: y.copy_(x), 5)
    r["copy"] = dict(seconds=t, bytes_per_second=8 * s["copy"] / t)
    del x, y
    a = torch.randn(s["matrix"], s["matrix"], device=device, dtype=dtype)
    t = seconds(lambda: a @ a)
    r["matrix"] = dict(seconds=t, flops=2 * s["matrix"] ** 3 / t)
    del a
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(LlamaConfig(attn_implementation="sdpa", **s["config"])).eval()
        torch.set_default_dtype(torch.float32)
    r["decode"] = []
    for rows in s["decode"]:
        def run(n):
            with torch.no_grad():
                model.generate(prompts(rows), attention_mask=torch.ones(rows, s["prompt"], device=device, dtype=torch.long),
                               max_new_tokens=n, min_new_tokens=n, do_sample=True, temperature=1.0, top_k=0, pad_token_id=0)
        short, long = seconds(lambda: run(1), 1), seconds(lambda: run(s["answer"] + 1), 1)
        step = (long - short) / s["answer"]
        r["decode"].append(dict(batch=rows, prefill_seconds=short, step_seconds=step, tokens_per_second=rows / step))
    rows, n = s["update"], min(s["prompt"], s["answer"])
    ids = torch.cat([prompts(rows), prompts(rows)[:, :n]], 1)
    tokens = ids.numel()

    def logp():
        logits = model(ids).logits[:, s["prompt"] - 1:-1].float()
        return torch.log_softmax(logits, -1).gather(-1, ids[:, s["prompt"]:, None]).mean()

    def score():
        with torch.no_grad():
            return logp()
    t = seconds(score)
    r["logprob"] = dict(tokens=tokens, seconds=t, tokens_per_second=tokens / t)
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as e:
        r["lora_update"] = dict(skipped=str(e))
        return r
    model = get_peft_model(model, LoraConfig(r=64, lora_alpha=64, target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    trained = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, lr=1e-5)

    def update():
        opt.zero_grad()
        (-logp()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        opt.step()
    t = seconds(update)
    r["lora_update"] = dict(tokens=tokens, seconds=t, tokens_per_second=tokens / t)
    return r


result = dict(shape=shape, torch=torch.__version__, transformers=transformers.__version__,
              device=torch.cuda.get_device_name() if device == "cuda" else "cpu")
for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
    try:
        result[name] = measure(dtype)
    except Exception as e:  # out of memory in one type must not lose the other
        result[name] = dict(skipped=repr(e)[:300])
    if device == "cuda":
        torch.cuda.empty_cache()
with open(out, "w") as f:
    json.dump(result, f, indent=2)
