// Chooses the instruction set: the best that the processor has, or the one that TSLOSS_ISA names.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/kernels/kernels.h"
#include "cpu/tuning.h"
#include "tsloss.h"

namespace tsloss {
namespace {

struct Isa {
  const char* name;
  bool (*supported)();
  const KernelSet* kernels;
  const Coder* coder;  // for dimensions up to kByteDimension
};

#ifdef TSLOSS_X86
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// Best last.
const Isa kIsas[] = {
    {"baseline", [] { return true; }, &baseline::kKernels, &baseline::kKernels.coder},
#ifdef TSLOSS_X86
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     &avx2::kKernels, &avx2::kKernels.coder},
    {"avx512", has_avx512, &avx512::kKernels, &avx512::kKernels.coder},
    {"avx512_vnni", [] { return has_avx512() && __builtin_cpu_supports("avx512vnni"); },
     &avx512::kKernels, &avx512vnni::kByteCoder},
#endif
};

const Isa* find(const std::string& name) {
  std::string known;
  for (const Isa& isa : kIsas) {
    if (name == isa.name) {
      if (isa.supported()) return &isa;
      throw std::invalid_argument("the instruction set '" + name +
                                  "' (TSLOSS_ISA) is not supported by this processor; unset "
                                  "TSLOSS_ISA to take the best that is");
    }
    known += std::string(known.empty() ? "" : ", ") + isa.name;
  }
  throw std::invalid_argument("unknown instruction set '" + name +
                              "' (TSLOSS_ISA); expected one of " + known +
                              ", or TSLOSS_ISA unset to take the best");
}

const Isa* choose() {
  if (const char* wanted = std::getenv("TSLOSS_ISA"); wanted && *wanted) return find(wanted);
  const Isa* best = nullptr;
  for (const Isa& isa : kIsas) {
    if (isa.supported()) best = &isa;
  }
  return best;
}

std::atomic<const Isa*> chosen{nullptr};

const Isa* current() {
  const Isa* isa = chosen.load(std::memory_order_acquire);
  if (!isa) chosen.store(isa = choose(), std::memory_order_release);
  return isa;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return current()->kernels->of_float;
}
template <>
const Kernels<double>& kernels<double>() {
  return current()->kernels->of_double;
}

const Filter& filter() { return current()->kernels->filter; }
const LeafKernels& leaf_kernels() { return current()->kernels->leaves; }
const Coder& coder(int64_t dim) {
  return dim > kByteDimension ? current()->kernels->coder : *current()->coder;
}

const char* isa() { return current()->name; }

void set_isa(const char* name) { chosen.store(find(name), std::memory_order_release); }

std::vector<const char*> supported_isas() {
  std::vector<const char*> names;
  for (const Isa& isa : kIsas) {
    if (isa.supported()) names.push_back(isa.name);
  }
  return names;
}

}  // namespace tsloss
