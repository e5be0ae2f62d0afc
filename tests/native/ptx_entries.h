// The table of entries that tests/gpu/ptx.py writes.
#pragma once

#include <cstddef>
#include <vector>

namespace ptx {

struct Entry {
  const char* name;
  void (*run)(void** parameters);  // as a thread of a block
  unsigned threads;                // the most of a block
  size_t static_shared;
  std::vector<size_t> parameters;  // their sizes
};
extern const std::vector<Entry> entries;

}  // namespace ptx
