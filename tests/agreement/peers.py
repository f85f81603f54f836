"""The other side of tests/agreement.lua: what transformers, PEFT, gguf-py and llama.cpp compute.

    python peers.py make DIR     tiny models with random weights, one directory for each family, and golden.json in each
    python peers.py gguf DIR     for each GGUF file that mocl has written there, FILE.json: transformers' logits from its weights as
                                 gguf-py dequantises them, and llama.cpp's from the file

torch, transformers, peft, gguf and xllamacpp, in the versions of REQUIREMENTS. One thread, f32, seeds fixed.
"""
import copy
import json
import os
import sys
import warnings

warnings.simplefilter("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"

REQUIREMENTS = ["torch==2.15.0", "transformers==5.24.0", "peft==0.21.2", "gguf==0.19.0", "xllamacpp==2026.10.11549", "numpy"]
TOKENS = [[1, 5, 17, 3, 60, 42, 8, 8, 33, 21, 50, 9], [1, 44, 7, 12, 30]]
GREEDY, STEPS, LR = 16, 10, 5e-3


def families():
    """name -> (model, what adapters are on)"""
    import torch
    import transformers as t
    common = dict(vocab_size=64, bos_token_id=1, eos_token_id=2, initializer_range=.2)
    size = dict(common, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=64)
    bert = dict(common, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
    gpt2 = dict(common, n_embd=32, n_layer=2, n_head=4, n_positions=64)

    def rope(theta=10000.0, **more):
        return dict({"rope_type": "default", "rope_theta": theta}, **more)
    llama3 = rope(500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    yarn = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    rows = {
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(**size, tie_word_embeddings=False, rope_parameters=rope(5e5))),
        "llama, tied head": (t.LlamaForCausalLM, t.LlamaConfig(**size, tie_word_embeddings=True, rope_parameters=rope())),
        "llama, rope llama3": (t.LlamaForCausalLM, t.LlamaConfig(**size, rope_parameters=llama3)),
        "llama, rope linear": (t.LlamaForCausalLM, t.LlamaConfig(**size, rope_parameters=rope(rope_type="linear", factor=4.0))),
        "llama, rope yarn": (t.LlamaForCausalLM, t.LlamaConfig(**size, rope_parameters=yarn)),
        "llama, biases": (t.LlamaForCausalLM, t.LlamaConfig(**size, attention_bias=True, mlp_bias=True, rope_parameters=rope())),
        "mistral": (t.MistralForCausalLM, t.MistralConfig(**size, sliding_window=None, rope_parameters=rope())),
        "mistral, window": (t.MistralForCausalLM, t.MistralConfig(**size, sliding_window=4, rope_parameters=rope())),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**size, rope_parameters=rope(1e6))),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**size, head_dim=16, rope_parameters=rope(1e6))),
        "smollm3": (t.SmolLM3ForCausalLM, t.SmolLM3Config(**size, pad_token_id=0, no_rope_layers=[1, 0], rope_parameters=rope(1e6))),
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config(**gpt2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)),
        "llama, classification": (t.LlamaForSequenceClassification, t.LlamaConfig(**size, num_labels=1, pad_token_id=0, rope_parameters=rope())),
        "gpt2, classification": (t.GPT2ForSequenceClassification, t.GPT2Config(**gpt2, num_labels=1, pad_token_id=0)),
        "bert, classification": (t.BertForSequenceClassification, t.BertConfig(**bert, num_labels=2, pad_token_id=0)),
        "distilbert, classification": (t.DistilBertForSequenceClassification, t.DistilBertConfig(
            vocab_size=64, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64, num_labels=2, initializer_range=.2)),
        "roberta, classification": (t.RobertaForSequenceClassification, t.RobertaConfig(**dict(bert, max_position_embeddings=66),
                                                                                       num_labels=2, pad_token_id=0)),
        "bart, classification": (t.BartForSequenceClassification, t.BartConfig(
            vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=2, encoder_ffn_dim=64,
            decoder_ffn_dim=48, max_position_embeddings=64, num_labels=1, init_std=.2, scale_embedding=True)),
        "bert, states": (t.BertModel, t.BertConfig(**bert, pad_token_id=0)),
    }
    for name, (cls, config) in rows.items():
        torch.manual_seed(11)
        m = cls(config)
        with torch.no_grad():
            for n, p in m.named_parameters():
                if n.endswith("bias"):
                    p.normal_(0, .2)
                if p.ndim == 1 and n.endswith("weight"):
                    p.normal_(1, .2)
        yield name, m.eval()


def tokens_of(model):
    """BART scores the state of an end, which the other rows have none of."""
    return [ids + [2] for ids in TOKENS] if model.config.model_type == "bart" else TOKENS


def logits(model):
    import torch
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].float().tolist() for ids in tokens_of(model)]


def states(model):
    import torch
    with torch.no_grad():
        return [model(torch.tensor([ids])).last_hidden_state[0].tolist() for ids in TOKENS]


