// One decoder layer over the rows of a tile, in two halves around attention's need of all keys.
//
// Knows neither threads nor in which order tiles come.
#pragma once

#include <memory>

#include "attention.hpp"
#include "linear.hpp"
#include "tiles.hpp"

namespace fairslate {

// What one thread works in, for tiles of at most `rows` rows.
struct Scratch {
  std::vector<float> wide;    // (rows, widest) results of a product
  std::vector<float> mixed;   // (rows, heads * head_dim) results of attention
  std::vector<Unit> packed;   // (rows, widest) left side of a product
  std::vector<float> scales;  // (rows)
  std::vector<float> normed;  // (hidden)
  std::vector<Unit> queries;  // (rows, heads * head_dim)
  std::vector<Unit> keys;     // sub-pages of the tile's candidates
  std::vector<Unit> values;
  std::unique_ptr<AttentionState> state{new AttentionState};
};

// A token whose attention is wanted.
struct Query {
  const Item* item;
  int row;  // within the item
};

template <class Kind, class PageKind>
class Block {
 public:
  Block(const Model& model, const Pool& pool, const Pass& pass)
      : model_(model), pool_(pool), pass_(pass) {}

  void reserve(Scratch& scratch, int rows, int items) const {
    const int queries = model_.heads * model_.head_dim;
    const int widest = std::max({model_.intermediate, model_.hidden, queries + key_width() * 2});
    const std::size_t sub_pages = rows / kSubPage + items;
    scratch.wide.resize(std::size_t(rows) * widest);
    scratch.mixed.resize(std::size_t(rows) * queries);
    scratch.packed.resize(std::size_t(rows) * widest / Kind::kValues);
    scratch.scales.resize(rows);
    scratch.normed.resize(model_.hidden);
    scratch.queries.resize(std::size_t(rows) * queries / PageKind::kValues);
    scratch.keys.resize(sub_pages * model_.kv_heads * page_units());
    scratch.values.resize(sub_pages * model_.kv_heads * page_units());
  }

  // x (rows of the tile, hidden): writes keys and values to their pages, and `queries`.
  void project(const Tile& tile, int layer, const float* x, Scratch& scratch, Unit* queries) const {
    const Layer& weights = model_.layer[layer];
    norm_rows(x, tile.rows, weights.input_norm, scratch);
    const std::size_t width = weights.qkv.outputs;
    apply<Kind>(weights.qkv, packed(scratch, model_.hidden), tile.rows,
                Store{scratch.wide.data(), width});
    for (const Item& item : tile.items)
      for (int row = 0; row < item.count; ++row)
        split(tile, item, row, layer, scratch.wide.data() + (item.first - tile.first + row) * width,
              scratch, queries);
  }

  // Attention of `wanted` tokens of the tile, row by row to scratch.mixed.
  void mix(const Tile& tile, int layer, const std::vector<Query>& wanted, Scratch& scratch,
           const Unit* queries) const {
    const int group = model_.heads / model_.kv_heads, most = std::max(1, kQueryRows / group);
    for (std::size_t first = 0, stop; first < wanted.size(); first = stop) {
      stop = first + 1;
      while (stop < wanted.size() && stop - first < std::size_t(most) &&
             shares_prefix(*wanted[first].item, *wanted[stop].item))
        ++stop;
      for (int head = 0; head < model_.kv_heads; ++head)
        mix_block(tile, layer, wanted.data() + first, int(stop - first), head, scratch, queries,
                  scratch.mixed.data() + first * model_.heads * model_.head_dim);
    }
  }

