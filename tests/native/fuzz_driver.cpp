// Runs the fuzz target where there is no libFuzzer: all files of a folder, then so many mutations
// of them, or fewer if the seconds are over. usage: fuzz FOLDER MUTATIONS [SEED SECONDS]
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

Bytes current;

// What a failed property leaves behind, for the corpus.
void keep_input(int) {
  if (std::FILE* file = std::fopen("crash-input", "wb")) {
    std::fwrite(current.data(), 1, current.size(), file);
    std::fclose(file);
  }
}

void run(const Bytes& bytes) {
  current = bytes;
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

Bytes mutated(const std::vector<Bytes>& corpus, fuzz::Random& random) {
  Bytes bytes = corpus[random() % corpus.size()];
  for (uint64_t k = 1 + random() % 6; k > 0; --k) {
    const size_t at = bytes.empty() ? 0 : random() % bytes.size();
    switch (bytes.empty() ? 1 : random() % 4) {
      case 0:
        bytes[at] = static_cast<uint8_t>(random());
        break;
      case 1:
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                     static_cast<uint8_t>(random()));
        break;
      case 2:
        bytes[at] ^= static_cast<uint8_t>(1u << random() % 8);
        break;
      default: {
        const Bytes& other = corpus[random() % corpus.size()];
        if (!other.empty()) {
          const size_t from = random() % other.size();
          const size_t count = std::min({size_t{8}, other.size() - from, bytes.size() - at});
          std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from), count,
                      bytes.begin() + static_cast<std::ptrdiff_t>(at));
        }
      }
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 5) return 2;
  const long mutations = std::atol(argv[2]);
  fuzz::Random random{argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1};
  const std::chrono::seconds limit(argc > 4 ? std::atol(argv[4]) : 1 << 30);
  std::signal(SIGABRT, keep_input);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    if (entry.is_regular_file()) names.push_back(entry.path().string());
  }
  std::sort(names.begin(), names.end());
  std::vector<Bytes> corpus{{}};
  for (const std::string& name : names) {
    std::ifstream file(name, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    run(corpus.back());
  }
  const auto start = std::chrono::steady_clock::now();
  long done = 0;
  for (; done < mutations && std::chrono::steady_clock::now() - start < limit; ++done) {
    run(mutated(corpus, random));
  }
  std::printf("%zu inputs and %ld mutations\n", names.size(), done);
  return 0;
}
