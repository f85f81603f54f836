"""peer.py - PyTorch eager's side of the benchmark. It answers one request per line of standard input with one line of
JSON on standard output:

  setup FILE      builds the case that the description in FILE names; {"check": [numbers]}
  run N           N runs of it; {"seconds": s}
  quit

Written as a careful user would: 32-bit floats, two threads, padded batches with the answers' rows selected before the
head, scaled_dot_product_attention, fused q/k/v and gate/up products, preallocated key/value caches, inference_mode,
the fused AdamW.
"""
import json
import math
import os
import sys
import time

os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # Debian's OpenBLAS does not know recent CPUs

import torch
import torch.nn.functional as F

DTYPES = {"F32": torch.float32, "I32": torch.int32}


def load(path):
    """The tensors of a safetensors file."""
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(n))
        data = bytearray(f.read())
    tensors = {}
    for name, t in header.items():
        if name != "__metadata__":
            first, last = t["data_offsets"]
            count = (last - first) // 4
            tensors[name] = torch.frombuffer(data, dtype=DTYPES[t["dtype"]], count=count, offset=first).reshape(t["shape"]).clone()
    return tensors


def adamw(parameters, lr, betas=(0.9, 0.999)):
    try:
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=0.0, fused=True)
    except (RuntimeError, TypeError):  # PyTorch before 2.4 has no fused one for the CPU
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=0.0, foreach=True)


def pad(rows, length=None):
    """Lists of ids as a matrix, padded with 0 on the right."""
    length = length or max(map(len, rows))
    return torch.tensor([r + [0] * (length - len(r)) for r in rows])


