// Cuts a pass into tiles: the rows that one thread takes at a time. Knows no weights.
#pragma once

#include <algorithm>
#include <vector>

#include "model.hpp"
#include "pages.hpp"

namespace fairslate {

// Some rows of one segment.
struct Item {
  int segment;
  int first;   // row of the pass
  int count;
  int offset;  // rows of the segment before `first`
};

struct Tile {
  int first;
  int rows;
  std::vector<Item> items;

  void add(const Item& item) {
    if (items.empty()) first = item.first;
    items.push_back(item);
    rows += item.count;
  }
};

// Rows of a tile so that every thread gets as many tiles of at most `most` rows.
inline int even_rows(int rows, int most, int threads) {
  const int rounds = std::max(1, (rows + most * threads - 1) / (most * threads));
  return std::max(1, (rows + rounds * threads - 1) / (rounds * threads));
}

// Candidates stay whole.
inline std::vector<Tile> candidate_tiles(const Pass& pass) {
  const int rows = pass.starts[pass.segments] - pass.starts[pass.kept];
  const int target = even_rows(rows, pass.tile_rows, pass.threads);
  std::vector<Tile> tiles;
  for (int segment = pass.kept; segment < pass.segments; ++segment) {
    const int first = pass.starts[segment], count = pass.starts[segment + 1] - first;
    if (tiles.empty() || tiles.back().rows + count / 2 > target) tiles.push_back({});
    tiles.back().add({segment, first, count, 0});
  }
  return tiles;
}

// Context parts are cut where a sub-page ends, so that no two threads write to the same one.
inline std::vector<Tile> context_tiles(const Pass& pass) {
  const int target = std::max(kSubPage, even_rows(pass.starts[pass.kept], pass.tile_rows, pass.threads));
  std::vector<Tile> tiles;
  for (int segment = 0; segment < pass.kept; ++segment) {
    const int start = pass.starts[segment], stop = pass.starts[segment + 1];
    for (int row = start; row < stop;) {
      if (tiles.empty() || tiles.back().rows >= target) tiles.push_back({});
      const int position = pass.prefixes[segment] + row - start;
      const int end = (position + target - tiles.back().rows + kSubPage - 1) / kSubPage * kSubPage;
      const int count = std::min(stop - row, end - position);
      tiles.back().add({segment, row, count, row - start});
      row += count;
    }
  }
  return tiles;
}

// Rows of single tokens, `count` in all.
inline std::vector<Tile> row_tiles(int count, int most, int threads) {
  const int target = even_rows(count, most, threads);
  std::vector<Tile> tiles;
  for (int row = 0; row < count; row += target)
    tiles.push_back({row, std::min(target, count - row), {}});
  return tiles;
}

}  // namespace fairslate
