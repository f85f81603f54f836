"""What quantised weights do to logits and to the training of an adapter, in mocl and in transformers with bitsandbytes.

python3 tests/agreement/quantised.py MODEL.gguf|DIR     (torch 2.15.0, transformers 5.24.0, peft 0.21.2, bitsandbytes 0.50.2; ./mocl)

The same tokens go through the model in f32, int8, w8a8 (mocl alone) and nf4; then a LoRA adapter of rank 8 is trained for 10 steps on them, on each. The
largest and the mean distance of logits, and the mean KL of the next token, are to the f32 model of the same program.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

HERE = os.path.dirname(os.path.abspath(__file__))
MOCL = os.path.join(HERE, "..", "..", "mocl")
torch.set_num_threads(int(os.environ.get("THREADS", "2")))


def compare(a, b):
    p, q = torch.log_softmax(a.double(), -1), torch.log_softmax(b.double(), -1)
    return [(a - b).abs().max().item(), (a - b).abs().mean().item(), (p.exp() * (p - q)).sum(-1).mean().item(),
            (a.argmax(-1) == b.argmax(-1)).double().mean().item()]


def row(name, figures, first, last):
    print("| %s | %.2g | %.2g | %.2g | %.3f | %.4f | %.4f |" % (name, *figures, first, last))


def peer(path, tokens, form):
    """Logits, and losses and logits of an adapter, of transformers; int8 rounds activations too, as bitsandbytes does."""
    from peft import LoraConfig, get_peft_model

    how = {"int8": dict(load_in_8bit=True), "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                        bnb_4bit_compute_dtype=torch.float32)}.get(form)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu",
                                                 **({"quantization_config": BitsAndBytesConfig(**how)} if how else {}))
    for p in model.parameters():
        p.requires_grad_(False)
    x = torch.tensor(tokens)
    run = lambda m: torch.cat(list(m(input_ids=x).logits)).detach()
    torch.manual_seed(1)
    net = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    net.train()  # no dropout in it; bitsandbytes dequantises where there are gradients
    before = run(net)
    opt = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for _ in range(10):
        logits = net(input_ids=x).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        losses.append(loss.item())
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in net.parameters() if p.requires_grad], 1.0)
        opt.step()
    return before, losses, run(net)


def main():
    with tempfile.TemporaryDirectory() as work:
        path = sys.argv[1]
        if path.endswith(".gguf"):
            subprocess.run([MOCL, "-"], input='local t = require "mocl.lm.model"\nassert(t.save(assert(t.load(%s)), %s))' % (
                json.dumps(path), json.dumps(work + "/model")), text=True, check=True)
            path = work + "/model"
        vocab = json.load(open(path + "/config.json"))["vocab_size"]
        g = torch.Generator().manual_seed(7)
        tokens = torch.randint(0, vocab, (2, 16), generator=g).tolist()
        json.dump(tokens, open(work + "/tokens.json", "w"))
        subprocess.run([MOCL, HERE + "/quantised.lua", path, work + "/tokens.json", work + "/out"], check=True)
        logits, losses = load_file(work + "/out.safetensors"), json.load(open(work + "/out.json"))
        print("| | logits: largest | mean | KL | the same first token | loss before training | after 10 steps |")
        print("|---|---|---|---|---|---|---|")
        theirs = {form: peer(path, tokens, form) for form in ("f32", "int8", "nf4")}
        for form in ("f32", "int8", "w8a8", "nf4"):
            row("mocl " + form, compare(logits["f32"], logits[form]), losses[form][0], losses[form][-1])
            if form in theirs:
                row("bitsandbytes " + form, compare(theirs["f32"][0], theirs[form][0]), theirs[form][1][0], theirs[form][1][-1])
        print("\nmocl and transformers in f32: largest difference of logits %.2g" % compare(logits["f32"], theirs["f32"][0])[0])
        print("mocl and bitsandbytes on nf4: %.2g" % compare(logits["nf4"], theirs["nf4"][0])[0])
        for form in ("int8", "w8a8", "nf4"):
            print("mocl %s with its trained adapter, from f32 with its own: largest %.2g, mean %.2g, KL %.2g, first token %.3f" % (
                form, *compare(logits["f32 trained"], logits[form + " trained"])))


main()
