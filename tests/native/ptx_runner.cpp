// Runs an entry of translated PTX by its name, for tests/gpu/test_ptx.py.
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "ptx_entries.h"
#include "simt/executor.h"

namespace {

std::string message;

}  // namespace

extern "C" {

const char* last_message() { return message.c_str(); }

// Every parameter has 8 bytes.
int run_entry(const char* name, unsigned grid, unsigned block, int64_t shared, uint64_t* parameters,
              const char* drop) {
  simt::options.drop = drop;
  for (const ptx::Entry& entry : ptx::entries) {
    if (std::strcmp(entry.name, name) != 0) continue;
    std::vector<void*> pointers;
    for (size_t k = 0; k < entry.parameters.size(); ++k) pointers.push_back(parameters + k);
    try {
      simt::run(grid, block, shared, [&] { entry.run(pointers.data()); },
                {entry.threads, 0, entry.static_shared});
      return 0;
    } catch (const std::exception& error) {
      message = error.what();
      return 1;
    }
  }
  message = std::string("no entry ") + name;
  return 1;
}

}  // extern "C"