def rms_norm_plain(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rms_norm_fused(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight, eps)


rms_norm = rms_norm_fused if hasattr(F, "rms_norm") else rms_norm_plain


class Llama:
    """The decoder of mocl.lm.model on [B, S] ids, with an optional low-rank adapter on the linear layers of some blocks."""

    def __init__(self, config, tensors, prefix=""):
        c = config
        self.L, self.H, self.D = c["num_hidden_layers"], c["num_attention_heads"], c["hidden_size"]
        self.K, self.eps, self.width = c["head_dim"], c["rms_norm_eps"], c["intermediate_size"]
        assert c["num_key_value_heads"] == self.H and c["tie_word_embeddings"]
        get = lambda name: tensors[prefix + name]
        self.embed, self.norm, self.blocks = get("model.embed_tokens.weight"), get("model.norm.weight"), []
        for l in range(self.L):
            w = lambda name: get("model.layers.%d.%s.weight" % (l, name))
            self.blocks.append({
                "norm1": w("input_layernorm"), "norm2": w("post_attention_layernorm"),
                "qkv": torch.cat([w("self_attn.%s_proj" % x) for x in "qkv"]), "o": w("self_attn.o_proj"),
                "gate_up": torch.cat([w("mlp.gate_proj"), w("mlp.up_proj")]), "down": w("mlp.down_proj"),
            })
        half = torch.arange(0, self.K, 2, dtype=torch.float64) / self.K
        angle = torch.outer(torch.arange(c["max_position_embeddings"], dtype=torch.float64), c["rope_theta"] ** -half)
        self.cos, self.sin = (f(torch.cat([angle, angle], -1)).float() for f in (torch.cos, torch.sin))
        self.adapter = None

    def add_adapter(self, tensors, prefix, scale):
        """A and B of the fused layers: A side by side, so that x A^T is one product for q, k and v."""
        self.scale, self.adapter = scale, []
        for l in range(self.L):
            def pair(names):
                a, b = ([tensors["%smodel.layers.%d.%s.lora_%s.weight" % (prefix, l, n, x)] for n in names] for x in "AB")
                return [torch.cat(a).requires_grad_(), [t.clone().requires_grad_() for t in b]]
            if "%smodel.layers.%d.self_attn.q_proj.lora_A.weight" % (prefix, l) not in tensors:
                self.adapter.append({})
                continue
            self.adapter.append({
                "qkv": pair(["self_attn.%s_proj" % x for x in "qkv"]), "o": pair(["self_attn.o_proj"]),
                "gate_up": pair(["mlp.gate_proj", "mlp.up_proj"]), "down": pair(["mlp.down_proj"]),
            })
        return [t for block in self.adapter for a, b in block.values() for t in [a] + b]

    def parameters(self):
        return [self.embed, self.norm] + [t for b in self.blocks for t in b.values()]

    def linear(self, l, name, x, adapter):
        y = F.linear(x, self.blocks[l][name])
        if not adapter or not self.adapter[l]:
            return y
        a, b = self.adapter[l][name]
        u = F.linear(x, a)
        if len(b) == 1:
            return y.add(F.linear(u, b[0]), alpha=self.scale)
        parts = u.split(u.shape[-1] // len(b), -1)
        return y.add(torch.cat([F.linear(p, w) for p, w in zip(parts, b)], -1), alpha=self.scale)

    def forward(self, ids, positions=None, mask=None, cache=None, at=0, adapter=False):
        """States [B, S, D]. Without a mask: causal. With a cache (list of [2, B, H, S', K] per block): the tokens take its
        places at .. at + S - 1."""
        B, S = ids.shape
        x = F.embedding(ids, self.embed)
        if positions is None:
            cos, sin = self.cos[at:at + S], self.sin[at:at + S]
        else:
            cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        for l, w in enumerate(self.blocks):
            qkv = self.linear(l, "qkv", rms_norm(x, w["norm1"], self.eps), adapter)
            qkv = qkv.view(B, S, 3 * self.H, self.K).transpose(1, 2)
            qk, v = qkv[:, :2 * self.H], qkv[:, 2 * self.H:]
            a, b = qk.chunk(2, -1)
            qk = qk * cos + torch.cat([-b, a], -1) * sin
            q, k = qk[:, :self.H], qk[:, self.H:]
            if cache is not None:
                cache[l][0, :, :, at:at + S], cache[l][1, :, :, at:at + S] = k, v
                k, v = cache[l][0, :, :, :at + S], cache[l][1, :, :, :at + S]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and S > 1)
            x = x + self.linear(l, "o", y.transpose(1, 2).reshape(B, S, self.D), adapter)
            gate, up = self.linear(l, "gate_up", rms_norm(x, w["norm2"], self.eps), adapter).chunk(2, -1)
            x = x + self.linear(l, "down", F.silu(gate) * up, adapter)
        return rms_norm(x, self.norm, self.eps)

    def new_cache(self, B, S):
        return [torch.zeros(2, B, self.H, S, self.K) for _ in range(self.L)]


def pack(prompts, responses):
    """Padded sequences, and of the response tokens: places in the flat [B S] states of what predicts them and of
    themselves, the tokens, and the answer they belong to."""
    ids = pad([p + r for p, r in zip(prompts, responses)])
    S = ids.shape[1]
    rows, targets, owner = [], [], []
    for i, (p, r) in enumerate(zip(prompts, responses)):
        rows.extend(range(i * S + len(p) - 1, i * S + len(p) + len(r) - 1))
        targets.extend(r)
        owner.extend([i] * len(r))
    rows = torch.tensor(rows)
    return ids, rows, rows + 1, torch.tensor(targets), torch.tensor(owner)


class Training:
    """Steps over batches in turn."""

    def __init__(self, d):
        self.batches, self.at = d.get("batches", [None]), 0
        if isinstance(self.batches[0], int):
            self.batches = [None]

    def check(self):
        return [self.once() for _ in range(3)]

    def once(self):
        batch = self.batches[self.at % len(self.batches)]
        self.at += 1
        loss = self.loss(batch)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.opt.step()
        return loss.item()

    def run(self, n):
        for _ in range(n):
            self.once()


class LanguageModel(Training):
    clip = True

    def __init__(self, d):
        super().__init__(d)
        self.model = Llama(d["config"], load(d["weights"]))
        self.parameters = [p.requires_grad_() for p in self.model.parameters()]
        self.opt = adamw(self.parameters, d["lr"], (0.9, 0.99))

    def loss(self, batch):
        ids, rows, _, targets, _ = pack(batch["prompts"], batch["responses"])
        hidden = self.model.forward(ids).flatten(0, 1)
        if rows.numel() < hidden.shape[0]:
            hidden = hidden.index_select(0, rows)
        return F.cross_entropy(F.linear(hidden, self.model.embed), targets)


def scores(model, head, prompts, responses):
    """Mean of the score head over the states of each answer's tokens."""
    ids, _, rows, _, owner = pack(prompts, responses)
    hidden = model.forward(ids).flatten(0, 1).index_select(0, rows)
    total = torch.zeros(len(prompts)).index_add(0, owner, F.linear(hidden, head).squeeze(-1))
    return total / torch.tensor([len(r) for r in responses])


class RewardModel(Training):
    clip = True

    def __init__(self, d):
        super().__init__(d)
        self.model = Llama(d["config"], load(d["weights"]))
        self.head = torch.zeros(1, self.model.D)
        self.parameters = [p.requires_grad_() for p in self.model.parameters() + [self.head]]
        self.opt = adamw(self.parameters, d["lr"], (0.9, 0.99))

    def loss(self, batch):
        s = scores(self.model, self.head, batch["prompts"], batch["responses"])
        chosen, rejected = torch.tensor(batch["chosen"]) - 1, torch.tensor(batch["rejected"]) - 1
        return -F.logsigmoid(s[chosen] - s[rejected]).mean()


class Mlp(Training):
    clip = False

    def __init__(self, d):
        super().__init__(d)
        tensors = load(d["weights"])
        layers, names = [], sorted(n for n in tensors if n not in ("x", "y", "one"))
        for weight, bias in zip(names[::2], names[1::2]):
            if layers:
                layers.append(torch.nn.ReLU())
            layer = torch.nn.Linear(tensors[weight].shape[1], tensors[weight].shape[0])
            layer.weight.data, layer.bias.data = tensors[weight], tensors[bias]
            layers.append(layer)
        self.net, self.x, self.y = torch.nn.Sequential(*layers), tensors["x"], tensors["y"]
        self.one = tensors["one"]
        self.opt = adamw(self.net.parameters(), d["lr"])

    def loss(self, _):
        return F.mse_loss(self.net(self.x), self.y)


class MlpForward(Mlp):
    @torch.inference_mode()
    def check(self):
        return self.net(self.one)[0].tolist()

    @torch.inference_mode()
    def run(self, n):
        for _ in range(n):
            self.net(self.one).tolist()


def left_padded(prompts, S, total):
    """ids [B, S] padded on the left, positions, and the additive mask over `total` places of which S are taken."""
    B = len(prompts)
    start = torch.tensor([S - len(p) for p in prompts])
    ids = torch.tensor([[0] * (S - len(p)) + p for p in prompts])
    positions = (torch.arange(S) - start[:, None]).clamp(min=0)
    key = torch.arange(total)
    hidden = key[None, :] < start[:, None]  # [B, total]
    future = key[None, :S] > torch.arange(S)[:, None]  # [S, S]
    block = torch.zeros(B, 1, S, S).masked_fill(hidden[:, None, None, :S] | future, -math.inf)
    block.masked_fill_((torch.arange(S)[None, :] < start[:, None])[:, None, :, None], 0.0)  # rows of padding: anything finite
    row = torch.zeros(B, 1, 1, total).masked_fill(hidden[:, None, None, :], -math.inf)
    return ids, positions, block, row, start


class Decode:
    def __init__(self, d):
        self.model = Llama(d["config"], load(d["weights"]))
        self.prompts, self.tokens = d["prompts"], d["tokens"]
        self.new = len(self.tokens[0])
        self.S = max(map(len, self.prompts))
        self.cache = self.model.new_cache(len(self.prompts), self.S + self.new)

    @torch.inference_mode()
    def generate(self, forced=None):
        """Greedy tokens, or the log-probabilities of given ones."""
        m, S, same = self.model, self.S, len({len(p) for p in self.prompts}) == 1
        if same:
            ids, positions, block, row = torch.tensor(self.prompts), None, None, None
        else:
            ids, positions, block, row, start = left_padded(self.prompts, S, S + self.new)
        hidden, out = m.forward(ids, positions, block, self.cache)[:, -1], []
        for t in range(self.new):
            logits = F.linear(hidden, m.embed)
            if forced is None:
                token = logits.argmax(-1, keepdim=True)
                out.append(token)
            else:
                token = forced[:, t:t + 1]
                out.append(F.log_softmax(logits, -1).gather(1, token))
            if t + 1 < self.new:
                if same:
                    hidden = m.forward(token, None, None, self.cache, S + t)[:, 0]
                else:
                    hidden = m.forward(token, (S + t - start)[:, None], row[..., :S + t + 1], self.cache, S + t)[:, 0]
        return torch.cat(out, 1)

    def check(self):
        return self.generate(torch.tensor(self.tokens)).flatten().tolist()

    def run(self, n):
        for _ in range(n):
            self.generate()


class Gemm:
    def __init__(self, d):
        tensors = load(d["weights"])
        self.a, self.b = tensors["a"], tensors["b"]
        self.c = torch.empty_like(self.a)

    def check(self):
        c = self.a @ self.b
        return [c[0, 0].item(), c[-1, -1].item(), c.square().mean().sqrt().item()]

    @torch.inference_mode()
    def run(self, n):
        for _ in range(n):
            torch.mm(self.a, self.b, out=self.c)


class Moc:
    """One iteration: answers under preferences, scores by two reward models, advantages, c by algorithm 2 of the paper per
    preference, four epochs of PPO with an exact KL. Texts need no tokenizer here: the ids are given."""

    def __init__(self, d):
        self.d, t = d, load(d["weights"])
        self.model, self.at = Llama(d["config"], t, "policy."), 0
        self.adapter = self.model.add_adapter(t, "policy.", d["alpha"] / d["rank"])
        self.heads = [[t["heads.v_head.%d.%s" % (j, n)].requires_grad_() for n in ("0.weight", "0.bias", "2.weight", "2.bias")]
                      for j in range(2)]
        self.rewards = [(Llama(d["config"], t, "reward%d." % j), t["reward%d.score.weight" % j]) for j in (1, 2)]
        self.parameters = self.adapter + [t for h in self.heads for t in h]
        self.opt = adamw(self.parameters, d["lr"])
        start = torch.tensor(d["start"], dtype=torch.float64)
        self.mean, self.square = start.mean(0), start.square().mean(0)
        self.group = [None] * d["n_grid"]
        self.beta = d["beta"]

    @torch.inference_mode()
    def answer(self, prompts):
        m, new, eos, B = self.model, self.d["new_tokens"], self.d["eos"], len(prompts)
        S = max(map(len, prompts))
        ids, positions, block, row, start = left_padded(prompts, S, S + new)
        cache = m.new_cache(B, S + new)
        hidden = m.forward(ids, positions, block, cache, adapter=True)[:, -1]
        done, tokens, logps = torch.zeros(B, dtype=torch.bool), [], []
        for t in range(new):
            logp = F.log_softmax(F.linear(hidden, m.embed), -1)
            token = torch.multinomial(logp.exp(), 1)
            tokens.append(token)
            logps.append(logp.gather(1, token))
            done |= token[:, 0] == eos
            if t + 1 == new or done.all():
                break
            hidden = m.forward(token, (S + t - start)[:, None], row[..., :S + t + 1], cache, S + t, adapter=True)[:, 0]
        tokens, logps = torch.cat(tokens, 1).tolist(), torch.cat(logps, 1)
        lengths = [row.index(eos) + 1 if eos in row else len(row) for row in tokens]
        keep = torch.arange(logps.shape[1])[None, :] < torch.tensor(lengths)[:, None]
        return [row[:n] for row, n in zip(tokens, lengths)], logps[keep]

    def values(self, hidden):
        return torch.cat([F.linear(F.relu(F.linear(hidden, a, b)), c, e) for a, b, c, e in self.heads], -1)

    def states(self, adapter):
        hidden = self.model.forward(self.ids, adapter=adapter).flatten(0, 1)
        return hidden.index_select(0, self.rows)

    def observe(self, raw, places):
        """R by running statistics (equation 18), and the running mean of each preference."""
        self.mean = 0.95 * self.mean + 0.05 * raw.mean(0)
        self.square = 0.95 * self.square + 0.05 * raw.square().mean(0)
        std = (self.square - self.mean.square()).clamp(min=1e-12).sqrt()
        R = (raw - self.mean) / (2 * std) + 0.5
        for g in set(places):
            now = R[[i for i, p in enumerate(places) if p == g]].mean(0)
            self.group[g - 1] = now if self.group[g - 1] is None else 0.8 * self.group[g - 1] + 0.2 * now
        return R.float()

    def solve(self, adv, prefs, places, owner):
        p = torch.tensor(prefs)
        b = torch.stack([self.group[g - 1] for g in places]).float() - p
        on = b.square().mean(1, keepdim=True) > 0.02
        minus_b = torch.where(on, -b, torch.zeros_like(b))
        v, w = (adv * p[owner]).sum(1), (adv * minus_b[owner]).sum(1)
        sums = torch.zeros(3, self.d["n_grid"] + 1).index_add(1, torch.tensor(places)[owner], torch.stack([v * v, v * w, w * w]))
        vv, vw, ww = sums
        c = ((ww - vw) / (vv + ww - 2 * vw).clamp(min=1e-20)).clamp(0, 1)
        violated = torch.zeros(self.d["n_grid"] + 1).index_add(0, torch.tensor(places), on[:, 0].float()) > 0
        c = torch.where(violated, c, torch.ones_like(c))[torch.tensor(places)][owner]
        weight = p[owner] * c[:, None] + minus_b[owner] * (1 - c[:, None])
        return (adv * weight).sum(1), c

    @torch.inference_mode()
    def prepare(self, responses, R, prefs, places):
        """Reference log-probabilities, advantages, returns, combined advantage and c."""
        hidden = self.states(False)
        self.ref = F.log_softmax(F.linear(hidden, self.model.embed), -1)
        if R is None:
            return
        lengths = [len(r) for r in responses]
        n, B = max(lengths), len(lengths)
        keep = torch.arange(n)[None, :] < torch.tensor(lengths)[:, None]
        values = torch.zeros(B, n + 1, 2)
        values[:, :n][keep] = self.values(self.states(True))
        reward = torch.zeros(B, n, 2)
        reward[torch.arange(B), torch.tensor(lengths) - 1] = R
        adv, last = torch.zeros(B, n, 2), torch.zeros(B, 2)
        for t in reversed(range(n)):
            delta = reward[:, t] + self.d["gamma"] * values[:, t + 1] - values[:, t]
            last = delta + self.d["gamma"] * self.d["lam"] * last
            last = last * keep[:, t, None]
            adv[:, t] = last
        returns = (adv + values[:, :n])[keep]
        adv = adv[keep]
        adv = adv - adv.mean(0, keepdim=True)
        combined, c = self.solve(adv, prefs, places, self.owner)
        return combined, returns, c

    def epoch(self, old, combined, returns, c):
        hidden = self.states(True)
        logp_all = F.log_softmax(F.linear(hidden, self.model.embed), -1)
        logp = logp_all.gather(1, self.targets[:, None])[:, 0]
        p = logp_all.exp()
        kl = (p * (logp_all - self.ref)).sum(-1)
        entropy = -(p.detach() * logp_all.detach()).sum(-1)
        ratio = (logp - old).exp()
        clipped = ratio.clamp(1 - self.d["clip"], 1 + self.d["clip"])
        surrogate = torch.maximum(-combined * ratio, -combined * clipped).mean()
        error = (self.values(hidden) - returns).square().mean()
        loss = surrogate + error * self.d["vf"] + (kl * c).mean() * self.beta
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.opt.step()
        return [surrogate.item(), error.item(), entropy.mean().item(), kl.sum().item() / len(self.ids), loss.item(), norm.item()]

    def once(self):
        draw = self.d["draws"][self.at % len(self.d["draws"])]
        self.at += 1
        times = [time.perf_counter()]
        responses, old = self.answer(draw["ids"])
        times.append(time.perf_counter())
        with torch.inference_mode():
            raw = torch.stack([scores(m, h, draw["plain_ids"], responses) for m, h in self.rewards], 1).double()
        R = self.observe(raw, draw["places"])
        times.append(time.perf_counter())
        self.ids, self.rows, _, self.targets, self.owner = pack(draw["ids"], responses)
        combined, returns, c = (t.clone() for t in self.prepare(responses, R, draw["prefs"], draw["places"]))
        self.ref, old = self.ref.clone(), old.clone()
        times.append(time.perf_counter())
        for _ in range(self.d["epochs"]):
            shown = self.epoch(old, combined, returns, c)
        times.append(time.perf_counter())
        for phase, a, b in zip(("rollout", "scoring", "advantages", "update"), times, times[1:]):
            self.phases[phase] = self.phases.get(phase, 0.0) + b - a
        self.beta *= 1 + min(max(shown[3] / 6 - 1, -0.2), 0.2) * len(responses) / 1200

    def check(self):
        """The first epoch's figures from mocl's answers, without keeping the step."""
        g, draw = self.d["given"], self.d["draws"][0]
        kept = [p.detach().clone() for p in self.parameters]
        self.ids, self.rows, _, self.targets, self.owner = pack(draw["ids"], g["tokens"])
        self.prepare(g["tokens"], None, None, None)
        self.ref = self.ref.clone()
        combined, returns, c, old = (torch.tensor(g[x]) for x in ("combined", "returns", "c", "old"))
        found = self.epoch(old, combined, returns, c)
        with torch.no_grad():
            for p, k in zip(self.parameters, kept):
                p.copy_(k)
        self.opt = adamw(self.parameters, self.d["lr"])
        with torch.inference_mode():
            s = scores(*self.rewards[0], draw["plain_ids"], g["tokens"])
        return found + [s.mean().item(), s[0].item()]

    def run(self, n):
        self.phases = {}
        for _ in range(n):
            self.once()


KINDS = {"language_model": LanguageModel, "reward_model": RewardModel, "mlp": Mlp, "mlp_forward": MlpForward, "decode": Decode,
         "gemm": Gemm, "moc": Moc}


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    torch.manual_seed(0)
    case = None
    blas = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS or another BLAS"
    print(json.dumps({"torch": torch.__version__, "python": sys.version.split()[0], "blas": blas}), flush=True)
    for line in sys.stdin:
        words = line.split(None, 1)
        if words[0] == "quit":
            break
        elif words[0] == "setup":
            with open(words[1].strip()) as f:
                d = json.load(f)
            case = KINDS[d["kind"]](d)
            print(json.dumps({"check": case.check()}), flush=True)
        elif words[0] == "run":
            start = time.perf_counter()
            case.run(int(words[1]))
            seconds = time.perf_counter() - start
            print(json.dumps({"seconds": seconds, "phases": getattr(case, "phases", {})}), flush=True)


main()