  // x += output(mixed); x += down(swiglu(norm(x))) of `rows` rows.
  void finish(int layer, const float* mixed, float* x, int rows, Scratch& scratch) const {
    const Layer& weights = model_.layer[layer];
    const std::size_t hidden = model_.hidden, queries = model_.heads * model_.head_dim;
    pack_rows(mixed, rows, queries, scratch);
    apply<Kind>(weights.output, packed(scratch, queries), rows, AddTo{x, hidden});
    norm_rows(x, rows, weights.attention_norm, scratch);
    const std::size_t width = weights.down.inputs;  // a pruned layer's is its own
    apply<Kind>(weights.gate_up, packed(scratch, hidden), rows,
                StoreSwiGlu{scratch.wide.data(), width});
    pack_rows(scratch.wide.data(), rows, width, scratch);
    apply<Kind>(weights.down, packed(scratch, width), rows, AddTo{x, hidden});
  }

  std::size_t query_units() const { return model_.heads * model_.head_dim / PageKind::kValues; }

 private:
  int key_width() const { return model_.kv_heads * model_.head_dim; }
  std::size_t page_units() const { return model_.head_dim * kSubPage / PageKind::kValues; }

  Rows packed(Scratch& scratch, std::size_t width) const {
    float* scales = std::is_same_v<Kind, Int8> ? scratch.scales.data() : nullptr;
    return {scratch.packed.data(), scales, width / Kind::kValues};
  }

  void pack_rows(const float* x, int rows, std::size_t width, Scratch& scratch) const {
    const Rows to = packed(scratch, width);
    for (int row = 0; row < rows; ++row)
      pack(Kind{}, x + row * width, width, to.row(row), scratch.scales.data() + row);
  }

  void norm_rows(const float* x, int rows, const float* weight, Scratch& scratch) const {
    const std::size_t width = model_.hidden;
    const Rows to = packed(scratch, width);
    float* normed = scratch.normed.data();
    for (int row = 0; row < rows; ++row) {
      rms_norm(x + row * width, weight, width, model_.true_hidden, model_.eps, normed);
      pack(Kind{}, normed, width, to.row(row), scratch.scales.data() + row);
    }
  }

  bool kept(const Item& item) const { return item.segment < pass_.kept; }

  PageView pool_pages(int layer, int segment) const {
    const int per_page = pool_.page_size / kSubPage;
    const std::size_t skipped = std::size_t(layer) * pool_.pages * model_.kv_heads * per_page;
    const std::size_t units = page_units();
    return {pool_.keys + skipped * units, pool_.values + skipped * units,
            pass_.page_ids + pass_.page_offsets[segment], per_page, model_.kv_heads, units};
  }

  // Where the item's own keys go: a context's to the pool, a candidate's to scratch.
  PageView own_pages(const Tile& tile, int layer, const Item& item, Scratch& scratch) const {
    if (kept(item)) return pool_pages(layer, item.segment);
    std::size_t before = 0;
    for (const Item* other = tile.items.data(); other != &item; ++other)
      before += (other->count + kSubPage - 1) / kSubPage;
    const std::size_t units = page_units(), skipped = before * model_.kv_heads * units;
    return {scratch.keys.data() + skipped, scratch.values.data() + skipped, nullptr, 1,
            model_.kv_heads, units};
  }

  // One token's row of the qkv product: norms, rotation, and each part to its place.
  void split(const Tile& tile, const Item& item, int row, int layer, float* qkv, Scratch& scratch,
             Unit* queries) const {
    const Layer& weights = model_.layer[layer];
    const int dim = model_.head_dim, offset = item.offset + row;
    const int position = pass_.prefixes[item.segment] + offset;
    const int token = kept(item) ? position : offset;
    const PageView pages = own_pages(tile, layer, item, scratch);
    const int sub_page = token / kSubPage;
    // Scores are powers of two: log2(e) is part of the queries' scale.
    const float scale = 1.44269504f / __builtin_sqrtf(float(model_.true_head_dim));
    const int group = model_.heads / model_.kv_heads, tile_row = item.first - tile.first + row;
    for (int head = 0; head < model_.heads; ++head, qkv += dim) {
      turn(qkv, weights.q_norm, position, scale);
      const std::size_t at = (std::size_t(head / group) * tile.rows + tile_row) * group + head % group;
      pack(PageKind{}, qkv, dim, queries + at * (dim / PageKind::kValues), nullptr);
    }
    for (int head = 0; head < model_.kv_heads; ++head, qkv += dim) {
      turn(qkv, weights.k_norm, position, 1.0f);
      write_key<PageKind>(qkv, dim, token, pages.key(sub_page, head));
    }
    for (int head = 0; head < model_.kv_heads; ++head, qkv += dim)
      write_value<PageKind>(qkv, dim, token, pages.value(sub_page, head));
  }

