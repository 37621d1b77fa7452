// The forward pass: contexts layer by layer with all threads, then candidates tile by tile, each
// thread taking its tile through all layers alone. Knows no cache policy and no Python.
#include "block.hpp"
#include "team.hpp"

namespace fairslate {

template <class Kind, class PageKind>
class Decoder {
 public:
  Decoder(const Model& model, const Pool& pool, const Pass& pass)
      : model_(model), pass_(pass), block_(model, pool, pass), team_(pass.threads),
        contexts_(context_tiles(pass)), candidates_(candidate_tiles(pass)),
        lasts_(row_tiles(pass.segments - pass.kept, pass.tile_rows, pass.threads)) {
    int rows = 0, items = 0;
    for (const auto* tiles : {&contexts_, &candidates_, &lasts_})
      for (const Tile& tile : *tiles) {
        rows = std::max(rows, tile.rows);
        items = std::max(items, int(tile.items.size()));
      }
    scratch_.resize(team_.size());
    for (Scratch& scratch : scratch_) block_.reserve(scratch, rows, items);
    wanted_.resize(team_.size());
    for (std::vector<Query>& wanted : wanted_) wanted.reserve(rows);
    const std::size_t scored = pass.segments - pass.kept, width = model.heads * model.head_dim;
    x_.resize(std::size_t(pass.starts[pass.segments]) * model.hidden);
    context_queries_.resize(pass.starts[pass.kept] * block_.query_units());
    last_x_.resize(scored * model.hidden);
    last_mixed_.resize(scored * width);
  }

  // All memory is there by now: a member that found none would leave the others waiting for it.
  void run() {
    team_.run([this](int member) noexcept {
      run_contexts(member);
      team_.meet();
      for (int tile; (tile = next_tile_++) < int(candidates_.size());)
        run_candidates(candidates_[tile], member);
      team_.meet();
      for (int tile; (tile = next_last_++) < int(lasts_.size());)
        finish_last(lasts_[tile], scratch_[member]);
    });
  }

 private:
  // Keys and values of a layer are there before anybody attends to them.
  void run_contexts(int member) {
    Scratch& scratch = scratch_[member];
    for (int layer = 0; layer < model_.layers && !contexts_.empty(); ++layer) {
      for (std::size_t i = member; i < contexts_.size(); i += team_.size()) {
        if (layer == 0) embed(contexts_[i]);
        block_.project(contexts_[i], layer, x(contexts_[i]), scratch, queries(contexts_[i]));
      }
      team_.meet();
      if (layer + 1 == model_.layers) break;
      for (std::size_t i = member; i < contexts_.size(); i += team_.size()) {
        const Tile& tile = contexts_[i];
        block_.mix(tile, layer, all_tokens(tile, member), scratch, queries(tile));
        block_.finish(layer, scratch.mixed.data(), x(tile), tile.rows, scratch);
      }
    }
  }

  void run_candidates(const Tile& tile, int member) {
    Scratch& scratch = scratch_[member];
    embed(tile);
    for (int layer = 0; layer < model_.layers; ++layer) {
      block_.project(tile, layer, x(tile), scratch, scratch.queries.data());
      const bool last = layer + 1 == model_.layers;
      block_.mix(tile, layer, last ? last_tokens(tile, member) : all_tokens(tile, member), scratch,
                 scratch.queries.data());
      if (last) keep_last(tile, scratch);
      else block_.finish(layer, scratch.mixed.data(), x(tile), tile.rows, scratch);
    }
  }

  // The last layer's products wait until all candidates are there: only one row of each is needed.
  void keep_last(const Tile& tile, const Scratch& scratch) {
    const std::size_t width = model_.heads * model_.head_dim, hidden = model_.hidden;
    for (std::size_t i = 0; i < tile.items.size(); ++i) {
      const Item& item = tile.items[i];
      const std::size_t to = item.segment - pass_.kept, from = item.first + item.count - 1;
      std::copy_n(scratch.mixed.data() + i * width, width, last_mixed_.data() + to * width);
      std::copy_n(x_.data() + from * hidden, hidden, last_x_.data() + to * hidden);
    }
  }

