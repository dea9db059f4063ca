#include "worker/model/model_config_fields.h"

#include <algorithm>
#include <array>

namespace quire {
namespace {

// Fields of transformers' PreTrainedConfig and of relatives of these architectures (Granite,
// Cohere, Gemma, Llama 4) that a checkpoint labelled "llama" may carry.
constexpr NeutralField kNeutralConfig[] = {
    {"attention_chunk_size", "0"},
    {"attention_multiplier", "1|1.0"},
    {"attn_logit_softcapping", ""},
    {"clip_qkv", ""},
    {"embedding_multiplier", "1|1.0"},
    {"final_logit_softcapping", ""},
    {"is_encoder_decoder", "false"},
    {"add_cross_attention", "false"},
    {"layer_scale", "1|1.0"},
    {"logit_scale", "1|1.0"},
    {"logits_scaling", "1|1.0"},
    {"lm_head_bias", "false"},
    {"no_rope_layers", "[]"},
    {"parallel_residual", "false"},
    {"partial_rotary_factor", "1|1.0"},
    {"per_layer_config", "{}"},
    {"pruned_heads", "{}"},
    {"quantization_config", ""},
    {"residual_multiplier", "1|1.0"},
    {"use_mrope", "false"},
    {"use_parallel_residual", "false"},
    {"use_qk_norm", "false"},
};

// Sorted. Training, output format, implementation choice, provenance; and the generation settings
// that transformers 5 drops when it finds them in config.json.
constexpr std::string_view kIgnoredConfig[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "begin_suppress_tokens",
    "bad_words_ids",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_factor",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_window_layers",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
};

constexpr NeutralField kNeutralGeneration[] = {
    {"bad_words_ids", "[]"},
    {"begin_suppress_tokens", "[]"},
    {"constraints", "[]"},
    {"diversity_penalty", "0|0.0"},
    {"dola_layers", ""},
    {"encoder_no_repeat_ngram_size", "0"},
    {"encoder_repetition_penalty", "1|1.0"},
    {"epsilon_cutoff", "0|0.0"},
    {"eta_cutoff", "0|0.0"},
    {"exponential_decay_length_penalty", ""},
    {"force_words_ids", "[]"},
    {"forced_bos_token_id", ""},
    {"forced_eos_token_id", ""},
    {"guidance_scale", "1|1.0"},
    {"min_length", "0"},
    {"no_repeat_ngram_size", "0"},
    {"num_beam_groups", "1"},
    {"num_beams", "1"},
    {"penalty_alpha", "0|0.0"},
    {"sequence_bias", "[]|{}"},
    {"stop_strings", "[]"},
    {"suppress_tokens", "[]"},
    {"token_healing", "false"},
    {"top_h", ""},
    {"typical_p", "1|1.0"},
    {"watermarking_config", ""},
};

constexpr std::string_view kIgnoredGeneration[] = {
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "chat_format",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_length",
    "max_matching_ngram_size",
    "max_time",
    "max_window_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
    "use_mtp",
};

template <size_t N>
bool Holds(const std::string_view (&list)[N], std::string_view key) {
  return std::find(std::begin(list), std::end(list), key) != std::end(list);
}

}  // namespace

std::span<const NeutralField> NeutralConfigFields() { return kNeutralConfig; }
bool IsIgnoredConfigField(std::string_view key) { return Holds(kIgnoredConfig, key); }
std::span<const NeutralField> NeutralGenerationFields() { return kNeutralGeneration; }
bool IsIgnoredGenerationField(std::string_view key) { return Holds(kIgnoredGeneration, key); }

}  // namespace quire
