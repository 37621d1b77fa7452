// Where keys and values lie: sub-pages of 16 tokens, each the right side of a product.
//
// A sub-page of keys is one panel, its columns the tokens. One of values is head_dim / 16 panels,
// its units the tokens. Knows no model and no cache.
#pragma once

#include <cstring>

#include "rows.hpp"

namespace fairslate {

constexpr int kSubPage = kPanel;

// The sub-pages of one run of tokens in one layer; `ids` is null where they lie one after another.
struct PageView {
  Unit* keys;
  Unit* values;
  const std::int32_t* ids;
  int per_page;  // sub-pages of a page
  int kv_heads;
  std::size_t units;  // of one sub-page of one head

  std::size_t offset(int sub_page, int head) const {
    const int place = sub_page / per_page;
    const std::size_t page = ids == nullptr ? place : ids[place];
    return ((page * kv_heads + head) * per_page + sub_page % per_page) * units;
  }
  Unit* key(int sub_page, int head) const { return keys + offset(sub_page, head); }
  Unit* value(int sub_page, int head) const { return values + offset(sub_page, head); }
};

template <class Kind>
void write_key(const float* key, int head_dim, int token, Unit* sub_page) {
  alignas(64) Unit units[512];
  pack(Kind{}, key, head_dim, units, nullptr);
  Unit* column = sub_page + token % kSubPage;
  for (int unit = 0; unit < head_dim / Kind::kValues; ++unit) column[unit * kPanel] = units[unit];
}

// The first token of a sub-page clears it: a weight of zero times what lay there must be zero.
template <class Kind>
void write_value(const float* value, int head_dim, int token, Unit* sub_page) {
  using Value = std::conditional_t<Kind::kValues == 1, std::int32_t, std::int16_t>;
  const int slot = token % kSubPage;
  if (slot == 0) std::memset(sub_page, 0, std::size_t(head_dim) * kSubPage * sizeof(Value));
  alignas(64) Unit packed[512];
  pack(Kind{}, value, head_dim, packed, nullptr);
  const Value* from = (const Value*)packed;
  Value* to = (Value*)(sub_page + slot / Kind::kValues * kPanel) + slot % Kind::kValues;
  for (int panel = 0; panel < head_dim / kPanel; ++panel, to += kSubPage * kPanel)
    for (int column = 0; column < kPanel; ++column)
      to[column * Kind::kValues] = from[panel * kPanel + column];
}

}  // namespace fairslate