  void finish_last(const Tile& tile, Scratch& scratch) {
    const std::size_t width = model_.heads * model_.head_dim, hidden = model_.hidden;
    float* x = last_x_.data() + tile.first * hidden;
    block_.finish(model_.layers - 1, last_mixed_.data() + tile.first * width, x, tile.rows, scratch);
    for (int row = 0; row < tile.rows; ++row)
      std::copy_n(x + row * hidden, model_.true_hidden,
                  pass_.hidden + std::size_t(tile.first + row) * model_.true_hidden);
  }

  void embed(const Tile& tile) {
    for (int row = tile.first; row < tile.first + tile.rows; ++row) {
      float* to = x_.data() + std::size_t(row) * model_.hidden;
      const int token = pass_.token_ids[row], behind = token - model_.vocabulary;
      if (behind >= 0) copy_row(model_.stored, behind, to);
      else if (model_.embedding_is_bf16) copy_row((const std::uint16_t*)model_.embedding, token, to);
      else copy_row((const float*)model_.embedding, token, to);
    }
  }

  template <class Value>
  void copy_row(const Value* table, int row, float* to) const {
    const Value* from = table + std::size_t(row) * model_.true_hidden;
    for (int i = 0; i < model_.true_hidden; ++i) to[i] = widened(from[i]);
  }

  static float widened(float value) { return value; }

  static float widened(std::uint16_t value) {
    const std::uint32_t bits = std::uint32_t(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
  }

  const std::vector<Query>& all_tokens(const Tile& tile, int member) {
    std::vector<Query>& wanted = wanted_[member];
    wanted.clear();
    for (const Item& item : tile.items)
      for (int row = 0; row < item.count; ++row) wanted.push_back({&item, row});
    return wanted;
  }

  const std::vector<Query>& last_tokens(const Tile& tile, int member) {
    std::vector<Query>& wanted = wanted_[member];
    wanted.clear();
    for (const Item& item : tile.items) wanted.push_back({&item, item.count - 1});
    return wanted;
  }

  float* x(const Tile& tile) { return x_.data() + std::size_t(tile.first) * model_.hidden; }
  Unit* queries(const Tile& tile) { return context_queries_.data() + tile.first * block_.query_units(); }

  const Model& model_;
  const Pass& pass_;
  Block<Kind, PageKind> block_;
  Team team_;
  std::vector<Tile> contexts_, candidates_, lasts_;
  std::vector<Scratch> scratch_;
  std::vector<std::vector<Query>> wanted_;  // by member
  std::vector<float> x_, last_x_, last_mixed_;
  std::vector<Unit> context_queries_;
  std::atomic<int> next_tile_{0}, next_last_{0};
};

template <class Kind, class PageKind>
int run(const Model* model, const Pool* pool, const Pass* pass) {
  try {
    Decoder<Kind, PageKind>(*model, *pool, *pass).run();
    return 0;
  } catch (const std::exception&) {  // no memory, or no thread
    return 1;
  }
}

}  // namespace fairslate

using namespace fairslate;

// Return 0, or 1 where memory or threads were not to be had. Pages are bf16 where the name says so.
extern "C" {
int fairslate_fp32(const Model* model, const Pool* pool, const Pass* pass) {
  return run<Float32, Float32>(model, pool, pass);
}
int fairslate_int8_fp32(const Model* model, const Pool* pool, const Pass* pass) {
  return run<Int8, Float32>(model, pool, pass);
}
#ifdef __AVX512BF16__
int fairslate_bf16(const Model* model, const Pool* pool, const Pass* pass) {
  return run<BFloat16, BFloat16>(model, pool, pass);
}
int fairslate_int8_bf16(const Model* model, const Pool* pool, const Pass* pass) {
  return run<Int8, BFloat16>(model, pool, pass);
}
#endif
}