  // Norm, rotation and scale of one head in place.
  void turn(float* x, const float* norm, int position, float scale) const {
    const int dim = model_.true_head_dim, half = dim / 2;
    if (norm != nullptr) rms_norm(x, norm, model_.head_dim, dim, model_.eps, x);
    const float* cosines = model_.cosines + std::size_t(position) * dim;
    const float* sines = model_.sines + std::size_t(position) * dim;
    for (int i = 0; i < half; ++i) {
      const float left = x[i], right = x[half + i];
      x[i] = (left * cosines[i] + right * sines[i]) * scale;
      x[half + i] = (right * cosines[half + i] + left * sines[half + i]) * scale;
    }
  }

  bool shares_prefix(const Item& one, const Item& other) const {
    if (kept(one) || kept(other)) return &one == &other;
    return pass_.page_offsets[one.segment] == pass_.page_offsets[other.segment] &&
           pass_.prefixes[one.segment] == pass_.prefixes[other.segment];
  }

  void mix_block(const Tile& tile, int layer, const Query* wanted, int count, int head,
                 Scratch& scratch, const Unit* queries, float* to) const {
    const int group = model_.heads / model_.kv_heads, dim = model_.head_dim;
    const std::size_t units = dim / PageKind::kValues;
    alignas(64) Unit gathered[kQueryRows * kMaxHeadDim];
    const Unit* from = queries + std::size_t(head) * tile.rows * group * units;
    int seen[kQueryRows], own[kQueryRows];
    for (int i = 0; i < count; ++i) {
      const Item& item = *wanted[i].item;
      const int row = item.first - tile.first + wanted[i].row;
      std::memcpy(gathered + i * group * units, from + row * group * units,
                  group * units * sizeof(Unit));
      const int prefix = pass_.prefixes[item.segment];
      const int self = kept(item) ? item.offset + wanted[i].row + 1 : 0;
      std::fill_n(seen + i * group, group, prefix + self);
      std::fill_n(own + i * group, group, wanted[i].row + 1);
    }
    const Rows rows{gathered, nullptr, units};
    AttentionState& state = *scratch.state;
    state.start(count * group, dim);
    const int keys = *std::max_element(seen, seen + count * group);
    attend_all<PageKind>(state, rows, 0, count * group, dim, pool_pages(layer, wanted->item->segment),
                         head, keys, seen);
    for (int first = 0, stop; first < count && !kept(*wanted->item); first = stop) {
      const Item& item = *wanted[first].item;
      for (stop = first + 1; stop < count && wanted[stop].item == &item;) ++stop;
      attend_all<PageKind>(state, rows, first * group, (stop - first) * group, dim,
                           own_pages(tile, layer, item, scratch), head, wanted[stop - 1].row + 1,
                           own + first * group);
    }
    for (int row = 0; row < count * group; ++row) {
      const __m512 inverse = _mm512_set1_ps(1.0f / state.total[row]);
      float* place = to + (row / group) * model_.heads * dim + (head * group + row % group) * dim;
      for (int i = 0; i < dim; i += kLanes)
        _mm512_storeu_ps(place + i, _mm512_mul_ps(_mm512_loadu_ps(state.out + row * dim + i), inverse));
    }
  }

  const Model& model_;
  const Pool& pool_;
  const Pass& pass_;
};

}  // namespace fairslate