def write_bert(model, directory):
    """GGUF files of an encoder under gguf's own names, as llama.cpp's converter writes them; the states on their weights."""
    import gguf
    import numpy as np
    import torch
    model = copy.deepcopy(model)
    c, out = model.config, {}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, c.num_hidden_layers)
    for kind in ("F32", "F16", "Q8_0"):
        w = gguf.GGUFWriter("%s/%s.bert.gguf" % (directory, kind), "bert")
        w.add_context_length(c.max_position_embeddings)
        w.add_embedding_length(c.hidden_size)
        w.add_block_count(c.num_hidden_layers)
        w.add_feed_forward_length(c.intermediate_size)
        w.add_head_count(c.num_attention_heads)
        w.add_layer_norm_eps(c.layer_norm_eps)
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.MEAN)
        w.add_token_type_count(c.type_vocab_size)
        w.add_tokenizer_model("none")
        for name, p in model.state_dict().items():
            theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if name.startswith("pooler.") or name.endswith("position_ids"):
                continue
            rounded = p.ndim == 2 and theirs not in ("position_embd.weight", "token_types.weight")
            q = gguf.GGMLQuantizationType[kind if rounded else "F32"]
            data = gguf.quants.quantize(p.numpy(), q)
            w.add_tensor(theirs, data, raw_dtype=q)
            with torch.no_grad():
                p.copy_(torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(data, q))))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        out[kind] = states(model)
    return out


def loss_of(model):
    """Mean over the tokens of both rows of the next one's surprise."""
    import torch
    total, n = 0, 0
    for ids in TOKENS:
        x = torch.tensor([ids])
        logp = model(x).logits[0, :-1].float().log_softmax(-1)
        total = total - logp.gather(1, x[0, 1:, None]).sum()
        n += len(ids) - 1
    return total / n


def train(base, directory):
    """An adapter, saved; its gradients; the losses of ten steps of AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model
    gpt2 = base.config.model_type == "gpt2"
    targets = ["c_attn", "c_proj", "c_fc"] if gpt2 else ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(12)
    p = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=gpt2))
    parameters = {n.replace(".default", ""): w for n, w in p.named_parameters() if w.requires_grad}
    with torch.no_grad():
        for w in parameters.values():
            w.normal_(0, .1)
    p.save_pretrained(directory)
    out = {"logits": logits(p), "losses": []}
    optimiser = torch.optim.AdamW(parameters.values(), lr=LR, weight_decay=0)
    for step in range(STEPS):
        loss = loss_of(p)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            out["gradients"] = {n: w.grad.flatten().tolist() for n, w in parameters.items()}
        out["losses"].append(loss.item())
        optimiser.step()
    return out


def make(out):
    import torch
    torch.set_num_threads(1)
    for i, (name, m) in enumerate(families()):
        d = os.path.join(out, "%02d" % i)
        os.makedirs(d, exist_ok=True)
        classifies = "classification" in name
        golden = {"name": name, "tokens": tokens_of(m), "classifies": classifies, "formats": {}}
        m.save_pretrained(d + "/F32")
        if name == "bert, states":
            golden["formats"]["F32"], golden["gguf"] = states(m), write_bert(m, d)
            json.dump(golden, open(d + "/golden.json", "w"))
            continue
        golden["formats"]["F32"] = logits(m)
        if not classifies:
            m.save_pretrained(d + "/sharded", max_shard_size="20KB")
            golden["formats"]["sharded"] = golden["formats"]["F32"]
            for kind, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16)):
                copy.deepcopy(m).to(dtype).save_pretrained(d + "/" + kind)
                # read anew: to() also rounds buffers such as the rotary frequencies, which no file holds
                golden["formats"][kind] = logits(type(m).from_pretrained(d + "/" + kind, dtype=torch.float32).eval())
            with torch.no_grad():
                golden["greedy"] = [m.generate(torch.tensor([ids]), max_new_tokens=GREEDY, do_sample=False, eos_token_id=-1,
                                               pad_token_id=0)[0, len(ids):].tolist() for ids in TOKENS]
            golden["adapter"] = train(m, d + "/adapter")
        json.dump(golden, open(d + "/golden.json", "w"))


def dequantised(path, base):
    """The model of the directory `base` with the weights of a GGUF file."""
    import gguf
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM
    m = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = {"model.embed_tokens.": "token_embd.", "model.norm.": "output_norm.", "lm_head.": "output.", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
             "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "model.layers.": "blk.",
             "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm", "transformer.h.": "blk.",
             "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "ln_1": "attn_norm",
             "ln_2": "ffn_norm"}
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    architecture = reader.get_field("general.architecture").contents()
    c = m.config
    with torch.no_grad():
        for n, p in m.named_parameters():
            name = n
            for a, b in names.items():
                name = name.replace(a, b)
            w = weights[name]
            if architecture == "llama" and name.split(".")[-2] in ("attn_q", "attn_k"):
                heads = c.num_attention_heads if "attn_q" in name else c.num_key_value_heads
                w = w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
            if architecture == "gpt2" and w.ndim == 2 and "blk." in name:
                w = w.T
            p.copy_(torch.tensor(np.ascontiguousarray(w)))
    return m.eval()


def read_back(out):
    import torch
    import llama_cpp
    torch.set_num_threads(1)
    for d in sorted(os.listdir(out)):
        d = os.path.join(out, d)
        for f in sorted(os.listdir(d)) if os.path.isdir(d) else []:
            path = os.path.join(d, f)
            if not f.endswith(".gguf") or f.endswith(".bert.gguf"):
                continue
            if f == "adapter.gguf":
                m = llama_cpp.Model(d + "/F32.gguf", [(path, 1.0)])
                json.dump({"llama_cpp": [m.logits(ids).tolist() for ids in TOKENS]}, open(path + ".json", "w"))
                continue
            m = llama_cpp.Model(path)
            json.dump({"transformers": logits(dequantised(path, d + "/F32")), "llama_cpp": [m.logits(ids).tolist() for ids in TOKENS]},
                      open(path + ".json", "w"))


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[1] == "make":
        make(sys.argv[2])
    elif sys.argv[1] == "gguf":
        read_back(sys.argv[2])
    else:
        sys.exit(__doc__)
