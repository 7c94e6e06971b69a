"""Text encoders: see common.py. Run with the packages of tools/parity/requirements.txt."""

import torch
from common import run, write
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

TEXTS = [[2, 17, 5, 9, 30, 3], [2, 8, 3], [2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 3]]


def encode(texts, pooler=True):
    def forward(model):
        outputs = [model(input_ids=torch.tensor([t])) for t in texts]
        tokens = torch.cat([o.last_hidden_state[0] for o in outputs])
        if pooler and getattr(outputs[0], "pooler_output", None) is not None:
            return {"tokens": tokens, "pooled": torch.cat([o.pooler_output for o in outputs])}
        return {"tokens": tokens}

    return forward


def head(texts, per_token=False):
    def forward(model):
        outputs = [model(input_ids=torch.tensor([t])).logits for t in texts]
        return {"head": torch.cat([o[0] if per_token else o for o in outputs])}

    return forward


def case(name, model_class, config, forward, head=None, texts=TEXTS):
    written, tensors, result = run(model_class, config, "text", {"tokens": texts}, forward(texts), head)
    write(name, written, tensors, [result])


def small(cls, **more):
    base = {
        "vocab_size": 40,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "max_position_embeddings": 24,
    }
    return cls(**(base | more))


case("bert", BertModel, small(BertConfig), encode)
case("bert_relu_wide", BertModel, small(BertConfig, hidden_act="relu", num_attention_heads=1, layer_norm_eps=1e-5, intermediate_size=7), encode)
case("bert_no_pooler_masked_lm", BertForMaskedLM, small(BertConfig, hidden_act="gelu_new"), lambda t: head(t, True), "masked_lm")
case("bert_classifier", BertForSequenceClassification, small(BertConfig, num_labels=5), head, "classifier")
case("bert_token_classifier", BertForTokenClassification, small(BertConfig, num_labels=4), lambda t: head(t, True), "classifier")
case("roberta", RobertaModel, small(RobertaConfig, type_vocab_size=1, pad_token_id=1), encode)
case("roberta_classifier", RobertaForSequenceClassification, small(RobertaConfig, num_labels=3), head, "classifier")
case("roberta_masked_lm", RobertaForMaskedLM, small(RobertaConfig), lambda t: head(t, True), "masked_lm")
case("xlm_roberta", XLMRobertaModel, small(XLMRobertaConfig, type_vocab_size=1), encode)
distil = {"vocab_size": 40, "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 24}
case("distilbert", DistilBertModel, DistilBertConfig(**distil), encode)
case("distilbert_classifier", DistilBertForSequenceClassification, DistilBertConfig(**distil, activation="relu", num_labels=3), head, "classifier")
long = [list(range(2, 39)) * 5, [2, 8, 3]]
case("mpnet", MPNetModel, small(MPNetConfig), encode)
case("mpnet_far", MPNetModel, small(MPNetConfig, max_position_embeddings=200, num_hidden_layers=1, hidden_size=6), encode, texts=long)
case("albert", AlbertModel, small(AlbertConfig, embedding_size=8), encode)
case("albert_masked_lm", AlbertForMaskedLM, small(AlbertConfig, embedding_size=8, hidden_act="gelu_new"), lambda t: head(t, True), "masked_lm")
case("electra", ElectraModel, small(ElectraConfig, embedding_size=8), encode)
case("electra_classifier", ElectraForSequenceClassification, small(ElectraConfig, embedding_size=12, num_labels=3), head, "classifier")
