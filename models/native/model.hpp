// What a caller hands over: weights, pages and passes. Mirrored field by field in layout.py.
#pragma once

#include "products.hpp"

namespace fairslate {

// (outputs, inputs) packed in panels; widths padded by zeros, outputs to 32 and inputs to 16 values.
struct Linear {
  const Unit* panels;    // (outputs / 16, units, 16)
  const float* scales;   // (outputs) of int8 weights
  const Unit* starts;    // (outputs) -128 times the sum of each column of int8 weights
  const float* bias;     // (outputs) or null
  std::int32_t outputs;
  std::int32_t inputs;   // values
};

struct Layer {
  const float* input_norm;      // (hidden)
  const float* attention_norm;  // (hidden), after attention
  const float* q_norm;          // (head_dim) or null
  const float* k_norm;          // (head_dim) or null
  Linear qkv;                   // queries of all heads, keys, values
  Linear output;
  Linear gate_up;               // 16 of the gate, 16 of up, and so on
  Linear down;
};

// Widths are padded, see Linear; `true_` ones are the model's own.
struct Model {
  const Layer* layer;       // (layers)
  const void* embedding;    // (vocabulary, true_hidden), bf16 or fp32
  const float* cosines;     // (positions, true_head_dim), rotate-half convention
  const float* sines;       // likewise, the first half negated
  std::int32_t layers;
  std::int32_t hidden;
  std::int32_t true_hidden;
  std::int32_t intermediate;
  std::int32_t heads;
  std::int32_t kv_heads;
  std::int32_t head_dim;
  std::int32_t true_head_dim;
  std::int32_t embedding_is_bf16;
  float eps;
  const std::uint16_t* stored;  // (tokens behind the vocabulary, true_hidden), bf16, or null
  std::int32_t vocabulary;
};

// Keys and values of contexts: (layers, pages, kv_heads, page_size / 16) sub-pages of 16 tokens.
struct Pool {
  Unit* keys;
  Unit* values;
  std::int32_t pages;
  std::int32_t page_size;  // tokens, a multiple of 16
};

// Segments of tokens, one after another. A kept one is a part of a context and goes to its pages;
// the others are candidates: each sees `prefix` tokens of its pages, and itself.
struct Pass {
  const std::int32_t* token_ids;     // (tokens)
  const std::int32_t* starts;        // (segments + 1) first token of each segment
  const std::int32_t* prefixes;      // (segments)
  const std::int32_t* page_offsets;  // (segments) where its pages start in `page_ids`
  const std::int32_t* page_ids;
  std::int32_t kept;                 // segments, which come first
  std::int32_t segments;
  std::int32_t tile_rows;            // tokens that one thread takes through the layers at a time
  std::int32_t threads;
  float* hidden;                     // (segments - kept, true_hidden), out: last tokens
};

}  // namespace fairslate
