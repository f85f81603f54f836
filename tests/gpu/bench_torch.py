"""bench_torch.py SHAPE OUT [bf16|f32] - the same work as bench.lua with PyTorch, transformers and PEFT on the same GPU: decode with
a KV cache, a LoRA update, a log-probability pass, attention. f32 with TF32 off, as mocl computes. The figures are
written after each part, so that a run that is cut off keeps what it has; a part that cannot run says why."""
import json
import statistics
import sys
import time

import torch

try:
    import transformers
except ImportError:  # a machine with PyTorch alone: the model's parts are skipped
    transformers = None

shape, out = sys.argv[1:3]
dtype_name = sys.argv[3] if len(sys.argv) > 3 else "bf16"
dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype_name]
# as in bench.lua
SHAPES = {
    "tiny": dict(config=dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                             num_key_value_heads=4, intermediate_size=48, max_position_embeddings=64),
                 prompt=6, answer=5, decode=[2, 1], update=[(2, 6, 5), (1, 8, 8)], rank=8, matrix=96, copy=1 << 14),
    "smollm2": dict(config=dict(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
                                num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192,
                                rope_theta=100000.0, tie_word_embeddings=True),
                    prompt=64, answer=48, decode=[64, 16, 1], update=[(16, 64, 48)], rank=16, matrix=8192, copy=1 << 28),
    "1b": dict(config=dict(vocab_size=32000, hidden_size=2048, num_hidden_layers=22, num_attention_heads=32,
                           num_key_value_heads=4, intermediate_size=5632, max_position_embeddings=2048),
               prompt=128, answer=64, decode=[64, 8, 1], update=[(8, 128, 64)], rank=64, matrix=8192, copy=1 << 28),
    "7b": dict(config=dict(vocab_size=32000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                           num_key_value_heads=32, intermediate_size=11008, max_position_embeddings=2048),
               prompt=128, answer=128, decode=[64, 1], update=[(64, 128, 128), (32, 256, 256)], rank=64, matrix=8192,
               copy=1 << 28),
}
s = SHAPES[shape]
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False

result = dict(shape=shape, dtype=dtype_name, torch=torch.__version__, transformers=transformers.__version__ if transformers else "none",
              device=torch.cuda.get_device_name() if device == "cuda" else "cpu")


def note(key, value):
    result[key] = value
    with open(out, "w") as f:
        json.dump(result, f, indent=2)
    print(key, json.dumps(value), flush=True)


def part(key, of_model=False):
    """Runs a function, and notes what it gives or why it could not: out of memory in one part must not lose the others."""
    def run(f):
        if of_model and model is None:
            note(key, dict(skipped="no transformers"))
            return
        try:
            note(key, f())
        except Exception as e:
            note(key, dict(skipped=repr(e)[:300]))
        if device == "cuda":
            torch.cuda.empty_cache()
    return run


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


def prompts(n, length=None):
    return torch.tensor([[((i + 1) * 7919 + (t + 1) * 104729) % s["config"]["vocab_size"]
                          for t in range(length or s["prompt"])] for i in range(n)], device=device)


@part("copy")
def _():
    x = torch.zeros(s["copy"], device=device, dtype=torch.float32)
    y = torch.zeros_like(x)
    t = seconds(lambda: y.copy_(x), 5)
    return dict(seconds=t, bytes_per_second=8 * s["copy"] / t)


@part("matrix")
def _():
    a = torch.randn(s["matrix"], s["matrix"], device=device, dtype=dtype)
    t = seconds(lambda: a @ a)
    return dict(seconds=t, flops=2 * s["matrix"] ** 3 / t)


model = None
if transformers:
    with torch.device(device):
        torch.set_default_dtype(dtype)
        config = transformers.LlamaConfig(attn_implementation="sdpa", **s["config"])
        model = transformers.LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)


@part("decode", of_model=True)
def _():
    rows_of = []
    for rows in s["decode"]:
        def run(n):
            with torch.no_grad():
                model.generate(prompts(rows), attention_mask=torch.ones(rows, s["prompt"], device=device, dtype=torch.long),
                               max_new_tokens=n, min_new_tokens=n, do_sample=True, temperature=1.0, top_k=0, pad_token_id=0)
        short, long = seconds(lambda: run(1), 1), seconds(lambda: run(s["answer"] + 1), 1)
        step = (long - short) / s["answer"]
        rows_of.append(dict(batch=rows, prefill_seconds=short, step_seconds=step, tokens_per_second=rows / step))
    return rows_of


def logp(model, rows, prompt, answer):
    ids = torch.cat([prompts(rows, prompt), prompts(rows, answer)], 1)
    # the head sees the answer's positions alone, as in mocl
    logits = model(ids, logits_to_keep=answer + 1).logits[:, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, ids[:, prompt:, None]).mean()


@part("logprob", of_model=True)
def _():
    rows_of = []
    for u in s["update"]:
        def score():
            with torch.no_grad():
                return logp(model, *u)
        tokens, t = u[0] * (u[1] + u[2]), seconds(score, 1)
        rows_of.append(dict(tokens=tokens, sequence=u[1] + u[2], seconds=t, tokens_per_second=tokens / t))
    return rows_of


@part("lora_update", of_model=True)
def _():
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=s["rank"], lora_alpha=s["rank"], target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    trained = [p for p in tuned.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, lr=1e-5, fused=device == "cuda")
    rows_of = []
    for u in s["update"]:
        def update():
            opt.zero_grad()
            (-logp(tuned, *u)).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            opt.step()
        tokens, t = u[0] * (u[1] + u[2]), seconds(update, 1)
        rows_of.append(dict(tokens=tokens, sequence=u[1] + u[2], seconds=t, tokens_per_second=tokens / t))
    return rows_of


model = None  # its memory


@part("attention")
def _():
    c, rows_of = s["config"], []
    heads, groups = c["num_attention_heads"], c["num_key_value_heads"]
    width = c["hidden_size"] // heads
    for u in s["update"]:
        rows, length = u[0], u[1] + u[2]
        q, k, v = (torch.randn(rows, n, length, width, device=device, dtype=dtype, requires_grad=True)
                   for n in (heads, groups, groups))

        def run(backward):
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != groups)
            if backward:
                y.sum().backward()
        with torch.no_grad():
            forward = seconds(lambda: run(False))
        both = seconds(lambda: run(True))
        flops = 2 * rows * heads * length * length * width
        rows_of.append(dict(sequence=length, tokens=rows * length, forward_seconds=forward, forward_flops=flops / forward,
                            backward_seconds=both - forward, backward_flops=2.5 * flops / (both - forward)))
    return rows_of
