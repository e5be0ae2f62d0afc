// Bytes -> a call of each function of tsloss.h, whose results are then compared with those of other
// paths, threads and instruction sets, and with fuzz_oracle.h. libFuzzer drives it, or
// fuzz_driver.cpp where there is none. Thresholds are meant to be low; see native_build.py.
#include "cpu/tuning.h"
#include "fuzz_targets.h"

namespace fuzz {
namespace {

template <class T>
void run(Input& in, int64_t target) {
  switch (target) {
    case 0:
    case 1:
    case 2:
      return forward_and_backward<T>(in);
    case 3:
      return backward_of_any_edges<T>(in);
    case 4:
      return keys_and_filter<T>(in);
    case 5:
      return matrices<T>(in);
    case 6:
      return loss<T>(in);
    case 7:
      return linkage(in);
    default:
      return shards<T>(in);
  }
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const int64_t target = in.below(10);
  if (in.flag()) {
    fuzz::run<double>(in, target);
  } else {
    fuzz::run<float>(in, target);
  }
  tsloss::overrides() = {};
  return 0;
}
